"""The gradient of every entry of the N x N matrix, for CLIP's softmax and SigLIP's sigmoid.

The matrix of logits is given to the losses as it is, by embeddings that multiply to it: images
are its rows over t, texts are the unit vectors. The gradient by row i's coordinate j is then t
times the gradient by the logit l_ij, times N so that it does not depend on the batch's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from siglip_perception.contrastive.losses.losses import clip_loss, sigmoid_target_loss
from siglip_perception.experiments.report import (
    GRID,
    INK,
    Options,
    Outcome,
    Value,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N = 8
SCALE = 10.0
TWINS = (2, 5)
"""Two images with the same caption, which is there twice."""
ORPHAN = 3
"""An image whose caption does not describe it: no text of the batch is right."""
SHARD = N // 2
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """cosines: [N, M]. softmax, sigmoid: losses of images and texts. marks: right pairs."""

    title: str
    cosines: Tensor
    softmax: Loss
    sigmoid: Loss
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Gradients:
    """Of one case, by each loss: [N, M]."""

    case: Case
    softmax: Tensor
    sigmoid: Tensor


def cosines(seed: int) -> Tensor:
    """As a half-trained model gives them: 0.45 to 0.75 for the right pairs, about 0.1 else."""
    generator = torch.Generator().manual_seed(seed)
    matrix = 0.1 + 0.15 * torch.randn(N, N, generator=generator)
    matrix.fill_diagonal_(0.0)
    return (matrix + torch.diag(0.45 + 0.3 * torch.rand(N, generator=generator))).clamp(-1, 1)


def learned_bias(matrix: Tensor) -> float:
    """The b that the sigmoid loss would learn on this matrix: its gradient by b is zero."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        yes = torch.sigmoid(SCALE * matrix.double() + middle).sum()
        low, high = (middle, high) if yes < len(matrix) else (low, middle)
    return low


def clip(image: Tensor, text: Tensor) -> Tensor:
    return clip_loss(image, text, SCALE)


def answered(target: Tensor, bias: float) -> Loss:
    """The sigmoid loss with these answers."""
    return lambda image, text: sigmoid_target_loss(image, text, target, SCALE, bias)


def clip_of_shard(image: Tensor, text: Tensor) -> Tensor:
    """What is left of CLIP's loss where only the first texts are there.

    By text nothing changes; by image only some images have their text, and the texts that it
    competes with are fewer.
    """
    logits = SCALE * image @ text.T
    there = torch.arange(len(text))
    by_image = logits.log_softmax(dim=1)[there, there].sum()
    by_text = logits.log_softmax(dim=0)[there, there].sum()
    return -(by_image + by_text) / (2 * len(image))


def entry_gradients(matrix: Tensor, loss: Loss) -> Tensor:
    """N dL/dl_ij of logits l = t cos + b, [N, M]."""
    image = matrix.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(image, torch.eye(matrix.shape[1])), image)[0]
    return gradient / SCALE * len(matrix)


def cases(plain: Tensor, bias: float) -> list[Case]:
    """The four questions, asked of one matrix of cosines."""
    diagonal = tuple((i, i) for i in range(N))
    twins = plain.clone()
    first, second = TWINS
    # One caption: equal columns; two images of the same thing: right for both.
    twins[:, second] = twins[:, first]
    twins[first, first] = twins[first, second] = plain[first, first]
    twins[second, first] = twins[second, second] = plain[second, second]
    two = torch.eye(N)
    two[first, second] = two[second, first] = 1
    orphan = plain.clone()
    orphan[ORPHAN, ORPHAN] = 0.1
    none = torch.eye(N)
    none[ORPHAN, ORPHAN] = 0
    half = plain[:, :SHARD]
    return [
        Case("one right answer a row", plain, clip, answered(torch.eye(N), bias), diagonal),
        Case(
            f"rows {first} and {second}: two right answers",
            twins,
            clip,
            answered(two, bias),
            (*diagonal, (first, second), (second, first)),
        ),
        Case(
            f"row {ORPHAN}: none right",
            orphan,
            clip,
            answered(none, bias),
            tuple(pair for pair in diagonal if pair != (ORPHAN, ORPHAN)),
        ),
        Case(
            "half of the texts not there",
            half,
            clip_of_shard,
            answered(torch.eye(N)[:, :SHARD], bias),
            diagonal[:SHARD],
        ),
    ]


def least_loss(loss: Loss, matrix: Tensor) -> float:
    """What the loss falls to when every logit is free but those of one caption stay equal."""
    free = (matrix * SCALE).clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=1.0)
    first, second = TWINS
    value = torch.zeros(())
    for _ in range(300):
        shown = free.clone()
        shown[:, second] = free[:, first]
        value = loss(shown / SCALE, torch.eye(N))
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(value.detach())


def run(options: Options) -> Outcome:
    """Gradients of each case; what they say about a second, a missing and an absent answer."""
    matrix = cosines(options.seed)
    bias = learned_bias(matrix)
    found = [
        Gradients(case, *(entry_gradients(case.cosines, x) for x in (case.softmax, case.sigmoid)))
        for case in cases(matrix, bias)
    ]
    twins = found[1].case
    indexed = entry_gradients(twins.cosines, answered(torch.eye(N), bias))
    rows = [
        _row("softmax", [f.softmax for f in found], least_loss(clip, twins.cosines)),
        _row("sigmoid", [f.sigmoid for f in found], least_loss(twins.sigmoid, twins.cosines)),
    ]
    settings = {"N": N, "t": SCALE, "b": round(bias, 2), "seed": options.seed}
    return Outcome(settings, rows, _findings(rows[0], rows[1], float(indexed[TWINS])), plot(found))


def _row(name: str, cases: list[Tensor], least: float) -> dict[str, Value]:
    plain, twins, orphan, half = cases
    moved = (half - plain[:, :SHARD]).abs().max() / plain.abs().max()
    return {
        "loss": name,
        "sum of all entries": float(plain.sum()),
        "right pair, mean": float(plain.diagonal().mean()),
        "wrong pair, mean": float(_off(plain).mean()),
        "wrong pair, hardest": float(_off(plain).max()),
        "second right answer": float(twins[TWINS]),
        "least loss with it": least,
        "caption that is wrong": float(orphan[ORPHAN, ORPHAN]),
        "an entry's change with half of the texts missing": float(moved),
    }


def _findings(soft: dict[str, Value], sig: dict[str, Value], indexed: float) -> list[str]:
    second, wrong = "second right answer", "caption that is wrong"
    least, moved = "least loss with it", "an entry's change with half of the texts missing"
    return [
        "Both losses weigh hard pairs most. Softmax: texts compete for an image and images for a"
        " text, so all entries add up to zero, and an entry hangs on all others of its row and"
        f" column: with half of the texts missing it changes by up to {soft[moved]:.0%} of the"
        " largest.",
        "Sigmoid: each entry is a question by itself; the same half missing changes it by"
        f" {sig[moved]:.0%}.",
        "Two right answers: CLIP's loss takes one index a row, so the second right text gets"
        f" {soft[second]:+.2f} where the sigmoid, told that both are right, gives it"
        f" {sig[second]:+.2f}; with every logit free the one cannot fall below {soft[least]:.3f},"
        f" the other falls to {sig[least]:.3f}.",
        "That is the answers' doing and not the function's: a sigmoid that is told only the"
        f" index gives the second right text {indexed:+.2f}.",
        f"None right: softmax has to draw some text near, here the wrong one ({soft[wrong]:+.2f});"
        f" the sigmoid, told so, says no ({sig[wrong]:+.2f}).",
    ]


def _off(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def plot(found: list[Gradients]) -> Figure:
    """A heat map of each case, softmax above and sigmoid below."""
    figure, axes = new_figure(11, 5.4, 2, len(found))
    shown: Any = None
    for column, one in enumerate(found):
        for row, gradient in enumerate((one.softmax, one.sigmoid)):
            axis = axes[row, column]
            shown = axis.imshow(gradient.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
            _write_values(axis, gradient)
            for i, j in one.case.marks:
                frame = ((j - 0.5, i - 0.5), (j + 0.5, i - 0.5), (j + 0.5, i + 0.5))
                corners = [*frame, (j - 0.5, i + 0.5), frame[0]]
                axis.plot(*zip(*corners, strict=True), color=INK, linewidth=1.1)
            axis.grid(visible=False)
            axis.set_xticks(range(gradient.shape[1]))
            axis.set_yticks(range(N))
            axis.tick_params(length=0, labelsize=7)
            axis.set_xlim(-0.55, N - 0.45)
            axis.set_ylim(N - 0.45, -0.55)
            axis.spines[:].set_visible(False)
        axes[0, column].set_title(one.case.title, fontsize=9)
        axes[1, column].set_xlabel("text j")
    axes[0, 0].set_ylabel("CLIP: softmax\nimage i")
    axes[1, 0].set_ylabel("SigLIP: sigmoid\nimage i")
    bar = figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.01)
    bar.set_label("N dL/dlogit: blue draws near, red pushes away", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_edgecolor(GRID)
    return figure


def _write_values(axis: Axes, gradient: Tensor) -> None:
    for i, line in enumerate(gradient.tolist()):
        for j, value in enumerate(line):
            if abs(value) >= 0.005:
                color = "white" if abs(value) > 0.6 else INK
                text = f"{value:+.2f}".replace("0.", ".")
                axis.text(j, i, text, ha="center", va="center", fontsize=6, color=color)
