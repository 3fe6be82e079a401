"""What features know without having been told: measures on the generator's masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.evaluation.metrics import area_under_roc
from siglip_perception.scenes.samples import batches
from siglip_perception.scenes.vocabulary import PHRASE_CLASSES

PROBE_SEED = 7_000_000
"""Far from the seeds of training, validation, evaluation and calibration."""

PURE = 0.8
"""Share of a patch that one thing has to cover for the patch to count as showing that thing."""


def patch_owners(coverage: Tensor) -> Tensor:
    """The thing that each patch shows: int64 [B, N] of coverage float [B, N, K].

    0 to K - 1: that object; K: background; -1: several things share the patch.
    """
    background = (1 - coverage.sum(dim=-1, keepdim=True)).clamp_min(0)
    share, owner = torch.cat([coverage, background], dim=-1).max(dim=-1)
    return torch.where(share >= PURE, owner, -1)


def affinity_auroc(features: Tensor, coverage: Tensor, pairs: int = 400, seed: int = 0) -> float:
    """P(two patches of one object are more alike than two of different things), by cosine.

    features: float [B, N, d]; coverage: float [B, N, K]. At most `pairs` pairs of each sort from
    each image; one patch of a pair always shows an object, the other an object or background.
    """
    generator = np.random.default_rng(seed)
    unit = functional.normalize(features.float(), dim=-1)
    owners = patch_owners(coverage)
    same: list[float] = []
    different: list[float] = []
    for image, owner in zip(unit, owners, strict=True):
        pure = (owner >= 0).nonzero().ravel()
        objects = pure[owner[pure] < coverage.shape[-1]]
        alike = owner[objects, None] == owner[pure]
        alike &= objects[:, None] != pure  # a patch with itself says nothing
        apart = owner[objects, None] != owner[pure]
        cosine = image[objects] @ image[pure].T
        for chosen, values in ((alike, same), (apart, different)):
            found = cosine[chosen].numpy()
            if len(found) > pairs:
                found = generator.choice(found, pairs, replace=False)
            values += found.tolist()
    return area_under_roc(same, different)


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, ridge: float = 1e-2
) -> float:
    """Share of test rows that a linear map of the features labels right, fitted to train rows.

    features: float [M, d]; labels: int64 [M] from 0. Least squares onto one-hot labels with an L2
    penalty of `ridge` times the features' mean variance; features are standardized first.
    """
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)

    def columns(features: Tensor) -> Tensor:
        scaled = ((features - mean) / std).double()
        return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1)

    a = columns(train)
    wanted = functional.one_hot(train_labels, int(train_labels.max()) + 1).double()
    penalty = ridge * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    penalty[-1, -1] = 0
    weights = torch.linalg.solve(a.T @ a + penalty, a.T @ wanted)
    return float(((columns(test) @ weights).argmax(dim=1) == test_labels).float().mean())


@torch.no_grad()
def scene_figures(features_of: Callable[[Tensor], Tensor], scenes: int = 120) -> dict[str, float]:
    """What patch features tell of generated scenes, of which the probes see two thirds.

    features_of: uint8 [B, 3, S, S] -> float [B, N, d]. affinity_auroc: as above, on all scenes.
    kind_probe, color_probe: share of the last third's patches of objects whose kind or color a
    linear map of their features tells.
    """
    features, coverage, answers = [], [], []
    for batch in batches(PROBE_SEED, 0, scenes, min(scenes, 24), workers=0):
        features.append(features_of(batch.images).float().cpu())
        coverage.append(batch.coverage)
        answers.append(batch.answers)
    patches, owners = torch.cat(features), patch_owners(torch.cat(coverage))
    figures = {"affinity_auroc": affinity_auroc(patches, torch.cat(coverage))}
    things = torch.cat(answers)
    image, place = ((owners >= 0) & (owners < things.shape[1])).nonzero(as_tuple=True)
    asked = things[image, owners[image, place]]  # [M, C]
    for name, columns in (
        ("kind_probe", [n for n, c in enumerate(PHRASE_CLASSES) if c.color is None]),
        ("color_probe", [n for n, c in enumerate(PHRASE_CLASSES) if c.kind is None]),
    ):
        named = asked[:, columns].any(dim=1)
        labels = asked[:, columns].argmax(dim=1)
        fitted, held = (
            named & part for part in (image < 2 * scenes // 3, image >= 2 * scenes // 3)
        )
        rows = patches[image, place]
        figures[name] = linear_probe(rows[fitted], labels[fitted], rows[held], labels[held])
    return figures
