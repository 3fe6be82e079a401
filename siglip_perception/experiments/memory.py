"""Measure peak memory and time of a loss's value and gradients against the number of pairs.

Each form runs in a process of its own, the distributed forms in four; of those, one process's
share is measured.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import set_forkserver_preload
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, multiprocessing
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional
from tqdm import tqdm

from siglip_perception.contrastive.losses.losses import clip_loss, sigmoid_loss
from siglip_perception.experiments.peak_memory import peak_mib
from siglip_perception.experiments.report import (
    COLORS,
    Options,
    Outcome,
    Value,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK = 256
PROCESSES = 4
_ROUNDS = 3


@dataclass(frozen=True)
class Form:
    """A loss and the number of processes that share its pairs."""

    name: str
    processes: int
    loss: Callable[..., Tensor]


def _clip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: Any) -> Tensor:
    return clip_loss(image, text, scale, group)


def _sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: Any) -> Tensor:
    return sigmoid_loss(image, text, scale, bias, group=group)


def _chunks(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: Any) -> Tensor:
    return sigmoid_loss(image, text, scale, bias, CHUNK, group)


FORMS = (
    Form("softmax", 1, _clip),
    Form("sigmoid", 1, _sigmoid),
    Form(f"sigmoid, chunks of {CHUNK}", 1, _chunks),
    Form(f"softmax, {PROCESSES} processes", PROCESSES, _clip),
    Form(f"sigmoid, {PROCESSES} processes, chunks of {CHUNK}", PROCESSES, _chunks),
)


def _embeddings(pairs: int, dim: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [
        functional.normalize(torch.randn(pairs, dim, generator=generator), dim=-1)
        for _ in range(2)
    ]
    return [x.requires_grad_() for x in (*rows, torch.tensor(10.0), torch.tensor(-10.0))]


def _measure(
    rank: int, number: int, sizes: Sequence[int], dim: int, folder: str, results: Any
) -> None:
    """Measure (pairs, MiB, seconds) of each size in a child process; only rank 0 reports."""
    form = FORMS[number]
    group = None
    if form.processes > 1:
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/{number}",
            rank=rank,
            world_size=form.processes,
        )
        group = distributed.group.WORLD

    def step(inputs: Sequence[Tensor]) -> None:
        torch.autograd.grad(form.loss(*inputs, group), inputs, allow_unused=True)

    step(_embeddings(8, dim, rank))  # warm up: load everything
    for pairs in sizes:
        inputs = _embeddings(pairs // form.processes, dim, rank)
        peak = peak_mib(lambda inputs=inputs: step(inputs))  # type: ignore[misc]
        seconds = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            step(inputs)
            seconds.append(time.perf_counter() - began)
        if rank == 0:
            results.put((pairs, peak, statistics.median(seconds)))
    if group is not None:
        distributed.destroy_process_group()


def run(options: Options) -> Outcome:
    """Measure every form at every size."""
    sizes = (64, 256) if options.quick else (256, 512, 1024, 2048, 4096, 8192)
    dim = 16 if options.quick else 512
    measurements: dict[str, list[tuple[int, float, float]]] = {}
    bar = tqdm(FORMS, unit="form", disable=None)
    # Fork from a server that has already imported this module.
    set_forkserver_preload([__name__])
    context = multiprocessing.get_context("forkserver")
    start: Any = start_processes
    with tempfile.TemporaryDirectory() as folder:
        for number, form in enumerate(bar):
            results = context.Queue()
            arguments = (number, sizes, dim, folder, results)
            start(_measure, arguments, form.processes, start_method="forkserver")
            measurements[form.name] = [results.get(timeout=60) for _ in sizes]
            if bar.disable:
                print(f"{form.name}: measured", file=sys.stderr)
    rows: list[dict[str, Value]] = [
        {"loss": name, "N": pairs, "peak MiB a process": mib, "ms": seconds * 1000}
        for name, points in measurements.items()
        for pairs, mib, seconds in points
    ]
    settings = {"d": dim, "element": "float32", "threads": torch.get_num_threads()}
    return Outcome(settings, rows, _findings(measurements, dim), _plot(measurements))


def _findings(measurements: dict[str, list[tuple[int, float, float]]], dim: int) -> list[str]:
    names = [form.name for form in FORMS]
    last = {name: measurements[name][-1] for name in names}
    pairs = last[names[0]][0]
    matrix = 4 * pairs**2 / 2**20
    full, chunks, ring = last[names[1]], last[names[2]], last[names[4]]
    return [
        f"At N = {pairs} one N x N matrix takes {matrix:.0f} MiB in float32, and a loss coded as"
        f" its formula holds several: softmax peaks at {last[names[0]][1]:.0f} MiB, sigmoid at"
        f" {full[1]:.0f} MiB.",
        f"In chunks the sigmoid takes {chunks[1]:.0f} MiB, of which"
        f" {2 * pairs * dim * 4 / 2**20:.0f} are the gradients themselves, and"
        f" {chunks[2] / full[2]:.2f} times as long as the plain form.",
        f"With {PROCESSES} processes, each gathers all embeddings for the softmax,"
        f" {last[names[3]][1]:.0f} MiB; for the sigmoid it holds its own pairs and a neighbor's"
        f" texts, {ring[1]:.0f} MiB.",
    ]


def _plot(measurements: dict[str, list[tuple[int, float, float]]]) -> Figure:
    figure, axes = new_figure(9.5, 3.8, 1, 2)
    for number, (name, points) in enumerate(measurements.items()):
        pairs, mib, seconds = zip(*points, strict=True)
        style = {"color": COLORS[number], "marker": "o", "markersize": 4, "label": name}
        if FORMS[number].processes > 1:
            style["linestyle"] = "--"
        axes[0, 0].plot(pairs, mib, **style)
        axes[0, 1].plot(pairs, [s * 1000 for s in seconds], **style)
    sizes = [pairs for pairs, _, _ in next(iter(measurements.values()))]
    matrix = [4 * pairs**2 / 2**20 for pairs in sizes]
    axes[0, 0].plot(sizes, matrix, color="#9ca3af", linestyle=":", label="one N x N matrix")
    for axis, title in zip(
        axes[0], ("Peak memory a process, MiB", "Value and gradients, ms"), strict=True
    ):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sizes, [str(n) for n in sizes])
        axis.set_xlabel("N, pairs of all processes")
        axis.set_title(title)
    axes[0, 0].legend(fontsize=7, frameon=False)
    return figure
