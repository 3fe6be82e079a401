"""Compute the sigmoid loss over all image-text pairs, one tile of the logits at a time.

Each pair's loss and gradient depend on that pair alone, so a tile of logits can be discarded as
soon as its value and gradients are accumulated: no N x N matrix ever exists. The gradients are
computed in the forward pass, while the tile is in cache, and `backward` only scales them. That
takes three matrix products per tile, as many as a loss that keeps the whole matrix.

Across processes the texts travel around a ring, as in SigLIP (Zhai et al. 2023, section 3.3,
fig. 1), each with its gradient: after W steps every text is home with the gradient of all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn import functional

from siglip_perception.contrastive.losses.ring import Ring, all_equal, check_ranks_agree
from siglip_perception.errors import LossError

_TILE = 1 << 21
"""Pairs per tile on a CPU, 8 MB in float32: small enough to stay in its caches."""

_ROWS = 1024
"""Rows per tile if `chunk_size` is None."""

_EXACT = 36.0
"""Above this, log(1 + exp(x)) equals x to the last bit, in float64 too."""


@dataclass(frozen=True)
class PairTargets:
    """Targets of all pairs: row i matches text i, or `target` [N, M] in [0, 1]."""

    target: Tensor | None = None

    def block(self, start: int, stop: int, is_local: bool) -> PairTargets | None:
        """Select the texts [start, stop) of one process; None means that no pair matches.

        is_local: whether they are this process's own texts.
        """
        if self.target is None:
            return self if is_local else None
        return PairTargets(self.target[:, start:stop])


@dataclass
class _LossSums:
    """Value and gradients of the sum over pairs; None for a gradient that is not needed.

    image: [N, d]; text: [M, d]; total, scale and bias: scalars.
    """

    total: Tensor
    image: Tensor | None
    text: Tensor | None
    scale: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _TileOptions:
    """chunk: rows per tile. ring: None in one process. needs_grad: image, text, scale or bias."""

    chunk: int
    ring: Ring | None
    needs_grad: tuple[bool, bool, bool]


def chunked_sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    targets: PairTargets,
    chunk_size: int | None,
    group: ProcessGroup | None,
) -> Tensor:
    """Sum of -log P(target) over the texts, mean over the images.

    image: float [N, d]; text: float [M, d]. Computed in float32 or wider, even under autocast.
    Raises LossError for shapes that do not match, here or between processes.
    """
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    scale, bias = (
        torch.as_tensor(value, dtype=dtype, device=image.device)
        for value in (logit_scale, logit_bias)
    )
    needs_grad = (
        image.requires_grad,
        text.requires_grad,
        scale.requires_grad or bias.requires_grad,
    )
    if not torch.is_grad_enabled():
        needs_grad = (False, False, False)
    world_size = 1
    ring = None
    target = targets.target
    if group is not None:
        # Before any local check: a process that raises alone would leave the others waiting.
        settings = (*needs_grad, chunk_size or 0, *(target.shape if target is not None else ()))
        _, world_size = check_ranks_agree(image, text, group, settings)
        ring = Ring(group) if world_size > 1 else None
    if chunk_size is not None and chunk_size < 1:
        raise LossError(f"chunk_size is {chunk_size} and has to be 1 or more.")
    if target is None:
        check_shapes(image, text)
    elif image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1] or not len(image):
        raise LossError(
            f"Images {list(image.shape)} and texts {list(text.shape)} have to be [N, d] and"
            " [M, d] of the same d, with at least one image."
        )
    elif target.shape != (len(image), world_size * len(text)):
        raise LossError(
            f"The target is {list(target.shape)} and has to be"
            f" [{len(image)}, {world_size * len(text)}], one column per text of all processes."
        )
    options = _TileOptions(chunk_size or min(_ROWS, len(image)), ring, needs_grad)
    loss: Tensor = _PairLoss.apply(image, text, scale, bias, targets, options)  # type: ignore[no-untyped-call]
    return loss


def check_shapes(image: Tensor, text: Tensor) -> None:
    """Raise LossError unless both are [N, d] with the same N >= 1 and d."""
    if image.ndim != 2 or image.shape != text.shape or not len(image):
        raise LossError(
            f"Images {list(image.shape)} and texts {list(text.shape)} do not pair up: both have to"
            " be [N, d] of the same N and d, with N of 1 or more."
        )


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        targets: PairTargets,
        options: _TileOptions,
    ) -> Tensor:
        sums = _loss_sums(image, text, scale, bias, targets, options)
        ctx.save_for_backward(image, text, scale, bias)
        ctx.targets, ctx.options, ctx.sums = targets, options, sums
        return sums.total / len(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, bias = ctx.saved_tensors
        ring: Ring | None = ctx.options.ring
        if ring is not None and not all_equal(weight, ring.group):
            raise LossError(
                "The processes weight their losses differently: call backward on the same multiple"
                " of the loss in every process."
            )
        # Scaled in place and handed out, so that no gradient exists twice; recomputed for a second
        # backward of a retained graph.
        sums: _LossSums = ctx.sums or _loss_sums(
            image, text, scale, bias, ctx.targets, ctx.options
        )
        ctx.sums = None
        factor = weight / len(image)
        gradients = [sums.image, sums.text, sums.scale, sums.bias]
        image_gradient, text_gradient, scale_gradient, bias_gradient = (
            None if gradient is None or not needs_grad else gradient.mul_(factor)
            for gradient, needs_grad in zip(gradients, ctx.needs_input_grad, strict=False)
        )
        return (
            None if image_gradient is None else image_gradient.to(image.dtype),
            None if text_gradient is None else text_gradient.to(text.dtype),
            None if scale_gradient is None else scale_gradient.view(scale.shape),
            None if bias_gradient is None else bias_gradient.view(bias.shape),
            None,
            None,
        )


def _loss_sums(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    targets: PairTargets,
    options: _TileOptions,
) -> _LossSums:
    """Sum over all pairs of this process's images; the text gradient covers all images."""
    dtype, device = scale.dtype, image.device
    factory: Any = {"dtype": dtype, "device": device}
    sums = _LossSums(
        torch.zeros((), **factory),
        torch.zeros(image.shape, **factory) if options.needs_grad[0] else None,
        torch.zeros(text.shape, **factory) if options.needs_grad[1] else None,
        torch.zeros((), **factory),
        torch.zeros((), **factory),
    )
    with torch.autocast(device.type, enabled=False):
        if options.ring is None:
            _add_block(sums, image, text, scale, bias, targets.block(0, len(text), True), options)
        else:
            _ring_pass(sums, image, text, scale, bias, targets, options, options.ring)
    return sums


def _ring_pass(
    sums: _LossSums,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    targets: PairTargets,
    options: _TileOptions,
    ring: Ring,
) -> None:
    """Process each rank's texts in turn, while the next ones are already on their way.

    Their gradients travel one step behind and end at the rank that owns the texts.
    """
    visiting = text.contiguous()
    text_grad = None  # gradient of the visiting texts so far, in transit
    for step in range(ring.world_size):
        source_rank = (ring.rank - step) % ring.world_size
        next_text = ring.send_recv(visiting) if step < ring.world_size - 1 else None
        block = targets.block(source_rank * len(text), (source_rank + 1) * len(text), step == 0)
        if sums.text is not None:
            sums.text = torch.zeros_like(sums.text)
        _add_block(sums, image, visiting, scale, bias, block, options)
        if sums.text is not None:
            if text_grad is not None:
                sums.text += text_grad.wait()
            text_grad = ring.send_recv(sums.text)
        if next_text is not None:
            visiting = next_text.wait()
    if text_grad is not None:
        sums.text = text_grad.wait()


def _add_block(
    sums: _LossSums,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    targets: PairTargets | None,
    options: _TileOptions,
) -> None:
    """Accumulate all pairs of these images and texts, in tiles of `options.chunk` rows."""
    rows = min(options.chunk, len(image))
    columns = max(_TILE // rows, 64) if image.device.type == "cpu" else len(text)
    for first_row in range(0, len(image), rows):
        x = image[first_row : first_row + rows].to(scale.dtype)
        x_scale = x * scale
        weighted_text = (
            torch.zeros_like(x) if options.needs_grad[0] or options.needs_grad[2] else None
        )
        for first_column in range(0, len(text), columns):
            y = text[first_column : first_column + columns].to(scale.dtype)
            logits = torch.addmm(bias, x_scale, y.T)
            value, grad = _tile_loss_and_grad(
                logits, targets, first_row, first_column, any(options.needs_grad)
            )
            sums.total += value
            if grad is None:
                continue
            if options.needs_grad[2]:
                sums.bias += grad.sum()
            if weighted_text is not None:
                weighted_text.addmm_(grad, y)
            if sums.text is not None:
                sums.text[first_column : first_column + columns].addmm_(grad.T, x_scale)
        if weighted_text is not None:
            sums.scale += (x * weighted_text).sum()
            if sums.image is not None:
                sums.image[first_row : first_row + rows] += weighted_text.mul_(scale)


def _tile_loss_and_grad(
    logits: Tensor, targets: PairTargets | None, first_row: int, first_column: int, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of -log P(target) over a tile of logits l, and its derivative with respect to each l.

    first_row, first_column: position of the tile in its block. Overwrites the tile.
    """
    if targets is not None and targets.target is not None:
        rows, columns = logits.shape
        target = targets.target[
            first_row : first_row + rows, first_column : first_column + columns
        ].to(logits.dtype)
        value = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        return value, logits.sigmoid_().sub_(target) if with_grad else None
    # -log sigmoid(z l) = log(1 + exp(-z l)), and -z l is l except on the diagonal.
    diagonal = (
        logits.diagonal(first_row - first_column) if targets is not None else logits.new_empty(0)
    )
    diagonal.neg_()
    value = functional.softplus(logits, threshold=_EXACT).sum()
    if not with_grad:
        return value, None
    logits.sigmoid_()
    diagonal.neg_()
    return value, logits
