"""Plot the gradient of every entry of the N x N logits, for CLIP's softmax and SigLIP's sigmoid.

The losses get embeddings whose products are exactly the desired matrix: the images are its rows,
the texts the unit vectors. The gradient by coordinate j of image i is then t times the gradient by
the logit l_ij; times N, it does not depend on the batch size.
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
"""Two images with the same caption, which appears twice."""
ORPHAN = 3
"""An image whose caption does not describe it: no text of the batch matches."""
SHARD = N // 2
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """cosines: [N, M]. softmax, sigmoid: losses of images and texts. marks: matching pairs."""

    title: str
    cosines: Tensor
    softmax: Loss
    sigmoid: Loss
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Gradients:
    """Gradients of one case under both losses, [N, M] each."""

    case: Case
    softmax: Tensor
    sigmoid: Tensor


def cosines(seed: int) -> Tensor:
    """Make cosines of a half-trained model: 0.45 to 0.75 for matching pairs, else about 0.1."""
    generator = torch.Generator().manual_seed(seed)
    matrix = 0.1 + 0.15 * torch.randn(N, N, generator=generator)
    matrix.fill_diagonal_(0.0)
    return (matrix + torch.diag(0.45 + 0.3 * torch.rand(N, generator=generator))).clamp(-1, 1)


def learned_bias(matrix: Tensor) -> float:
    """Find the b that the sigmoid loss would learn on this matrix, where its gradient is zero."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        yes = torch.sigmoid(SCALE * matrix.double() + middle).sum()
        low, high = (middle, high) if yes < len(matrix) else (low, middle)
    return low


def clip(image: Tensor, text: Tensor) -> Tensor:
    return clip_loss(image, text, SCALE)


def sigmoid_with_targets(target: Tensor, bias: float) -> Loss:
    """Make a sigmoid loss with these targets."""
    return lambda image, text: sigmoid_target_loss(image, text, target, SCALE, bias)


def clip_of_shard(image: Tensor, text: Tensor) -> Tensor:
    """CLIP's loss with only the first texts present.

    Over images nothing changes; over texts, only some images have their own text, among fewer
    competitors.
    """
    logits = SCALE * image @ text.T
    diagonal = torch.arange(len(text))
    by_image = logits.log_softmax(dim=1)[diagonal, diagonal].sum()
    by_text = logits.log_softmax(dim=0)[diagonal, diagonal].sum()
    return -(by_image + by_text) / (2 * len(image))


def entry_gradients(matrix: Tensor, loss: Loss) -> Tensor:
    """Compute N dL/dl_ij for logits l = t cos + b, [N, M]."""
    image = matrix.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(image, torch.eye(matrix.shape[1])), image)[0]
    return gradient / SCALE * len(matrix)


def cases(plain: Tensor, bias: float) -> list[Case]:
    """Derive the four cases from one matrix of cosines."""
    diagonal = tuple((i, i) for i in range(N))
    twins = plain.clone()
    first, second = TWINS
    # The same caption gives equal columns; both columns match both images.
    twins[:, second] = twins[:, first]
    twins[first, first] = twins[first, second] = plain[first, first]
    twins[second, first] = twins[second, second] = plain[second, second]
    two_matches = torch.eye(N)
    two_matches[first, second] = two_matches[second, first] = 1
    orphan = plain.clone()
    orphan[ORPHAN, ORPHAN] = 0.1
    no_match = torch.eye(N)
    no_match[ORPHAN, ORPHAN] = 0
    half = plain[:, :SHARD]
    return [
        Case(
            "one right answer a row",
            plain,
            clip,
            sigmoid_with_targets(torch.eye(N), bias),
            diagonal,
        ),
        Case(
            f"rows {first} and {second}: two right answers",
            twins,
            clip,
            sigmoid_with_targets(two_matches, bias),
            (*diagonal, (first, second), (second, first)),
        ),
        Case(
            f"row {ORPHAN}: none right",
            orphan,
            clip,
            sigmoid_with_targets(no_match, bias),
            tuple(pair for pair in diagonal if pair != (ORPHAN, ORPHAN)),
        ),
        Case(
            "half of the texts not there",
            half,
            clip_of_shard,
            sigmoid_with_targets(torch.eye(N)[:, :SHARD], bias),
            diagonal[:SHARD],
        ),
    ]


def least_loss(loss: Loss, matrix: Tensor) -> float:
    """Minimize the loss over all logits, with the columns of the duplicate caption kept equal."""
    parameters = (matrix * SCALE).clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=1.0)
    first, second = TWINS
    value = torch.zeros(())
    for _ in range(300):
        logits = parameters.clone()
        logits[:, second] = parameters[:, first]
        value = loss(logits / SCALE, torch.eye(N))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return float(value.detach())


def run(options: Options) -> Outcome:
    """Compute the gradients of each case, and compare the losses by them."""
    matrix = cosines(options.seed)
    bias = learned_bias(matrix)
    gradients = [
        Gradients(case, *(entry_gradients(case.cosines, x) for x in (case.softmax, case.sigmoid)))
        for case in cases(matrix, bias)
    ]
    twins = gradients[1].case
    index_gradients = entry_gradients(twins.cosines, sigmoid_with_targets(torch.eye(N), bias))
    rows = [
        _row("softmax", [f.softmax for f in gradients], least_loss(clip, twins.cosines)),
        _row("sigmoid", [f.sigmoid for f in gradients], least_loss(twins.sigmoid, twins.cosines)),
    ]
    settings = {"N": N, "t": SCALE, "b": round(bias, 2), "seed": options.seed}
    return Outcome(
        settings, rows, _findings(rows[0], rows[1], float(index_gradients[TWINS])), plot(gradients)
    )


def _row(name: str, cases: list[Tensor], least: float) -> dict[str, Value]:
    plain, twins, orphan, half = cases
    change = (half - plain[:, :SHARD]).abs().max() / plain.abs().max()
    return {
        "loss": name,
        "sum of all entries": float(plain.sum()),
        "right pair, mean": float(plain.diagonal().mean()),
        "wrong pair, mean": float(_off(plain).mean()),
        "wrong pair, hardest": float(_off(plain).max()),
        "second right answer": float(twins[TWINS]),
        "least loss with it": least,
        "caption that is wrong": float(orphan[ORPHAN, ORPHAN]),
        "an entry's change with half of the texts missing": float(change),
    }


def _findings(soft: dict[str, Value], sig: dict[str, Value], index_gradient: float) -> list[str]:
    second_key, caption_key = "second right answer", "caption that is wrong"
    least_key, change_key = (
        "least loss with it",
        "an entry's change with half of the texts missing",
    )
    return [
        "Both losses weigh hard pairs most. With softmax, texts compete for an image and images"
        " for a text, so all gradients sum to zero, and each depends on its whole row and column:"
        f" without half of the texts, it changes by up to {soft[change_key]:.0%} of the largest.",
        "With the sigmoid, every entry is a question of its own; the same half missing changes it"
        f" by {sig[change_key]:.0%}.",
        "Two matching texts: CLIP's loss takes one index per row, so the second one gets"
        f" {soft[second_key]:+.2f}; the sigmoid, given both targets, gives it"
        f" {sig[second_key]:+.2f}. With every logit free, softmax cannot fall below"
        f" {soft[least_key]:.3f}; the sigmoid falls to {sig[least_key]:.3f}.",
        "The targets make that difference, not the function: a sigmoid that gets only the index"
        f" gives the second matching text {index_gradient:+.2f}.",
        "No matching text: softmax has to attract one, here the wrong caption"
        f" ({soft[caption_key]:+.2f}); the sigmoid, given that target, rejects it"
        f" ({sig[caption_key]:+.2f}).",
    ]


def _off(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def plot(gradients: list[Gradients]) -> Figure:
    """Draw a heat map of each case, softmax above and sigmoid below."""
    figure, axes = new_figure(11, 5.4, 2, len(gradients))
    image: Any = None
    for column, entry in enumerate(gradients):
        for row, gradient in enumerate((entry.softmax, entry.sigmoid)):
            axis = axes[row, column]
            image = axis.imshow(gradient.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
            _write_values(axis, gradient)
            for i, j in entry.case.marks:
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
        axes[0, column].set_title(entry.case.title, fontsize=9)
        axes[1, column].set_xlabel("text j")
    axes[0, 0].set_ylabel("CLIP: softmax\nimage i")
    axes[1, 0].set_ylabel("SigLIP: sigmoid\nimage i")
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.01)
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
