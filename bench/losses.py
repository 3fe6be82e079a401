"""SigLIP's sigmoid loss, value and gradient, side by side with open_clip's.

Each size is timed in a process of its own, all forms in turn, again and again, and each form's
peak memory is measured in one more process each, over what holding the embeddings takes. Forms:

    open_clip  open_clip.loss.SigLipLoss
    formula    sigmoid_loss(...): the whole N x N matrix, as the formula stands
    chunks     sigmoid_loss(..., chunk_size=...)

A form whose whole matrix would not fit into the free memory is left out, and the table says so.
Ratios are medians over rounds of one round's time by open_clip's of the same round: on a busy
machine they mean more than the milliseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMS = ("open_clip", "formula", "chunks")
WHOLE = ("open_clip", "formula")
SIZES = ((1024, 512), (1024, 1152), (4096, 512), (4096, 1152))
ALL_SIZES = tuple((n, d) for n in (1024, 2048, 4096, 8192, 16384, 32768) for d in (512, 1152))
MATRICES = 7
"""N x N tensors assumed to exist at once in the forms without chunks; measured: 5 to 6."""


@dataclass(frozen=True)
class Row:
    """A size and a form; None if skipped. ratio: time / open_clip's. memory: peak in MiB."""

    pairs: int
    dim: int
    form: str
    milliseconds: float | None
    ratio: float | None
    memory_mib: float | None


def open_clip_loss() -> Any:
    """Load SigLipLoss from open_clip's loss.py, without the dependencies of the package."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("open_clip_torch is not installed: run `make env`.")
    path = Path(package.submodule_search_locations[0], "loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SigLipLoss()


def losses(chunk: int) -> dict[str, Callable[..., Any]]:
    from siglip_perception.contrastive.losses.losses import sigmoid_loss

    return {
        "open_clip": open_clip_loss(),
        "formula": sigmoid_loss,
        "chunks": lambda image, text, scale, bias: sigmoid_loss(
            image, text, scale, bias, chunk_size=chunk
        ),
    }


def embeddings(pairs: int, dim: int) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(pairs, dim, generator=generator) for _ in range(2)]
    for rows in pair:
        rows.div_(rows.norm(dim=1, keepdim=True)).requires_grad_()
    return [*pair, torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)]


def step(loss: Callable[..., Any], inputs: Sequence[Any]) -> float:
    """Time one value with all its gradients, in seconds."""
    import torch

    start = time.perf_counter()
    torch.autograd.grad(loss(*inputs), inputs)
    return time.perf_counter() - start


def time_forms(pairs: int, dim: int, forms: Sequence[str], chunk: int, rounds: int) -> None:
    """Print the seconds of each round and form as JSON; runs in a child process."""
    functions = losses(chunk)
    inputs = embeddings(pairs, dim)
    small = embeddings(64, dim)
    for form in forms:
        step(functions[form], small)  # whatever is loaded at the first use
    seconds = []
    for number in range(rounds):
        turn = forms if number % 2 == 0 else forms[::-1]
        seconds.append({form: step(functions[form], inputs) for form in turn})
    print(json.dumps(seconds))


def measure_memory(pairs: int, dim: int, form: str, chunk: int) -> None:
    """Print the MiB that a step adds at its peak to its embeddings; runs in a child process."""
    from siglip_perception.experiments.peak_memory import peak_mib

    loss = losses(chunk)[form]
    step(loss, embeddings(64, dim))  # whatever is loaded at the first use
    inputs = embeddings(pairs, dim)
    print(json.dumps(peak_mib(lambda: step(loss, inputs))))


def child(*arguments: str) -> Any:
    """Run this file for one measurement; None if the system killed it for lack of memory."""
    process = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if process.returncode == -9:
        return None
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(process.stdout)


def available_bytes() -> int:
    """Memory that the system can give without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def measure(pairs: int, dim: int, chunk: int, seconds: float) -> list[Row]:
    """Measure the rows of one size."""
    fits = MATRICES * 4 * pairs**2 < available_bytes()
    forms = FORMS if fits else ("chunks",)
    # 3 products of N x N x d, at about 100 GFLOP/s: how many rounds the time allows.
    estimate = 3 * 2 * pairs**2 * dim / 100e9 * len(forms)
    rounds = min(max(round(seconds / estimate), 3 if fits else 1), 60)
    common = ["--pairs", str(pairs), "--dim", str(dim), "--chunk", str(chunk)]
    rounds_taken = child("--time", *common, "--rounds", str(rounds), "--forms", *forms)
    rows = []
    for form in FORMS:
        if form not in forms:
            rows.append(Row(pairs, dim, form, None, None, None))
            continue
        peak = child("--memory", *common, "--forms", form)
        ratio = (
            statistics.median(r[form] / r["open_clip"] for r in rounds_taken)
            if "open_clip" in forms
            else None
        )
        median = statistics.median(r[form] for r in rounds_taken) * 1000
        rows.append(Row(pairs, dim, form, median, ratio, peak))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Format the rows as Markdown."""

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    lines = [
        "| N | d | form | ms | time by open_clip's | peak memory, MiB | by one N x N matrix |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        matrix = 4 * row.pairs**2 / 2**20
        share = None if row.memory_mib is None else row.memory_mib / matrix
        form = row.form if row.milliseconds is not None else f"{row.form} (does not fit)"
        lines.append(
            f"| {row.pairs} | {row.dim} | {form} | {cell(row.milliseconds, '{:.1f}')}"
            f" | {cell(row.ratio, '{:.2f}')} | {cell(row.memory_mib, '{:.0f}')}"
            f" | {cell(share, '{:.2f}')} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all-sizes", action="store_true", help="N = 1k to 32k: takes minutes")
    parser.add_argument("--chunk", type=int, default=1024, help="rows of a chunk")
    parser.add_argument("--seconds", type=float, default=4.0, help="about so long for each size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    for name in ("--time", "--memory"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    for name in ("--pairs", "--dim", "--rounds"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--forms", nargs="+", choices=FORMS, help=argparse.SUPPRESS)
    # `make bench` gives every benchmark the same arguments.
    options, unknown = parser.parse_known_args()
    if unknown:
        print(f"{Path(__file__).name}: no options of this one: {unknown}", file=sys.stderr)
    if options.time:
        time_forms(options.pairs, options.dim, options.forms, options.chunk, options.rounds)
        return 0
    if options.memory:
        measure_memory(options.pairs, options.dim, options.forms[0], options.chunk)
        return 0
    rows: list[Row] = []
    for pairs, dim in ALL_SIZES if options.all_sizes else SIZES:
        rows += measure(pairs, dim, options.chunk, options.seconds)
        print(f"N = {pairs}, d = {dim}: measured", file=sys.stderr)
    print("Sigmoid loss, value and gradient, float32; peak memory over the embeddings themselves.")
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
