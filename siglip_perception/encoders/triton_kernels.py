"""Fused kernels for the small steps between a block's matrix products, for a CUDA GPU with Triton.

At one camera's batch a block's products take a few microseconds each, and so does every kernel
between them. PyTorch launches eight of those (residual sums, LayerNorm, casts, GELU); these are
three. They compute what transformer.py computes, in float32 inside; the products stay cuBLAS's.
Triton is part of PyTorch's CUDA builds and compiles on first use, for which it needs a C compiler.
Where it does not work, or gives other values, transformer.py's own kernels stay.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.encoders.transformer import PADDING, Block, Embed, Linear, Mlp, Norm

_LOGGER = logging.getLogger(__name__)
# Elements that one program of the activation kernel handles.
_SPAN = 1024
# The kernel's constant for each transformer.Linear.act.
_ACTS = {"": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3}


@functools.cache
def _kernels() -> tuple[Any, Any]:
    """Define the two kernels, which Triton compiles on first use; raises ImportError without it.

    Inside a function because PyTorch's CPU builds come without Triton.
    """
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def add_norm_kernel(  # type: ignore[no-untyped-def]
        hidden,
        delta,
        weight,
        bias,
        total,
        normed,
        dim,
        eps,
        adds: tl.constexpr,
        span: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        cols = tl.arange(0, span)
        in_row = cols < dim
        offsets = row * dim + cols
        values = tl.load(hidden + offsets, mask=in_row, other=0.0).to(tl.float32)
        if adds:
            values += tl.load(delta + offsets, mask=in_row, other=0.0).to(tl.float32)
            tl.store(total + offsets, values, mask=in_row)
        mean = tl.sum(values, axis=0) / dim
        centered = tl.where(in_row, values - mean, 0.0)
        variance = tl.sum(centered * centered, axis=0) / dim
        standardized = centered * (1.0 / tl.sqrt(variance + eps))
        scale = tl.load(weight + cols, mask=in_row, other=0.0)
        shift = tl.load(bias + cols, mask=in_row, other=0.0)
        out = standardized * scale + shift
        tl.store(normed + offsets, out.to(normed.dtype.element_ty), mask=in_row)

    @triton.jit  # type: ignore[untyped-decorator]
    def activate_kernel(  # type: ignore[no-untyped-def]
        input_ptr, output_ptr, count, act: tl.constexpr, span: tl.constexpr
    ):
        offsets = tl.program_id(0).to(tl.int64) * span + tl.arange(0, span)
        in_range = offsets < count
        x = tl.load(input_ptr + offsets, mask=in_range, other=0.0).to(tl.float32)
        if act == 1:
            x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
        elif act == 2:
            inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
            x = x * tl.sigmoid(2.0 * inner)  # 0.5 * (1 + tanh(z)) is sigmoid(2 z)
        elif act == 3:
            x = x * tl.sigmoid(x)
        tl.store(output_ptr + offsets, x.to(output_ptr.dtype.element_ty), mask=in_range)

    return add_norm_kernel, activate_kernel


def add_norm(
    hidden: Tensor, delta: Tensor | None, norm: Norm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute hidden + delta [R, D] in float32, and its LayerNorm in `dtype`, in one kernel.

    hidden: float32. delta: a block's update in any float dtype; None: zero.

    The LayerNorm's rows are padded to a multiple of PADDING; the padding is uninitialized.
    """
    kernel, _ = _kernels()
    rows, dim = hidden.shape
    total = hidden if delta is None else torch.empty_like(hidden)
    padded = -(-rows // PADDING) * PADDING
    normed = torch.empty(padded, dim, dtype=dtype, device=hidden.device)
    kernel[(rows,)](
        hidden,
        hidden if delta is None else delta,
        norm.weight,
        norm.bias,
        total,
        normed,
        dim,
        norm.eps,
        adds=delta is not None,
        span=1 << (dim - 1).bit_length(),
        num_warps=4,
    )
    return total, normed


def activate(values: Tensor, act: str) -> Tensor:
    """Compute transformer.activate() in one kernel, float32 inside."""
    _, kernel = _kernels()
    values = values.contiguous()
    out = torch.empty_like(values)
    count = values.numel()
    kernel[(-(-count // _SPAN),)](values, out, count, act=_ACTS[act], span=_SPAN, num_warps=4)
    return out


class FusedBlocks(nn.Module):
    """A range of one tower's blocks, called as Tower.run_blocks(); see encoders.Segment."""

    def __init__(
        self, embed: Embed | None, blocks: Iterable[nn.Module], mask: Tensor | None
    ) -> None:
        """Take a range of blocks; embed: the tower's embedding if the range starts from pixels."""
        super().__init__()
        self._embed = embed
        self._blocks = [block for block in blocks if isinstance(block, Block)]
        self._mask = mask
        self._dtype = self._blocks[0].attention.qkv.weight.dtype

    def forward(self, values: Tensor) -> Tensor:
        stream: Tensor = values if self._embed is None else self._embed(values)
        batch, count, dim = stream.shape
        rows = batch * count
        hidden, delta = stream.reshape(rows, dim), None
        for block in self._blocks:
            # Padded rows: cuBLAS is slower over 261 rows, DINOv2's, than over 272; see add_norm.
            hidden, normed = add_norm(hidden, delta, block.norm1, self._dtype)
            qkv = block.attention.qkv(normed)[:rows].view(batch, count, -1)
            context = block.attention.attend(qkv, self._mask)
            attended: Tensor = block.attention.out(context.reshape(rows, dim))
            hidden, normed = add_norm(hidden, attended, block.norm2, self._dtype)
            delta = _mlp(block.mlp, normed)[:rows]
        out = hidden if delta is None else hidden + delta
        return out.view(batch, count, dim)


def _mlp(mlp: Mlp, hidden: Tensor) -> Tensor:
    if mlp.gate is not None:
        gated: Tensor = mlp(hidden)
        return gated
    up = mlp.up
    expanded = activate(functional.linear(hidden, up.weight, up.bias), up.act)
    out: Tensor = mlp.down(expanded)
    return out


@functools.cache
def trouble(device: torch.device, dtype: torch.dtype) -> str:
    """Reason why the kernels cannot be used on this device; empty if they can."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    layer = nn.LayerNorm(48, eps=1e-6).to(device)
    with torch.no_grad():
        layer.weight.copy_(draw(48))
        layer.bias.copy_(draw(48))
    norm, hidden, delta = Norm(layer), draw(5, 48), draw(5, 48).to(dtype)
    try:
        with torch.inference_mode():
            total, padded = add_norm(hidden, delta, norm, dtype)
            normed, expected_sum = padded[: len(hidden)], hidden + delta
            pairs = [(total, expected_sum), (normed, norm(expected_sum).to(dtype))]
            for act in _ACTS:
                plain = Linear(torch.eye(48, device=device).to(dtype), None, act)(delta)
                pairs.append((activate(delta, act), plain))
            for index, (output, reference) in enumerate(pairs):
                tolerance = 1e-5 if dtype == torch.float32 else 2e-2
                if not torch.allclose(
                    output.float(), reference.float(), rtol=tolerance, atol=tolerance
                ):
                    raise RuntimeError(f"kernel {index} gives other values than PyTorch's")
    except Exception as error:  # noqa: BLE001 - Triton's compiler raises anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        _LOGGER.warning("Triton's kernels are not used: %s", reason)
        return reason
    return ""
