"""Retrieval against the number of negatives, for CLIP's softmax and SigLIP's sigmoid.

A larger batch brings more negatives, more images a step and, with the same images in all, fewer
steps. To see the negatives alone, every run here takes the same images in the same order, as many
in a step as every other, and only compares them within groups: B pairs of a group are each other's
negatives. What the larger groups learn better, they learn from negatives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from siglip_perception.contrastive.losses.losses import clip_loss, sigmoid_loss
from siglip_perception.experiments.report import (
    COLORS,
    MUTED,
    Options,
    Outcome,
    Value,
    new_figure,
)
from siglip_perception.experiments.toy_model import (
    Loss,
    SmallTowers,
    retrieval,
    small_pairs,
    train,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 128
GROUPS = (2, 8, 32, 128)


def in_groups(loss: Loss, size: int) -> Loss:
    """The mean of the loss over groups of `size` pairs."""

    def mean(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        groups = zip(torch.split(image, size), torch.split(text, size), strict=True)
        return torch.stack([loss(x, y, scale, bias) for x, y in groups]).mean()

    return mean


LOSSES: dict[str, Loss] = {
    "softmax (CLIP)": lambda image, text, scale, bias: clip_loss(image, text, scale),
    "sigmoid (SigLIP)": sigmoid_loss,
}


def run(options: Options) -> Outcome:
    """Every loss with every size of group."""
    steps = 6 if options.quick else 900
    scenes, held_out = (256, 64) if options.quick else (6000, 800)
    groups = (2, 8) if options.quick else GROUPS
    training = small_pairs(scenes, seed=options.seed + 1_000)
    test = small_pairs(held_out, seed=options.seed + 2_000, distinct=True)
    found: dict[str, list[float]] = {name: [] for name in LOSSES}
    rows: list[dict[str, Value]] = []
    for size in groups:
        for name, loss in LOSSES.items():
            model = SmallTowers(options.seed, size)
            label = f"{name}, groups of {size}"
            train(model, training, in_groups(loss, size), steps, BATCH, options.seed, label)
            share = retrieval(model, test)
            found[name].append(share)
            print(f"{label}: R@1 {share:.1%}", flush=True)
            rows.append(
                {
                    "pairs compared": size,
                    "negatives a pair": size - 1,
                    "loss": name,
                    "R@1, %": share * 100,
                    "learned t": float(model.log_scale.detach().exp()),
                    "learned b": float(model.bias.detach()) if "sigmoid" in name else None,
                }
            )
    settings = {
        "scenes": scenes,
        "held out": held_out,
        "images a step": BATCH,
        "steps": steps,
        "seed": options.seed,
    }
    return Outcome(settings, rows, _findings(found, groups, held_out), _plot(found, groups))


def _findings(found: dict[str, list[float]], groups: tuple[int, ...], held_out: int) -> list[str]:
    said = [
        f"The same images, steps and order; of {held_out} captions the right one is found first:"
    ]
    for name, shares in found.items():
        said.append(
            f"{name} {shares[0]:.1%} with {groups[0] - 1} negative a pair and {shares[-1]:.1%}"
            f" with {groups[-1] - 1}, {shares[-1] / max(shares[0], 1e-9):.1f} times as often."
        )
    worse = [
        f"{name} from {a} to {b}"
        for name, shares in found.items()
        for a, b, x, y in zip(groups, groups[1:], shares, shares[1:], strict=False)
        if y < x
    ]
    noise = 1.96 * math.sqrt(0.25 / (2 * held_out))
    said.append(
        f"More negatives did not help {', '.join(worse)}."
        if worse
        else "Every step up in negatives helped."
    )
    said.append(
        f"One seed, and {2 * held_out} questions: differences below about {noise:.0%} are chance."
    )
    return said


def _plot(found: dict[str, list[float]], groups: tuple[int, ...]) -> Figure:
    figure, axes = new_figure(6, 3.8)
    axis = axes[0, 0]
    for color, (name, shares) in zip(COLORS, found.items(), strict=False):
        axis.plot(groups, [s * 100 for s in shares], color=color, marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(groups, [str(n) for n in groups])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("pairs that are compared with each other (each has one less negatives)")
    axis.set_ylabel("R@1 on unseen scenes, %")
    axis.set_title("The same images and steps, more negatives")
    axis.legend(frameon=False)
    axis.tick_params(colors=MUTED)
    return figure
