"""Measure retrieval against the number of negatives, for CLIP's softmax and SigLIP's sigmoid.

A larger batch means more negatives, but also more images per step and so fewer steps. To isolate
the negatives, every run takes the same images in the same order with the same batch size, but
computes the loss within groups: only pairs of a group are each other's negatives. Whatever larger
groups learn better is due to negatives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from siglip_perception.contrastive.losses.losses import clip_loss, sigmoid_loss
from siglip_perception.experiments.report import (
    COLORS,
    GRAY,
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
    """Average a loss over groups of `size` pairs."""

    def mean(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        groups = zip(torch.split(image, size), torch.split(text, size), strict=True)
        return torch.stack([loss(x, y, scale, bias) for x, y in groups]).mean()

    return mean


LOSSES: dict[str, Loss] = {
    "softmax (CLIP)": lambda image, text, scale, bias: clip_loss(image, text, scale),
    "sigmoid (SigLIP)": sigmoid_loss,
}


def run(options: Options) -> Outcome:
    """Train with every loss and group size."""
    steps = 6 if options.quick else 900
    scenes, held_out = (256, 64) if options.quick else (6000, 800)
    groups = (2, 8) if options.quick else GROUPS
    training = small_pairs(scenes, seed=options.seed + 1_000)
    test = small_pairs(held_out, seed=options.seed + 2_000, distinct=True)
    recall_by_loss: dict[str, list[float]] = {name: [] for name in LOSSES}
    rows: list[dict[str, Value]] = []
    for size in groups:
        for name, loss in LOSSES.items():
            model = SmallTowers(options.seed, size)
            label = f"{name}, groups of {size}"
            train(model, training, in_groups(loss, size), steps, BATCH, options.seed, label)
            share = retrieval(model, test)
            recall_by_loss[name].append(share)
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
    return Outcome(
        settings, rows, _findings(recall_by_loss, groups, held_out), _plot(recall_by_loss, groups)
    )


def _findings(
    recall_by_loss: dict[str, list[float]], groups: tuple[int, ...], held_out: int
) -> list[str]:
    sentences = [
        f"R@1 among {held_out} captions, with the same images, steps and order in every run:"
    ]
    for name, shares in recall_by_loss.items():
        sentences.append(
            f"{name}: {shares[0]:.1%} with {groups[0] - 1} negative per pair, {shares[-1]:.1%}"
            f" with {groups[-1] - 1}: {shares[-1] / max(shares[0], 1e-9):.1f} times as often."
        )
    worse = [
        f"{name} from {a} to {b}"
        for name, shares in recall_by_loss.items()
        for a, b, x, y in zip(groups, groups[1:], shares, shares[1:], strict=False)
        if y < x
    ]
    noise = 1.96 * math.sqrt(0.25 / (2 * held_out))
    sentences.append(
        f"More negatives did not help: {', '.join(worse)}."
        if worse
        else "Every step up in negatives helped."
    )
    sentences.append(
        f"One seed and {2 * held_out} questions: differences below about {noise:.0%} are noise."
    )
    return sentences


def _plot(recall_by_loss: dict[str, list[float]], groups: tuple[int, ...]) -> Figure:
    figure, axes = new_figure(6, 3.8)
    axis = axes[0, 0]
    for color, (name, shares) in zip(COLORS, recall_by_loss.items(), strict=False):
        axis.plot(groups, [s * 100 for s in shares], color=color, marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(groups, [str(n) for n in groups])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("pairs in a group (each has one negative less)")
    axis.set_ylabel("R@1 on unseen scenes, %")
    axis.set_title("The same images and steps, more negatives")
    axis.legend(frameon=False)
    axis.tick_params(colors=GRAY)
    return figure
