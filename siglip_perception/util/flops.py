"""Floating-point operations of a pass, counted by PyTorch; a multiply-add counts as two."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def _linear(x: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return int(2 * prod(out_shape) * x[-1])


def count(job: Callable[[], object]) -> int:
    """Run the job and count its matrix products, attention and packed weights included."""
    mapping = {torch.ops.mkldnn._linear_pointwise: _linear}
    # PyTorch cannot count a CPU's fused attention; the plain form has the same products.
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=mapping) as counter,
    ):
        job()
    return int(counter.get_total_flops())
