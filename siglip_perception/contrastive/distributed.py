"""This process's place among those that torchrun started, and their collective operations."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from siglip_perception.errors import BackendError

_BUCKET = 32 * 2**20
"""Bytes of gradients per all-reduce: few messages, little memory on top of the gradients."""

_PATIENCE = timedelta(hours=2)
"""How long ranks wait while the main process reads a bag, evaluates or writes the model."""


@dataclass(frozen=True)
class World:
    """The processes of a run, as seen from one of them.

    device: of this process. size: number of processes. group: None if there is only one.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average each gradient over processes; a parameter without one anywhere stays without."""
        if self.group is None:
            return
        trainable = [p for p in parameters if p.requires_grad]
        has_grad = torch.tensor([p.grad is not None for p in trainable], dtype=torch.int32)
        has_grad = has_grad.to(self.device)
        dist.all_reduce(has_grad, dist.ReduceOp.MAX, group=self.group)
        for parameter in (p for p, has in zip(trainable, has_grad.tolist(), strict=True) if has):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        bucket: list[Tensor] = []
        size = 0
        for parameter in (p for p, has in zip(trainable, has_grad.tolist(), strict=True) if has):
            assert parameter.grad is not None
            bucket.append(parameter.grad)
            size += parameter.grad.nbytes
            if size >= _BUCKET:
                self._average(bucket)
                bucket, size = [], 0
        if bucket:
            self._average(bucket)

    def _average(self, bucket: list[Tensor]) -> None:
        flat = torch.cat([gradient.ravel() for gradient in bucket])
        dist.all_reduce(flat, group=self.group)
        flat /= self.size
        for gradient, part in zip(
            bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Average each number over processes; every process gets the result."""
        if self.group is None or not values:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float32, device=self.device)
        dist.all_reduce(numbers, group=self.group)
        return dict(zip(values, (numbers / self.size).tolist(), strict=True))

    def gather(self, value: object) -> list[object]:
        """Gather one value per process, by rank; every process gets the list."""
        if self.group is None:
            return [value]
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Block until all processes have arrived here."""
        if self.group is not None:
            dist.barrier(group=self.group)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, if any. device: auto, cpu or cuda."""
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise BackendError("There is no CUDA device here: use --device cpu.")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local_rank >= torch.cuda.device_count():
        raise BackendError(
            f"Process {local_rank} of this machine has no GPU of its own: set"
            f" --nproc-per-node to {torch.cuda.device_count()} or less."
        )
    torch_device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(torch_device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(torch_device)
        return
    # PyTorch 2.13 deprecates names that PyTorch 2.6 still needs.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    initialized_by_caller = dist.is_initialized()  # by a program that calls this as a library
    if not initialized_by_caller:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield World(torch_device, dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    finally:
        if not initialized_by_caller:
            dist.destroy_process_group()
