"""Between the host's memory and a GPU's, without waiting more often than must be.

Copies to and from pinned memory run beside the host's own work. PyTorch keeps pinned blocks for
the next caller, and gives none away before the copies that use it have ended.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from siglip_perception.types import UInt8Array


def upload(image: UInt8Array, device: torch.device) -> Tensor:
    """A uint8 image on a CUDA device, in the current stream's order; nothing is waited for."""
    staged = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
    np.copyto(staged.numpy(), image)
    return staged.to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one device in the host's memory, whole; waits once for all of them."""
    if tensors[0].device.type != "cuda":
        return tuple(values.cpu() for values in tensors)
    found = []
    for values in tensors:
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        found.append(pinned.copy_(values, non_blocking=True))
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return tuple(found)
