"""Precisions of the encoders' products: their dtypes, and whether bfloat16 pays here."""

from __future__ import annotations

import torch

from siglip_perception.backends.base import bf16
from siglip_perception.types import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# First compute capability (Ampere) whose tensor cores have bfloat16.
BF16_CAPABILITY = (8, 0)


def without_bf16(device: torch.device) -> str:
    """Return why bfloat16 is of no use on the device; empty if it beats float32."""
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
        return "" if capable else "the GPU has no bfloat16"
    return "" if bf16.speed().fast else str(bf16.speed())
