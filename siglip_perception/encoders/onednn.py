"""Matrix products on a CPU with weights that are packed for oneDNN once, at load.

PyTorch packs a weight again in every product, and applies GELU in a second pass over the result.
torch.compile packs and fuses too, after compiling for half a minute; these are the operators that
it calls. PyTorch does not document them, so they are tried first: where they are missing or
compute something else, the plain product stays.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.encoders.transformer import Linear, activate

_LOGGER = logging.getLogger(__name__)
# oneDNN's fused operation after a product, and its algorithm.
_POST = {"": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}


class PackedLinear(nn.Module):
    """Linear with a packed weight; the same values up to rounding."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self._dtype = linear.weight.dtype
        self._packed = _reorder(linear.weight)
        self._bias = linear.bias
        is_fused = linear.act in _POST and not _is_slower_fused(linear.act, self._dtype)
        self._post = _POST[linear.act if is_fused else ""]
        self._act = "" if is_fused else linear.act

    def forward(self, values: Tensor) -> Tensor:
        kind, algorithm = self._post
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            values.to(self._dtype), self._packed, self._bias, kind, [], algorithm
        )
        return activate(out, self._act)


def _is_slower_fused(act: str, dtype: torch.dtype) -> bool:
    """True for an activation that PyTorch's second pass computes faster than oneDNN does.

    With AVX2 alone, a product of the embedded model's size with GELU by erf takes 1.37 ms fused
    and 1.21 ms in two passes; with AVX-512 0.60 and 0.67 ms. GELU by tanh is always faster fused.
    """
    return (
        act == "gelu"
        and dtype == torch.float32
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


def _reorder(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return packed


def lay_out(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move to the device and lay weights out as is fastest there, products in `dtype`; once."""
    module.to(device)
    if dtype != torch.float32:
        for part in module.modules():
            if isinstance(part, Linear):
                part.to(dtype)
    if device.type == "cpu":
        pack(module)


def pack(module: nn.Module) -> None:
    """Replace all Linear modules below by packed products, where those work."""
    for name, part in list(module.named_children()):
        if isinstance(part, Linear):
            _warn(part.weight.dtype)
            setattr(module, name, fastest(part))
        else:
            pack(part)


def fastest(linear: Linear) -> nn.Module:
    """Pack a product for the CPU; it stays as it is where packing does not work."""
    return linear if trouble(linear.weight.dtype) else PackedLinear(linear)


@functools.cache
def _warn(dtype: torch.dtype) -> None:
    """Log once why products of this dtype are not packed."""
    if reason := trouble(dtype):
        _LOGGER.warning("oneDNN's packed products in %s are not used: %s", dtype, reason)


@functools.cache
def trouble(dtype: torch.dtype) -> str:
    """Reason why packed products of the dtype cannot be used; empty if they can.

    They are tried on a small example and compared with the plain ones.
    """
    if not torch._C._has_mkldnn:
        return "this PyTorch has no oneDNN"
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(size, 48, generator=generator).to(dtype) for size in (32, 8))
    bias = torch.ones(32, dtype=dtype)
    try:
        with torch.inference_mode():
            for act in _POST:
                plain = Linear(weight, bias, act)
                output: Any = PackedLinear(plain)(x)
                cosine = functional.cosine_similarity(
                    output.double().flatten(), plain(x).double().flatten(), dim=0
                )
                if output.dtype != dtype or not float(cosine) > 0.9999:
                    return f"they give other values (cosine {float(cosine):.4f})"
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    return ""
