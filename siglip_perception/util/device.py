"""Copies between host and GPU, with as few synchronizations as possible.

Copies to and from pinned memory overlap with the host's work. PyTorch caches pinned blocks, and
reuses none before the copies on it have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device in the order of the current stream, without synchronizing."""
    if device.type != "cuda":
        return torch.from_numpy(values).to(device)
    dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
    pinned = torch.empty(values.shape, dtype=dtype, pin_memory=True)
    np.copyto(pinned.numpy(), values)
    return pinned.to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy tensors of one device to the host; synchronize once for all of them."""
    if not tensors:
        return ()
    if tensors[0].device.type != "cuda":
        return tuple(values.cpu() for values in tensors)
    copies = []
    for values in tensors:
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copies.append(pinned.copy_(values, non_blocking=True))
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return tuple(copies)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's work on a CPU on the calling thread alone.

    For steps of a few microseconds, after each of which threads would wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
