"""The sigmoid loss over all pairs of images and texts, a tile of them at a time.

Every pair's term and gradient depend on that pair alone, so a tile of logits is made, its value
and its gradients are taken, and it is forgotten: nothing N x N exists. The gradients are worked
out in the forward pass, while the tile is there, and `backward` only weighs them; the products are
then three for each tile, as many as a loss that keeps its whole matrix has.

Across processes the texts go around a ring, as in SigLIP (Zhai et al. 2023, section 3.3, fig. 1),
the gradient of each with it: after W steps every text is home with what all images say of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn import functional

from siglip_perception.contrastive.losses.ring import Ring, agree, all_equal
from siglip_perception.errors import LossError

_TILE = 1 << 21
"""Pairs of a tile on a CPU, 8 MB in float32: what is done to them stays in its caches."""

_ROWS = 1024
"""Rows of a tile where `chunk_size` is not given."""

_EXACT = 36.0
"""Above it log(1 + exp(x)) is x to the last bit, in float64 too."""


@dataclass(frozen=True)
class Answers:
    """Which pairs belong together: row i and text i, or `target` [N, M] in [0, 1]."""

    target: Tensor | None = None

    def block(self, start: int, stop: int, own: bool) -> Answers | None:
        """Of the texts [start, stop), which are those of one process; None: all answers are no."""
        if self.target is None:
            return self if own else None
        return Answers(self.target[:, start:stop])


@dataclass
class _Sums:
    """Value and gradients of the sum over pairs; None for a gradient that nothing asked for.

    image: [N, d], text: [M, d]; total, scale and bias: of no dimension.
    """

    total: Tensor
    image: Tensor | None
    text: Tensor | None
    scale: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Plan:
    """chunk: rows of a tile. ring: None in one process. wanted: gradients of image, text, rest."""

    chunk: int
    ring: Ring | None
    wanted: tuple[bool, bool, bool]


def pair_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    answers: Answers,
    chunk_size: int | None,
    group: ProcessGroup | None,
) -> Tensor:
    """Sum over texts of -log of the probability of each right answer, mean over the images.

    image: float [N, d]; text: float [M, d]; worked out in float32 at least, autocast or not.
    Raises LossError for shapes that do not fit, here or between processes.
    """
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    scale, bias = (
        torch.as_tensor(number, dtype=dtype, device=image.device)
        for number in (logit_scale, logit_bias)
    )
    wanted = (
        image.requires_grad,
        text.requires_grad,
        scale.requires_grad or bias.requires_grad,
    )
    if not torch.is_grad_enabled():
        wanted = (False, False, False)
    world = 1
    ring = None
    target = answers.target
    if group is not None:
        # Before any check of its own: a process that raises alone leaves the others waiting.
        asked = (*wanted, chunk_size or 0, *(target.shape if target is not None else ()))
        _, world = agree(image, text, group, asked)
        ring = Ring(group) if world > 1 else None
    if chunk_size is not None and chunk_size < 1:
        raise LossError(f"A chunk of {chunk_size} rows is none: chunk_size has to be 1 or more.")
    if target is None:
        check_pairs(image, text)
    elif image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1] or not len(image):
        raise LossError(
            f"Images {list(image.shape)} and texts {list(text.shape)} have to be [N, d] and"
            " [M, d] of the same d, with an image at least."
        )
    elif target.shape != (len(image), world * len(text)):
        raise LossError(
            f"The answers are {list(target.shape)} and have to be"
            f" [{len(image)}, {world * len(text)}], a column for each text of all processes."
        )
    plan = _Plan(chunk_size or min(_ROWS, len(image)), ring, wanted)
    loss: Tensor = _PairLoss.apply(image, text, scale, bias, answers, plan)  # type: ignore[no-untyped-call]
    return loss


def check_pairs(image: Tensor, text: Tensor) -> None:
    """Raises LossError unless both are [N, d] of the same N, 1 or more, and d."""
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
        answers: Answers,
        plan: _Plan,
    ) -> Tensor:
        sums = _evaluate(image, text, scale, bias, answers, plan)
        ctx.save_for_backward(image, text, scale, bias)
        ctx.answers, ctx.plan, ctx.sums = answers, plan, sums
        return sums.total / len(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, bias = ctx.saved_tensors
        ring: Ring | None = ctx.plan.ring
        if ring is not None and not all_equal(weight, ring.group):
            raise LossError(
                "The processes weigh their losses differently: let every process call backward on"
                " the same multiple of its loss."
            )
        # Handed out and weighed in place, so that no gradient is there twice; made anew for a
        # second backward of a retained graph.
        sums: _Sums = ctx.sums or _evaluate(image, text, scale, bias, ctx.answers, ctx.plan)
        ctx.sums = None
        factor = weight / len(image)
        given = [sums.image, sums.text, sums.scale, sums.bias]
        image_gradient, text_gradient, scale_gradient, bias_gradient = (
            None if gradient is None or not needed else gradient.mul_(factor)
            for gradient, needed in zip(given, ctx.needs_input_grad, strict=False)
        )
        return (
            None if image_gradient is None else image_gradient.to(image.dtype),
            None if text_gradient is None else text_gradient.to(text.dtype),
            None if scale_gradient is None else scale_gradient.view(scale.shape),
            None if bias_gradient is None else bias_gradient.view(bias.shape),
            None,
            None,
        )


def _evaluate(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, answers: Answers, plan: _Plan
) -> _Sums:
    """The sums over all pairs of this process' images; the text's gradient is of all images."""
    dtype, device = scale.dtype, image.device
    made: Any = {"dtype": dtype, "device": device}
    sums = _Sums(
        torch.zeros((), **made),
        torch.zeros(image.shape, **made) if plan.wanted[0] else None,
        torch.zeros(text.shape, **made) if plan.wanted[1] else None,
        torch.zeros((), **made),
        torch.zeros((), **made),
    )
    with torch.autocast(device.type, enabled=False):
        if plan.ring is None:
            _add_block(sums, image, text, scale, bias, answers.block(0, len(text), True), plan)
        else:
            _go_around(sums, image, text, scale, bias, answers, plan, plan.ring)
    return sums


def _go_around(
    sums: _Sums,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    answers: Answers,
    plan: _Plan,
    ring: Ring,
) -> None:
    """Each process' texts come by once; their gradients follow one step behind, and end at home.

    The next texts travel while the present ones are worked on.
    """
    visiting = text.contiguous()
    collected = None  # gradients that the visiting texts have gathered so far, still on their way
    for step in range(ring.world):
        owner = (ring.rank - step) % ring.world
        coming = ring.pass_on(visiting) if step < ring.world - 1 else None
        block = answers.block(owner * len(text), (owner + 1) * len(text), step == 0)
        if sums.text is not None:
            sums.text = torch.zeros_like(sums.text)
        _add_block(sums, image, visiting, scale, bias, block, plan)
        if sums.text is not None:
            if collected is not None:
                sums.text += collected.wait()
            collected = ring.pass_on(sums.text)
        if coming is not None:
            visiting = coming.wait()
    if collected is not None:
        sums.text = collected.wait()


def _add_block(
    sums: _Sums,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    answers: Answers | None,
    plan: _Plan,
) -> None:
    """Add all pairs of these images and texts, in tiles of `plan.chunk` rows."""
    rows = min(plan.chunk, len(image))
    columns = max(_TILE // rows, 64) if image.device.type == "cpu" else len(text)
    for top in range(0, len(image), rows):
        x = image[top : top + rows].to(scale.dtype)
        scaled = x * scale
        by_row = torch.zeros_like(x) if plan.wanted[0] or plan.wanted[2] else None
        for left in range(0, len(text), columns):
            y = text[left : left + columns].to(scale.dtype)
            logits = torch.addmm(bias, scaled, y.T)
            value, slope = _value_and_slope(logits, answers, top, left, any(plan.wanted))
            sums.total += value
            if slope is None:
                continue
            if plan.wanted[2]:
                sums.bias += slope.sum()
            if by_row is not None:
                by_row.addmm_(slope, y)
            if sums.text is not None:
                sums.text[left : left + columns].addmm_(slope.T, scaled)
        if by_row is not None:
            sums.scale += (x * by_row).sum()
            if sums.image is not None:
                sums.image[top : top + rows] += by_row.mul_(scale)


def _value_and_slope(
    logits: Tensor, answers: Answers | None, top: int, left: int, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of -log P(right answer) over a tile of logits l, and its derivative by each l.

    top, left: the tile's place in its block. The tile is used up.
    """
    if answers is not None and answers.target is not None:
        rows, columns = logits.shape
        target = answers.target[top : top + rows, left : left + columns].to(logits.dtype)
        value = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        return value, logits.sigmoid_().sub_(target) if with_slope else None
    # -log sigmoid(z l) = log(1 + exp(-z l)), and -z l is l itself but on the diagonal.
    diagonal = logits.diagonal(top - left) if answers is not None else logits.new_empty(0)
    diagonal.neg_()
    value = functional.softplus(logits, threshold=_EXACT).sum()
    if not with_slope:
        return value, None
    logits.sigmoid_()
    diagonal.neg_()
    return value, logits
