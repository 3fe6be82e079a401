"""`siglip-perception bench`: this project beside transformers' eager models and timm.

Each candidate is a process of its own. It runs in turn with transformers' eager float32 models,
pass by pass, so that what disturbs the machine disturbs both, and its ratio is the median of the
ratios of neighbouring passes. Weights are random at real size, but for tabletop: they prove that
the tokens are the same, and nothing about how good they are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siglip_perception.errors import PerceptionError
from siglip_perception.files import write_atomically

BASE = Path(__file__).with_name("base.yaml")
# Size -> contract; an empty one is the embedded model's own.
SIZES = {"tabletop": "", "base": str(BASE), "openvla": "openvla-224"}
BASELINE = "transformers fp32"
ON_CPU = (
    "transformers bf16",
    "timm fp32",
    "torch fp32",
    "torch bf16",
    "openvino fp32",
    "openvino bf16",
    "openvino int8",
)
ON_GPU = ("transformers bf16", "timm fp32", "torch bf16", "tensorrt bf16")
_FEWEST, _MOST = 5, 200


@dataclass(frozen=True)
class Row:
    """One candidate at one size and batch.

    p50_ms, p99_ms: of a pass over the batch. ratio_to_transformers_eager: how many times as fast
    as transformers' eager float32 models. matrix_share: arithmetic done a second, as a share of
    this machine's own 2048 x 2048 product in the same precision (bf16's for int8).
    min_token_cosine, max_error: tokens against transformers' float32; the error as a share of
    their RMS. peak_mib: of the process, loading included; of the GPU's memory on a GPU.
    """

    size: str
    batch: int
    backend: str
    precision: str
    p50_ms: float
    p99_ms: float
    images_per_second: float
    ratio_to_transformers_eager: float
    matrix_share: float
    min_token_cosine: float
    max_error: float
    peak_mib: float
    passes: int
    says: str


class Child:
    """A candidate's process; PerceptionError with its reason where it cannot run."""

    def __init__(self, name: str, model: str, contract: str, device: str, cache: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "siglip_perception.benchmark.child"]
        self._process = subprocess.Popen(
            [*command, name, model, contract, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"XDG_CACHE_HOME": cache},
        )
        ready = self._answer()
        if "error" in ready:
            self.close()
            raise PerceptionError(str(ready["error"]))

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PerceptionError(
                f"the process of {self.name} ended (exit code {self._process.wait()})"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def started(name: str, model: str, contract: str, device: str, cache: str) -> Iterator[Child]:
    child = Child(name, model, contract, device, cache)
    try:
        yield child
    finally:
        child.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception bench`."""
    parser.add_argument("--size", choices=tuple(SIZES), action="append", default=None)
    parser.add_argument("--batch", type=int, action="append", default=None, metavar="N")
    parser.add_argument(
        "--backend",
        action="append",
        default=None,
        metavar="NAME",
        help=f"candidates (default: all of {', '.join(ON_CPU)})",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="for each pair of candidates (default: 15)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write it where that is asked for."""
    device = _device(args.device)
    hardware = describe(device)
    names = args.backend or (ON_GPU if device == "cuda" else ON_CPU)
    rows: list[Row] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench.") as work:
        for size in args.size or SIZES:
            model = _model(size, Path(work))
            for row in _measured(size, model, names, args, device, Path(work), left_out):
                rows.append(row)
                print(
                    f"{row.size}, batch {row.batch}, {row.backend} {row.precision}:"
                    f" {row.p50_ms:.1f} ms, {row.ratio_to_transformers_eager:.2f} x",
                    file=sys.stderr,
                    flush=True,
                )
    text = markdown(rows, hardware, left_out)
    print(text)
    if args.markdown:
        write_atomically(args.markdown, (text + "\n").encode())
    if args.json:
        content = {"hardware": hardware, "rows": [asdict(row) for row in rows]}
        write_atomically(args.json, (json.dumps(content, indent=2) + "\n").encode())
    return 0 if rows else 1


def _device(name: str) -> str:
    from siglip_perception.backends import choose

    return choose("torch", name, "fp32").device.type


def describe(device: str) -> dict[str, str]:
    """The hardware and the libraries that a table is of."""
    import torch
    import transformers

    from siglip_perception import cpu

    found = {
        "cpu": f"{cpu.name()}, {torch.get_num_threads()} threads",
        "bf16 unit": cpu.bf16_unit() or "none",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _model(size: str, work: Path) -> str:
    """The folder or name of the size's model; random weights are written once."""
    if not SIZES[size]:
        return size
    from siglip_perception import contracts
    from siglip_perception.parity.random_weights import write_random

    folder = work / size
    print(f"{size}: writing random weights at real size", file=sys.stderr, flush=True)
    write_random(contracts.get(SIZES[size]), folder, 0)
    return str(folder)


def _measured(
    size: str,
    model: str,
    names: list[str] | tuple[str, ...],
    args: argparse.Namespace,
    device: str,
    work: Path,
    left_out: list[str],
) -> Iterator[Row]:
    """A row a candidate and batch, the baseline's own first."""
    given = (model, SIZES[size], device, str(work / "cache"))
    with started(BASELINE, *given) as baseline:
        wanted = work / "wanted.npy"
        facts = baseline.ask({"tokens": str(wanted)})
        for batch in args.batch or (1, 4):
            yield _row(size, batch, baseline, None, facts, work, args.seconds / 3, facts["gflop"])
        for name in names:
            try:
                with started(name, *given) as child:
                    facts_of = child.ask({"tokens": str(work / "found.npy")})
                    for batch in args.batch or (1, 4):
                        yield _row(
                            size,
                            batch,
                            baseline,
                            child,
                            facts_of,
                            work,
                            args.seconds,
                            facts["gflop"],
                        )
            except PerceptionError as error:
                left_out.append(f"{name} at {size} size: {error}")


def _row(
    size: str,
    batch: int,
    baseline: Child,
    child: Child | None,
    facts: Mapping[str, Any],
    work: Path,
    seconds: float,
    gflop: float,
) -> Row:
    library, precision = (child or baseline).name.split()
    dtype = "float32" if precision == "fp32" else "bfloat16"
    own: list[float] = []
    ratios: list[float] = []
    rates: list[float] = []
    until = time.monotonic() + seconds
    while len(own) < _FEWEST or (len(own) < _MOST and time.monotonic() < until):
        first = baseline.ask({"pass": batch})["ms"]
        took = child.ask({"pass": batch})["ms"] if child else first
        own.append(took)
        ratios.append(first / took)
        rates.append(baseline.ask({"rate": dtype})["gflops"])
    found, wanted = (
        np.load(work / name).astype(np.float64)
        for name in ("wanted.npy" if child is None else "found.npy", "wanted.npy")
    )
    products = np.sum(found * wanted, axis=-1)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    p50 = statistics.median(own)
    return Row(
        size,
        batch,
        library,
        precision,
        p50,
        float(np.percentile(own, 99)),
        batch * 1e3 / p50,
        statistics.median(ratios),
        gflop * batch / (p50 / 1e3) / statistics.median(rates),
        float((products / norms).min()),
        float(np.abs(found - wanted).max() / np.sqrt(np.mean(wanted**2))),
        float(facts["peak_mib"]),
        len(own),
        str(facts["says"]),
    )


def markdown(rows: list[Row], hardware: Mapping[str, str], left_out: list[str]) -> str:
    """The table, with the hardware above and what was left out below."""
    lines = ["; ".join(f"{name}: {value}" for name, value in hardware.items()), ""]
    lines += [
        "| size | batch | backend | precision | p50 ms | p99 ms | images/s | x eager"
        " | of matrix rate | least cosine | largest error | peak MiB |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.size} | {row.batch} | {row.backend} | {row.precision} | {row.p50_ms:.1f}"
            f" | {row.p99_ms:.1f} | {row.images_per_second:.1f}"
            f" | {row.ratio_to_transformers_eager:.2f} | {row.matrix_share:.0%}"
            f" | {row.min_token_cosine:.6f} | {row.max_error:.1e} | {row.peak_mib:.0f} |"
        )
    lines += ["", *(f"Left out: {line}" for line in left_out)] if left_out else []
    return "\n".join(lines)
