"""`siglip-perception bench`: this project beside transformers' eager models and timm.

Each candidate is a process of its own. It runs in turn with transformers' eager float32 models,
pass by pass, so that what disturbs the machine disturbs both, and its ratio is the median of the
ratios of neighboring passes. Weights are random at real size, but for tabletop: they prove that
the tokens are the same, and nothing about how good they are. What this machine cannot do sensibly,
or not in the time that there is, is left out with a line that says so.
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

from siglip_perception.commands.arguments import output_file
from siglip_perception.errors import PerceptionError
from siglip_perception.util.files import write_atomically
from siglip_perception.util.suggest import did_you_mean

BASE = Path(__file__).with_name("base.yaml")
# Size -> contract; an empty one is the embedded model's own.
SIZES = {"tabletop": "", "base": str(BASE), "openvla": "openvla-224"}
MOST_IMAGES = 4
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
_FEWEST, _MOST = 3, 200
# A pass that takes longer, in milliseconds, needs none before it to warm up.
_LONG = 1000.0


@dataclass(frozen=True)
class Row:
    """One candidate at one size and batch.

    p50_ms, p99_ms: of a pass over the batch. ratio_to_transformers_eager: how many times as fast
    as transformers' eager float32 models. matrix_share: arithmetic done a second, as a share of
    this machine's own 2048 x 2048 product in the same precision (for int8 bf16's, or fp32's where
    that is faster).
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


_OVER = "the time was over (--minutes gives more)"


class Child:
    """A candidate's process; PerceptionError with its reason where it cannot run.

    until: a moment of time.monotonic(), past which it is not waited for.
    """

    def __init__(
        self, name: str, model: str, contract: str, device: str, cache: str, until: float
    ) -> None:
        self.name = name
        self._until = until
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
        left = max(0.0, self._until - time.monotonic())
        # An answer is one line, written at once: what can be read is all of it.
        if not select.select([self._process.stdout], [], [], left)[0]:
            self._process.kill()
            raise PerceptionError(_OVER)
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
    parser.add_argument(
        "--minutes",
        type=float,
        default=20.0,
        help="for all; what does not end in it is left out (default: 20)",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--markdown", type=output_file, metavar="FILE", help="write the table there"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write it where that is asked for."""
    batches = tuple(args.batch or (1, 4))
    if not all(1 <= batch <= MOST_IMAGES for batch in batches):
        raise PerceptionError(f"--batch has to be 1 to {MOST_IMAGES}.")
    for name in args.backend or ():
        if name not in (*ON_CPU, *ON_GPU):
            meant = did_you_mean(name, (*ON_CPU, *ON_GPU))
            raise PerceptionError(
                f"There is no candidate {name!r}{meant}: use {', '.join(ON_CPU)}."
            )
    device = _device(args.device)
    hardware = describe(device)
    rows: list[Row] = []
    names, left_out = _candidates(args.backend, device)
    until = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="bench.") as work:
        for size in args.size or SIZES:
            if time.monotonic() > until:
                left_out.append(f"{size} size: {_OVER}")
                continue
            model = _model(size, Path(work))
            bench = _Bench(size, model, device, Path(work), batches, args.seconds, until)
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


def _candidates(asked: list[str] | None, device: str) -> tuple[list[str], list[str]]:
    """Those that were asked for, or that make sense here; and what is left out, a line each."""
    names = ON_GPU if device == "cuda" else ON_CPU
    if asked:
        return asked, []
    why_not = _without_bf16(device)
    sensible = [name for name in names if not (why_not and name.endswith(" bf16"))]
    left = [f"{name}: {why_not}" for name in names if name not in sensible]
    return sensible, left


def _without_bf16(device: str) -> str:
    """Why bfloat16 is of no use on the device; empty where it is."""
    import torch

    from siglip_perception import backends

    return backends.without_bf16(torch.device(device))


def _device(name: str) -> str:
    from siglip_perception.backends import choose

    return choose("torch", name, "fp32").device.type


def describe(device: str) -> dict[str, str]:
    """The hardware and the libraries that a table is of."""
    import torch
    import transformers

    from siglip_perception.backends import bf16
    from siglip_perception.util import cpu

    found = {
        "cpu": f"{cpu.name()}, {torch.get_num_threads()} threads",
        "bf16 unit": cpu.bf16_unit() or "none",
        "bf16 product": f"{bf16.speed().speedup:.2g} times fp32's speed",
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


@dataclass(frozen=True)
class _Bench:
    """One size, on one device. seconds: for each pair. until: of time.monotonic(), for all."""

    size: str
    model: str
    device: str
    work: Path
    batches: tuple[int, ...]
    seconds: float
    until: float

    def rows(self, names: Sequence[str], left_out: list[str]) -> Iterator[Row]:
        """A row a candidate and batch, the baseline's first; what has none goes to left_out."""
        try:
            with self._started(BASELINE) as baseline:
                facts = baseline.ask({"tokens": str(self.work / "wanted.npy")})
                for batch in self.batches:
                    yield self._row(batch, baseline, None, facts, facts["gflop"])
                for name in names:
                    yield from self._beside(baseline, name, facts["gflop"], left_out)
        except PerceptionError as error:
            left_out.append(f"{BASELINE} at {self.size} size, and all beside it: {error}")

    def _beside(
        self, baseline: Child, name: str, gflop: float, left_out: list[str]
    ) -> Iterator[Row]:
        try:
            with self._started(name) as child:
                facts = child.ask({"tokens": str(self.work / "found.npy")})
                for batch in self.batches:
                    yield self._row(batch, baseline, child, facts, gflop)
        except PerceptionError as error:
            left_out.append(f"{name} at {self.size} size: {error}")

    @contextlib.contextmanager
    def _started(self, name: str) -> Iterator[Child]:
        if time.monotonic() > self.until:
            raise PerceptionError(_OVER)
        contract, cache = SIZES[self.size], str(self.work / "cache")
        child = Child(name, self.model, contract, self.device, cache, self.until)
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
        firsts: list[float] = []
        own: list[float] = []
        rates: list[float] = []
        # The baseline's own rows are soon enough.
        until = time.monotonic() + (self.seconds if child else self.seconds / 3)
        while len(own) < _FEWEST or (len(own) < _MOST and time.monotonic() < until):
            firsts.append(_pass(baseline, batch, firsts))
            own.append(_pass(child, batch, own) if child else firsts[-1])
            rates.append(baseline.ask(rate)["gflops"])
        found, wanted = (
            np.load(self.work / name).astype(np.float64)
            for name in ("wanted.npy" if child is None else "found.npy", "wanted.npy")
        )
        products = np.sum(found * wanted, axis=-1)
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
        p50 = statistics.median(own)
        return Row(
            self.size,
            batch,
            library,
            precision,
            p50,
            float(np.percentile(own, 99)),
            batch * 1e3 / p50,
            statistics.median(first / took for first, took in zip(firsts, own, strict=True)),
            gflop * batch / (p50 / 1e3) / statistics.median(rates),
            float((products / norms).min()),
            float(np.abs(found - wanted).max() / np.sqrt(np.mean(wanted**2))),
            float(facts["peak_mib"]),
            len(own),
            str(facts["says"]),
        )


def _pass(child: Child, batch: int, earlier: Sequence[float]) -> float:
    """A pass in milliseconds; short ones are warmed up for."""
    warm = not earlier or earlier[-1] < _LONG
    return float(child.ask({"pass": batch, "warm": warm})["ms"])


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
