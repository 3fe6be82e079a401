"""One pass with several taps: FLOP and time that unrequested outputs save.

For a contract at its real size with random weights (or for a model), one camera frame:

    tokens             only the contract's taps; later blocks do not run
    tokens + objects   the same pass up to the last blocks, which the grounding reads
    two passes         a pass for tokens and one for objects, as two nodes would do

PyTorch counts the FLOP (of plain attention: it cannot count a CPU's fused one). Times are medians
of interleaved runs; ratios are to the first row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from siglip_perception import contracts
from siglip_perception.backends import choose
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.images.preprocess import Preprocessor
from siglip_perception.parity.random_weights import write_random
from siglip_perception.util.flops import count as flops_of
from siglip_perception.util.threads import spin_briefly

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """gflop: per frame. ms: median. The ratios are to tokens alone."""

    contract: str
    precision: str
    outputs: str
    gflop: float
    flop_ratio: float
    ms: float
    time_ratio: float


def encoders(model: str, contract: str, precision: str) -> tuple[Encoders, Preprocessor, str]:
    """Load the contract's encoders, with the grounding on the same ones."""
    plan = ModelPlan.load(ModelSelection(model, contract))
    dino, siglip = plan.contract.spatial, plan.contract.siglip
    reads = {"dino": dino.name, "siglip": siglip.name} if dino and siglip else {}
    if not reads:
        raise SystemExit(f"The contract {plan.contract.name} has no pair to ground with.")
    fused = Encoders(plan.contract, plan.towers, plan.token_towers, reads)
    fused.prepare(CPU, choose("torch", "cpu", precision).dtype)
    return fused, Preprocessor(fused.inputs, CPU), plan.contract.name


def measure(
    encoders: Encoders, preprocess: Preprocessor, name: str, args: argparse.Namespace
) -> list[Row]:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    inputs = preprocess([image])

    def run_two_passes() -> None:
        encoders(inputs, with_tokens=True, grounding_rows=[])
        encoders(inputs, with_tokens=False, grounding_rows=[0])

    ways: dict[str, Callable[[], object]] = {
        "tokens": lambda: encoders(inputs, with_tokens=True, grounding_rows=[]),
        "tokens + objects": lambda: encoders(inputs, with_tokens=True, grounding_rows=[0]),
        "two passes": run_two_passes,
    }
    flops = {way: flops_of(job) for way, job in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.runs):
        for way, job in ways.items():
            start = time.perf_counter()
            job()
            times[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(seconds) for way, seconds in times.items()}
    return [
        Row(
            name,
            args.precision,
            way,
            flops[way] / 1e9,
            flops[way] / flops["tokens"],
            medians[way] * 1000,
            medians[way] / medians["tokens"],
        )
        for way in ways
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contract", default="", help="random weights at its real size")
    parser.add_argument("--model", default="tabletop", help="used where no --contract is given")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args, _ = parser.parse_known_args()
    spin_briefly()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if args.contract:
            write_random(contracts.get(args.contract), Path(folder), 0)
            model = folder
        fused, preprocess, name = encoders(model, args.contract, args.precision)
    rows = measure(fused, preprocess, name, args)
    print(f"{rows[0].contract}, {rows[0].precision}, {torch.get_num_threads()} threads")
    print("| outputs | GFLOP | ratio | ms | ratio |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.outputs} | {row.gflop:.2f} | {row.flop_ratio:.3f}"
            f" | {row.ms:.1f} | {row.time_ratio:.3f} |"
        )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
