"""Time of the grounding (regions, scores, boxes, masks) compared with the encoders' pass.

Runs the embedded model, and a contract at its real size. The latter has random weights, whose
features mean nothing, so its grounding gets the embedded model's features of the same scene,
rotated to the contract's width and grid: it has as many regions to score and to draw. Times are
medians of interleaved runs, in milliseconds:

    encode    both towers, tokens and the last blocks for the grounding
    ground    regions, their scores against four phrases, and the boxes and masks of what is found
    share     of the encoders' time
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from siglip_perception.config import ModelSelection
from siglip_perception.util.threads import spin_briefly

spin_briefly()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import SiglipConfig  # noqa: E402

from siglip_perception import contracts  # noqa: E402
from siglip_perception.backends import choose, without_bf16  # noqa: E402
from siglip_perception.checkpoints.networks import Siglip  # noqa: E402
from siglip_perception.contracts import Contract, EncoderSpec  # noqa: E402
from siglip_perception.encoders.encoders import Encoders, TextEncoder  # noqa: E402
from siglip_perception.encoders.null_bank import load_bank  # noqa: E402
from siglip_perception.encoders.plan import ModelPlan  # noqa: E402
from siglip_perception.grounding.grounder import Grounder  # noqa: E402
from siglip_perception.grounding.objects import select_objects  # noqa: E402
from siglip_perception.grounding.scores import Scores  # noqa: E402
from siglip_perception.images.preprocess import Preprocessor  # noqa: E402
from siglip_perception.parity.random_weights import write_random  # noqa: E402
from siglip_perception.scenes.scenes import render, sample_scene  # noqa: E402
from siglip_perception.types import Role, UInt8Array  # noqa: E402

WARM_UP = 3
MLP_WIDTHS = {1152: 4304}  # So400m's MLP; of the others it is four times as wide


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds. regions: in the frame. masks: objects with a mask."""

    contract: str
    precision: str
    regions: int
    masks: int
    encode: float
    ground: float
    share: float


@dataclass(frozen=True)
class EncodedFrame:
    """A model with a frame. encode: returns SigLIP's and DINO's last patches, [N, D] each."""

    contract: Contract
    siglip: Siglip
    encode: Callable[[], tuple[Tensor, Tensor]]


def load(
    model: str, name: str, device: torch.device, precision: str, image: UInt8Array
) -> tuple[ModelPlan, EncodedFrame]:
    plan = ModelPlan.load(ModelSelection(model, name))
    spatial, semantic = plan.contract.spatial, plan.contract.siglip
    if spatial is None or semantic is None:
        raise SystemExit(f"The contract {plan.contract.name} has no pair to ground with.")
    siglip = plan.grounding_model.siglip if plan.grounding_model else random_siglip(semantic)
    reads = {"dino": spatial.name, "siglip": semantic.name}
    encoders = Encoders(plan.contract, plan.towers, plan.token_towers, reads)
    encoders.prepare(device, choose("torch", device.type, precision).dtype)
    inputs = Preprocessor(encoders.inputs, device)([image])

    def encode() -> tuple[Tensor, Tensor]:
        features = encoders(inputs, with_tokens=True, grounding_rows=[0])
        assert features.siglip is not None
        assert features.dino is not None
        return features.siglip[0], features.dino[0]

    return plan, EncodedFrame(plan.contract, siglip.to(device).eval(), encode)


def random_siglip(spec: EncoderSpec) -> Siglip:
    """Make a pooling head of that encoder's size, on a one-block encoder that never runs."""
    vision = {
        "hidden_size": spec.dim,
        "intermediate_size": MLP_WIDTHS.get(spec.dim, 4 * spec.dim),
        "num_attention_heads": spec.dim // 72,
        "num_hidden_layers": 1,
    }
    text = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "vocab_size": 8}
    text |= {"num_hidden_layers": 1, "projection_size": spec.dim}
    model = Siglip(SiglipConfig(text_config=text, vision_config=vision))
    nn.init.normal_(model.vision_model.head.probe)
    model.requires_grad_(False)
    return model


def rotate(features: Tensor, grid: int, dim: int) -> Tensor:
    """Map features [n * n, d] to [grid * grid, dim] with the same cosines between neighbors."""
    side = round(len(features) ** 0.5)
    cells = features.T.reshape(1, -1, side, side)
    resized = functional.interpolate(cells, size=(grid, grid), mode="nearest")[0].flatten(1).T
    basis, _ = torch.linalg.qr(torch.randn(dim, features.shape[1], device=features.device))
    rotated: Tensor = resized @ basis.T
    return rotated


def scene(seed: int) -> tuple[UInt8Array, list[str]]:
    layout = sample_scene(np.random.default_rng(seed), 4)
    phrases = [item.phrase("en") for item in layout.objects]
    return np.ascontiguousarray(render(layout).image), phrases


def time_in_turn(
    jobs: dict[str, Callable[[], object]], runs: int, device: torch.device
) -> list[float]:
    """Measure the jobs in turn; return their medians in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(runs + WARM_UP):
        for name, job in jobs.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return [statistics.median(seconds) * 1000 for seconds in times.values()]


def measure(contract: str, precision: str, args: argparse.Namespace) -> Row:
    """Measure one row: the contract, or the embedded model for an empty name."""
    device = choose("torch", args.device, precision).device
    torch.manual_seed(0)
    image, phrases = scene(args.seed)
    phrases = phrases[: args.phrases]
    plan, tabletop = load("tabletop", "", device, "fp32", image)
    sight = plan.grounding_model
    assert sight is not None
    siglip, dino = tabletop.encode()
    text = TextEncoder(sight.siglip, sight.tokenizer, device)
    bank = load_bank(text, sight.settings.templates, sight.folder, sight.text_digest)
    embeddings, _ = text(tuple(phrases))
    tabletop_scores = Grounder(sight.siglip, (sight.grid, sight.grid), sight.settings, bank).score(
        siglip, dino, embeddings
    )
    with tempfile.TemporaryDirectory() as folder:
        if contract:
            write_random(contracts.get(contract), Path(folder), 0)
        _, encoded = load(folder if contract else "tabletop", contract, device, precision, image)
    rows = encoded.contract.rows
    if contract:
        spatial, semantic = encoded.contract.spatial, encoded.contract.siglip
        assert spatial is not None
        assert semantic is not None
        siglip = rotate(siglip, rows, semantic.dim)
        dino = rotate(dino, rows, spatial.dim)
        embeddings = functional.normalize(
            torch.randn(len(phrases), semantic.dim, device=device), dim=-1
        )
        bank = {x: torch.randn(len(b), semantic.dim, device=device) for x, b in bank.items()}
    grid = rows, rows
    # Random weights find nothing sensible, so the embedded model's regions are drawn.
    dtype = choose("torch", args.device, precision).dtype
    grounder = Grounder(encoded.siglip, grid, sight.settings, bank, dtype)
    geometry = sight.resize.geometry(image.shape[1], image.shape[0])
    roles = (Role.UNKNOWN,) * len(phrases)

    def draw(scores: Scores) -> int:
        patch = sight.patch
        return len(
            select_objects(scores, tuple(phrases), roles, geometry, patch, 0.5, 20, image)[0]
        )

    def find() -> int:
        grounder.score(siglip, dino, embeddings)
        return draw(tabletop_scores)

    encode, ground = time_in_turn({"encode": encoded.encode, "ground": find}, args.runs, device)
    return Row(
        encoded.contract.name,
        precision,
        len(grounder.score(siglip, dino, embeddings).maps),
        draw(tabletop_scores),
        encode,
        ground,
        ground / encode,
    )


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| contract | precision | regions | drawn | encode | ground | share |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.contract} | {row.precision} | {row.regions} | {row.masks} | {row.encode:.1f}"
        f" | {row.ground:.1f} | {row.share:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contract", default="openvla-224", help="of the second size")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--phrases", type=int, default=4, help="of up to four, all in view")
    parser.add_argument("--seed", type=int, default=12, help="of the scene, of four objects")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    options, _ = parser.parse_known_args()
    rows = []
    device = choose("torch", options.device, "fp32").device
    why_not = without_bf16(device)
    if why_not:
        print(f"bf16 is left out: {why_not}")
    for contract in ("", options.contract):
        for precision in ("fp32",) if why_not else ("fp32", "bf16"):
            rows.append(measure(contract, precision, options))
            print(f"{rows[-1].contract} {precision}: measured", file=sys.stderr)
    print(f"Milliseconds, medians of {options.runs}; {device}, {torch.get_num_threads()} threads")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
