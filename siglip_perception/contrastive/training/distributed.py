"""One process or several, as torchrun starts them: who this one is, and what they do together."""

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
"""Bytes of gradients that are sent at a time: few messages, little memory beside the gradients."""

_PATIENCE = timedelta(hours=2)
"""How long the others wait for the one that reads a bag, measures or writes the model."""


@dataclass(frozen=True)
class Processes:
    """rank of world; group: None where this process is alone; device: this process's own."""

    device: torch.device
    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over processes into each; one that has none anywhere stays without."""
        if self.group is None:
            return
        given = [p for p in parameters if p.requires_grad]
        has = torch.tensor([p.grad is not None for p in given], dtype=torch.int32)
        has = has.to(self.device)
        dist.all_reduce(has, dist.ReduceOp.MAX, group=self.group)
        for parameter in (p for p, used in zip(given, has.tolist(), strict=True) if used):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        bucket: list[Tensor] = []
        size = 0
        for parameter in (p for p, used in zip(given, has.tolist(), strict=True) if used):
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
        flat /= self.world
        for gradient, part in zip(
            bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over processes of each number, in all of them."""
        if self.group is None or not values:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float32, device=self.device)
        dist.all_reduce(numbers, group=self.group)
        return dict(zip(values, (numbers / self.world).tolist(), strict=True))

    def gather(self, value: object) -> list[object]:
        """The value of each process, by rank, in all of them."""
        if self.group is None:
            return [value]
        values: list[object] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.group is not None:
            dist.barrier(group=self.group)


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """This process among those that torchrun started, or alone; device: auto, cpu or cuda."""
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise BackendError("There is no CUDA device here: use --device cpu.")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local >= torch.cuda.device_count():
        raise BackendError(
            f"Process {local} of this machine has no GPU of its own, there are"
            f" {torch.cuda.device_count()}: start as many with --nproc-per-node."
        )
    own = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(own)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(own)
        return
    # The names that PyTorch 2.13 calls deprecated are the ones that PyTorch 2.6 knows.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    given = dist.is_initialized()  # by whoever calls this from a program of their own
    if not given:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(own, dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    finally:
        if not given:
            dist.destroy_process_group()
