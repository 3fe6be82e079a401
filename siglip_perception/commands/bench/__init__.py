"""`siglip-perception bench`: compare this project with transformers' eager models and timm.

Each candidate runs in its own process. Its passes alternate with those of transformers' eager
float32 models, so that any disturbance of the machine hits both, and its ratio is the median of
the ratios of neighboring passes. Weights are random at real size, except for tabletop: they show
that the tokens are equal, not how good they are. A candidate that this machine cannot run
sensibly, or not within the time limit, is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siglip_perception.commands.arguments import number, output_file
from siglip_perception.errors import PerceptionError
from siglip_perception.util.files import write_atomically
from siglip_perception.util.suggest import did_you_mean

BASE = Path(__file__).with_name("base.yaml")
# Size -> contract; empty for the embedded model's own contract.
SIZES = {"tabletop": "", "base": str(BASE), "openvla": "openvla-224"}
MAX_IMAGES = 4
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
_MIN_PASSES, _MAX_PASSES = 3, 200
# Passes that take longer, in milliseconds, need no warm-up.
_NO_WARM_UP_MS = 1000.0


@dataclass(frozen=True)
class Row:
    """One candidate at one size and batch.

    p50_ms, p99_ms: time of a pass over the batch.
    ratio_to_transformers_eager: speed relative to transformers' eager float32 models.
    matrix_share: FLOP/s as a share of this machine's 2048 x 2048 matrix product in the same
        precision (for int8, in bf16 or fp32, whichever is faster).
    min_token_cosine, max_error: tokens against transformers' float32; the error is a share of
        their RMS.
    peak_mib: memory of the process, loading included; on a GPU, of the GPU.
    says: the candidate's description.
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


_OUT_OF_TIME = "the time was up (--minutes gives more)"


class Child:
    """A candidate's process; raises PerceptionError with a reason if it cannot run.

    deadline: of every answer, by time.monotonic().
    """

    def __init__(
        self, name: str, model: str, contract: str, device: str, cache: str, deadline: float
    ) -> None:
        self.name = name
        self._deadline = deadline
        command = [sys.executable, "-m", "siglip_perception.commands.bench.child"]
        self._process = subprocess.Popen(
            [*command, name, model, contract, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"XDG_CACHE_HOME": cache},
        )
        try:
            ready = self._answer()
            if "error" in ready:
                raise PerceptionError(str(ready["error"]))
        except PerceptionError:
            self.close()
            raise

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timeout = max(0.0, self._deadline - time.monotonic())
        # An answer is one line, written at once: once it can be read, it is complete.
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            self._process.kill()
            raise PerceptionError(_OUT_OF_TIME)
        line = self._process.stdout.readline()
        if not line:
            raise PerceptionError(
                f"the process of {self.name} ended (exit code {self._process.wait()})"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception bench`."""
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
        "--seconds",
        type=number(float, 0, 3600),
        default=15.0,
        help="for each pair of candidates (default: 15)",
    )
    parser.add_argument(
        "--minutes",
        type=number(float, 0),
        default=20.0,
        help="for everything; what takes longer is left out (default: 20)",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--markdown", type=output_file, metavar="FILE", help="write the table there"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write the requested files."""
    batches = tuple(args.batch or (1, 4))
    if not all(1 <= batch <= MAX_IMAGES for batch in batches):
        raise PerceptionError(f"--batch has to be 1 to {MAX_IMAGES}.")
    for name in args.backend or ():
        if name not in (*ON_CPU, *ON_GPU):
            suggestion = did_you_mean(name, (*ON_CPU, *ON_GPU))
            raise PerceptionError(
                f"There is no candidate {name!r}{suggestion}: use {', '.join(ON_CPU)}."
            )
    device = _device(args.device)
    hardware = describe(device)
    rows: list[Row] = []
    names, left_out = _candidates(args.backend, device)
    deadline = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="bench.") as work:
        for size in args.size or SIZES:
            if time.monotonic() > deadline:
                left_out.append(f"{size} size: {_OUT_OF_TIME}")
                continue
            model = _model(size, Path(work))
            bench = _Bench(size, model, device, Path(work), batches, args.seconds, deadline)
            for row in bench.rows(names, left_out):
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


def _candidates(requested: list[str] | None, device: str) -> tuple[list[str], list[str]]:
    """Return the requested or the sensible candidates, and a line for each one left out."""
    names = ON_GPU if device == "cuda" else ON_CPU
    if requested:
        return requested, []
    reason = _without_bf16(device)
    sensible = [name for name in names if not (reason and name.endswith(" bf16"))]
    left_out = [f"{name}: {reason}" for name in names if name not in sensible]
    return sensible, left_out


def _without_bf16(device: str) -> str:
    """Return the reason why bfloat16 is useless on the device; empty if it is useful."""
    import torch

    from siglip_perception import backends

    return backends.without_bf16(torch.device(device))


def _device(name: str) -> str:
    from siglip_perception.backends import choose

    return choose("torch", name, "fp32").device.type


def describe(device: str) -> dict[str, str]:
    """Describe the hardware and the libraries, for the head of a table."""
    import torch
    import transformers

    from siglip_perception.backends.base import bf16
    from siglip_perception.util import cpu

    facts = {
        "cpu": f"{cpu.name()}, {torch.get_num_threads()} threads",
        "bf16 unit": cpu.bf16_unit() or "none",
        "bf16 product": f"{bf16.speed().speedup:.2g} times fp32's speed",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _model(size: str, work: Path) -> str:
    """Return the name or folder of the size's model; write its random weights."""
    if not SIZES[size]:
        return size
    from siglip_perception import contracts
    from siglip_perception.parity.random_weights import write_random

    folder = work / size
    print(f"{size}: writing random weights at real size", file=sys.stderr, flush=True)
    write_random(contracts.get(SIZES[size]), folder, 0)
    return str(folder)


@dataclass(frozen=True)
class _Bench:
    """Measures one size on one device. seconds: per pair. deadline: by time.monotonic()."""

    size: str
    model: str
    device: str
    work: Path
    batches: tuple[int, ...]
    seconds: float
    deadline: float

    def rows(self, names: Sequence[str], left_out: list[str]) -> Iterator[Row]:
        """Yield a row per candidate and batch, the baseline's first; add failures to left_out."""
        try:
            with self._start_child(BASELINE) as baseline:
                facts = baseline.ask({"tokens": str(self.work / "reference.npy")})
                for batch in self.batches:
                    yield self._row(batch, baseline, None, facts, facts["gflop"])
                for name in names:
                    yield from self._compare(baseline, name, facts["gflop"], left_out)
        except PerceptionError as error:
            left_out.append(f"{BASELINE} at {self.size} size, and all others: {error}")

    def _compare(
        self, baseline: Child, name: str, gflop: float, left_out: list[str]
    ) -> Iterator[Row]:
        try:
            with self._start_child(name) as child:
                facts = child.ask({"tokens": str(self.work / "candidate.npy")})
                for batch in self.batches:
                    yield self._row(batch, baseline, child, facts, gflop)
        except PerceptionError as error:
            left_out.append(f"{name} at {self.size} size: {error}")

    @contextlib.contextmanager
    def _start_child(self, name: str) -> Iterator[Child]:
        if time.monotonic() > self.deadline:
            raise PerceptionError(_OUT_OF_TIME)
        contract, cache = SIZES[self.size], str(self.work / "cache")
        child = Child(name, self.model, contract, self.device, cache, self.deadline)
        try:
            yield child
        finally:
            child.close()

    def _row(
        self,
        batch: int,
        baseline: Child,
        child: Child | None,
        facts: Mapping[str, Any],
        gflop: float,
    ) -> Row:
        library, precision = (child or baseline).name.split()
        exact = precision == "fp32" or (precision == "int8" and _without_bf16(self.device))
        rate = {"rate": "float32" if exact else "bfloat16"}
        baseline_ms: list[float] = []
        candidate_ms: list[float] = []
        rates: list[float] = []
        # A row of the baseline alone needs less time.
        end = time.monotonic() + (self.seconds if child else self.seconds / 3)
        while len(candidate_ms) < _MIN_PASSES or (
            len(candidate_ms) < _MAX_PASSES and time.monotonic() < end
        ):
            baseline_ms.append(_pass(baseline, batch, baseline_ms))
            candidate_ms.append(_pass(child, batch, candidate_ms) if child else baseline_ms[-1])
            rates.append(baseline.ask(rate)["gflops"])
        tokens, reference = (
            np.load(self.work / name).astype(np.float64)
            for name in ("reference.npy" if child is None else "candidate.npy", "reference.npy")
        )
        products = np.sum(tokens * reference, axis=-1)
        norms = np.linalg.norm(tokens, axis=-1) * np.linalg.norm(reference, axis=-1)
        p50 = statistics.median(candidate_ms)
        return Row(
            self.size,
            batch,
            library,
            precision,
            p50,
            float(np.percentile(candidate_ms, 99)),
            batch * 1e3 / p50,
            statistics.median(
                baseline_time / candidate_time
                for baseline_time, candidate_time in zip(baseline_ms, candidate_ms, strict=True)
            ),
            gflop * batch / (p50 / 1e3) / statistics.median(rates),
            float((products / norms).min()),
            float(np.abs(tokens - reference).max() / np.sqrt(np.mean(reference**2))),
            float(facts["peak_mib"]),
            len(candidate_ms),
            str(facts["says"]),
        )


def _pass(child: Child, batch: int, earlier: Sequence[float]) -> float:
    """Return the time of a pass in milliseconds, after a warm-up unless passes are long."""
    warm = not earlier or earlier[-1] < _NO_WARM_UP_MS
    return float(child.ask({"pass": batch, "warm": warm})["ms"])


def markdown(rows: list[Row], hardware: Mapping[str, str], left_out: list[str]) -> str:
    """Return the table, with the hardware above and what was left out below."""
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
