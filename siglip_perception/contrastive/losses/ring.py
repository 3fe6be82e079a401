"""Embeddings between processes, for the losses: a ring, and a gather with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import P2POp, ProcessGroup, Work

from siglip_perception.errors import LossError

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def agree(
    image: Tensor, text: Tensor, group: ProcessGroup, asked: Sequence[int] = ()
) -> tuple[int, int]:
    """Rank and number of processes, after all have said that they bring the same.

    asked: whatever else has to be the same everywhere, as many numbers in each process. Raises
    LossError, in every process alike, where shapes, element types or `asked` differ: without this
    the exchange would hang or mix up rows.
    """
    rank, world = distributed.get_rank(group), distributed.get_world_size(group)
    if rank < 0:
        raise LossError("This process is not in the group that the loss runs across.")
    kinds = [_DTYPES.index(x.dtype) if x.dtype in _DTYPES else -1 for x in (image, text)]
    shapes = [x.shape if x.ndim == 2 else (0, x.ndim) for x in (image, text)]
    mine = [*shapes[0], *shapes[1], *kinds, *map(int, asked)]
    said = image.new_empty(world, len(mine), dtype=torch.int64)
    distributed.all_gather(
        list(said), torch.tensor(mine, dtype=torch.int64, device=image.device), group=group
    )
    all_say = said.tolist()
    if any(other != all_say[0] for other in all_say):
        pairs = [other[0] for other in all_say]
        raise LossError(
            f"The processes hold {', '.join(map(str, pairs))} pairs: every process needs as many"
            " as the others, so drop the last, smaller batch."
            if len(set(pairs)) > 1
            else "The processes' embeddings differ in width, in element type or in what is asked"
            " of them (gradients, chunk_size, answers): give every process the same."
        )
    return rank, world


def all_equal(value: Tensor, group: ProcessGroup) -> bool:
    """Whether a number is the same in all processes."""
    ends = torch.stack([value.detach(), -value.detach()]).double()
    distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=group)
    highest, lowest = ends.tolist()
    return bool(highest == -lowest)


@dataclass(frozen=True)
class Coming:
    """A tensor under way; what was sent must not change until it has arrived."""

    _received: Tensor
    _sent: Tensor
    _works: Sequence[Work]

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._received


class Ring:
    """The processes of a group in a circle: each sends to the next, hears from the one before."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.rank = distributed.get_rank(group)
        self.world = distributed.get_world_size(group)
        self._next, self._previous = (
            distributed.get_global_rank(group, (self.rank + step) % self.world) for step in (1, -1)
        )

    def pass_on(self, tensor: Tensor) -> Coming:
        """Send to the next process; what comes is the previous one's tensor of the same shape."""
        received = torch.empty_like(tensor)
        works = distributed.batch_isend_irecv(
            [
                P2POp(distributed.isend, tensor, self._next, self.group),
                P2POp(distributed.irecv, received, self._previous, self.group),
            ]
        )
        return Coming(received, tensor, works)


def gather(rows: Tensor, group: ProcessGroup) -> Tensor:
    """[n, d] of each process -> [W n, d] by rank. A row's gradient is the sum over processes."""
    gathered: Tensor = _Gather.apply(rows, group)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        world = distributed.get_world_size(group)
        everyone = rows.new_empty(world * len(rows), *rows.shape[1:])
        distributed.all_gather(list(everyone.chunk(world)), rows.contiguous(), group=group)
        return everyone

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        world = distributed.get_world_size(ctx.group)
        shares = list(gradient.contiguous().chunk(world))
        own = torch.empty_like(shares[0])
        distributed.reduce_scatter(own, shares, group=ctx.group)
        return own, None
