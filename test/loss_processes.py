"""Run the losses on each of several processes, for test_losses_distributed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from siglip_perception.contrastive.losses.losses import (
    clip_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)
from siglip_perception.errors import LossError

PAIRS, TEXTS, DIM = 12, 24, 5
"""All pairs; 12 falls into 1, 2, 3 and 4 equal shares."""

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, "Share"], Tensor]


class Share:
    """The rows of one process and its group; all rows if there is no group."""

    def __init__(self, group: distributed.ProcessGroup | None) -> None:
        self.group = group
        world = distributed.get_world_size(group) if group else 1
        rank = distributed.get_rank(group) if group else 0
        self.rows = slice(rank * PAIRS // world, (rank + 1) * PAIRS // world)


def target() -> Tensor:
    """Targets of the texts by process and row: several matches per row, or none."""
    return torch.rand(PAIRS, PAIRS, generator=torch.Generator().manual_seed(3)) > 0.7


LOSSES: dict[str, Loss] = {
    "clip": lambda i, t, s, b, share: clip_loss(i, t, s, share.group),
    "sigmoid": lambda i, t, s, b, share: sigmoid_loss(i, t, s, b, group=share.group),
    "chunks of 1": lambda i, t, s, b, share: sigmoid_loss(i, t, s, b, 1, share.group),
    "chunks of 2": lambda i, t, s, b, share: sigmoid_loss(i, t, s, b, 2, share.group),
    "targets": lambda i, t, s, b, share: sigmoid_target_loss(
        i, t, target()[share.rows], s, b, 2 if share.group else None, share.group
    ),
}


class Towers(nn.Module):
    """Two linear towers with a learned temperature and bias."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.image, self.text = (
            nn.Parameter(torch.randn(6, DIM, generator=generator, dtype=torch.float64))
            for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        image, text = (
            functional.normalize(x @ w, dim=-1)
            for x, w in ((images, self.image), (texts, self.text))
        )
        return image, text, self.log_scale.exp(), self.bias * 1.0


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images, texts = (
        torch.randn(PAIRS, 6, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return images, texts


def one_process(name: str) -> dict[str, Tensor]:
    """Compute the loss and all gradients from all pairs at once."""
    towers = Towers()
    image, text, scale, bias = towers(*data())
    loss = LOSSES[name](image, text, scale, bias, Share(None))
    loss.backward()
    return {"loss": loss.detach()} | {
        n: p.grad for n, p in towers.named_parameters() if p.grad is not None
    }


def _several(name: str, group: distributed.ProcessGroup) -> dict[str, Tensor]:
    """Compute the same under DistributedDataParallel, with each process's share."""
    share = Share(group)
    towers = DistributedDataParallel(Towers(), process_group=group, find_unused_parameters=True)
    images, texts = data()
    image, text, scale, bias = towers(images[share.rows], texts[share.rows])
    loss = LOSSES[name](image, text, scale, bias, share)
    loss.backward()
    mean = loss.detach().clone()
    distributed.all_reduce(mean, group=group)
    return {"loss": mean / distributed.get_world_size(group)} | {
        n: p.grad for n, p in towers.module.named_parameters() if p.grad is not None
    }


def _refusals(group: distributed.ProcessGroup) -> dict[str, str]:
    """Collect the errors of processes that do not agree."""
    rank = distributed.get_rank(group)
    messages = {}
    rows = torch.eye(4, dtype=torch.float64)[: 4 - rank]
    no_pairs = rows if rank else rows[:0]
    full = torch.eye(4, dtype=torch.float64)
    other_rank = torch.eye(4, dtype=torch.float32 if rank else torch.float64)
    calls: dict[str, Callable[[], Tensor]] = {
        "unequal": lambda: sigmoid_loss(rows, rows, 1.0, 0.0, group=group),
        "unequal clip": lambda: clip_loss(rows, rows, 1.0, group),
        "none": lambda: sigmoid_loss(no_pairs, no_pairs, 1.0, 0.0, group=group),
        "answers": lambda: sigmoid_target_loss(
            full, full, torch.eye(4)[:, : 4 - rank], 1.0, 0.0, group=group
        ),
        "types": lambda: sigmoid_loss(other_rank, other_rank, 1.0, 0.0, group=group),
    }
    for name, call in calls.items():
        try:
            call()
        except LossError as error:
            messages[name] = str(error)
    image = torch.eye(4, requires_grad=True)
    loss = sigmoid_loss(image, image, 1.0, 0.0, group=group)
    try:
        (loss * (1 + rank)).backward()
    except LossError as error:
        messages["weights"] = str(error)
    return messages


def _work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    group = distributed.group.WORLD
    assert group is not None
    results: dict[str, object] = {name: _several(name, group) for name in LOSSES}
    if world > 1:
        results["refused"] = _refusals(group)
    if world == 4:
        # Two pairs of processes that are neither neighbors nor in step with the world's ranks.
        halves = [distributed.new_group([0, 2]), distributed.new_group([3, 1])]
        results["half"] = _several("sigmoid", halves[rank % 2])
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def run(world: int, folder: Path) -> list[dict[str, Any]]:
    """Start the processes, wait, and return their results; raises if one fails."""
    # Forked from a server that has imported torch once and, unlike this process, has no threads.
    set_forkserver_preload(["torch.nn.parallel", "siglip_perception.contrastive.losses.losses"])
    start_processes(_work, (world, str(folder)), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]
