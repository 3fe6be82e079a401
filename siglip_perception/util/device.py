"""Between the host's memory and a GPU's, without waiting more often than must be.

Copies to and from pinned memory run beside the host's own work. PyTorch keeps pinned blocks for
the next caller, and gives none away before the copies that use it have ended.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device, in the current stream's order; a GPU is not waited for."""
    if device.type != "cuda":
        return torch.from_numpy(values).to(device)
    dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
    staged = torch.empty(values.shape, dtype=dtype, pin_memory=True)
    np.copyto(staged.numpy(), values)
    return staged.to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one device in the host's memory, whole; waits once for all of them."""
    if not tensors:
        return ()
    if tensors[0].device.type != "cuda":
        return tuple(values.cpu() for values in tensors)
    found = []
    for values in tensors:
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        found.append(pinned.copy_(values, non_blocking=True))
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return tuple(found)
