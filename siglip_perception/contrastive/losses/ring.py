"""Communication for the distributed losses: a ring, and an all-gather with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import P2POp, ProcessGroup, Work

from siglip_perception.errors import LossError

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_ranks_agree(
    image: Tensor, text: Tensor, group: ProcessGroup, settings: Sequence[int] = ()
) -> tuple[int, int]:
    """Return rank and world size once all processes agree on shapes, dtypes and settings.

    settings: other numbers that have to be equal everywhere, the same count in each process.
    Raises LossError in every process if anything differs: otherwise the exchange would hang or mix
    up rows.
    """
    rank, world_size = distributed.get_rank(group), distributed.get_world_size(group)
    if rank < 0:
        raise LossError(
            "This process is not in the loss's process group: pass a group that contains it."
        )
    dtypes = [_DTYPES.index(x.dtype) if x.dtype in _DTYPES else -1 for x in (image, text)]
    shapes = [x.shape if x.ndim == 2 else (0, x.ndim) for x in (image, text)]
    local = [*shapes[0], *shapes[1], *dtypes, *map(int, settings)]
    buffer = image.new_empty(world_size, len(local), dtype=torch.int64)
    distributed.all_gather(
        list(buffer), torch.tensor(local, dtype=torch.int64, device=image.device), group=group
    )
    rows = buffer.tolist()
    if any(row != rows[0] for row in rows):
        sizes = [row[0] for row in rows]
        raise LossError(
            f"The processes hold {', '.join(map(str, sizes))} pairs: every process needs the same"
            " number, so drop the last, smaller batch."
            if len(set(sizes)) > 1
            else "The processes' embeddings differ in width, dtype or options (gradients,"
            " chunk_size, target): give every process the same."
        )
    return rank, world_size


def all_equal(value: Tensor, group: ProcessGroup) -> bool:
    """Tell whether a scalar is equal in all processes."""
    ends = torch.stack([value.detach(), -value.detach()]).double()
    distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=group)
    highest, lowest = ends.tolist()
    return bool(highest == -lowest)


@dataclass(frozen=True)
class PendingTensor:
    """A tensor in transit; its input must stay unchanged until wait() returns."""

    _output: Tensor
    _input: Tensor
    _works: Sequence[Work]

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._output


class Ring:
    """A group's processes in a circle: each sends to the next, receives from the previous."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.rank = distributed.get_rank(group)
        self.world_size = distributed.get_world_size(group)
        self._next, self._previous = (
            distributed.get_global_rank(group, (self.rank + step) % self.world_size)
            for step in (1, -1)
        )

    def send_recv(self, tensor: Tensor) -> PendingTensor:
        """Send to the next process; receive a tensor of the same shape from the previous one."""
        output = torch.empty_like(tensor)
        works = distributed.batch_isend_irecv(
            [
                P2POp(distributed.isend, tensor, self._next, self.group),
                P2POp(distributed.irecv, output, self._previous, self.group),
            ]
        )
        return PendingTensor(output, tensor, works)


def gather(rows: Tensor, group: ProcessGroup) -> Tensor:
    """Gather [n, d] of each process into [W n, d], by rank; gradients sum over processes."""
    rows_of_all: Tensor = _Gather.apply(rows, group)  # type: ignore[no-untyped-call]
    return rows_of_all


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        world_size = distributed.get_world_size(group)
        output = rows.new_empty(world_size * len(rows), *rows.shape[1:])
        distributed.all_gather(list(output.chunk(world_size)), rows.contiguous(), group=group)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        world_size = distributed.get_world_size(ctx.group)
        shares = list(gradient.contiguous().chunk(world_size))
        grad_rows = torch.empty_like(shares[0])
        distributed.reduce_scatter(grad_rows, shares, group=ctx.group)
        return grad_rows, None
