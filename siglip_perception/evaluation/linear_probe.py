"""Measure what frozen features encode, against the scene generator's masks and labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.evaluation.metrics import area_under_roc
from siglip_perception.scenes.samples.batches import batches
from siglip_perception.scenes.vocabulary import PHRASE_CLASSES

PROBE_SEED = 7_000_000
"""Far from the seeds of training, validation, evaluation and calibration."""

PURE = 0.8
"""Minimum share of a patch that a thing has to cover for the patch to count as showing it."""


def patch_owners(coverage: Tensor) -> Tensor:
    """Find the thing that each patch shows: coverage float [B, N, K] -> int64 [B, N].

    0 to K - 1: that object; K: background; -1: a mixture.
    """
    background = (1 - coverage.sum(dim=-1, keepdim=True)).clamp_min(0)
    share, owner = torch.cat([coverage, background], dim=-1).max(dim=-1)
    return torch.where(share >= PURE, owner, -1)


def affinity_auroc(features: Tensor, coverage: Tensor, pairs: int = 400, seed: int = 0) -> float:
    """AUROC of patch cosines: P(two patches of one object are closer than two of different ones).

    features: float [B, N, d]; coverage: float [B, N, K]. Samples at most `pairs` pairs of each
    kind per image; one patch of a pair shows an object, the other an object or background.
    """
    generator = np.random.default_rng(seed)
    unit = functional.normalize(features.float(), dim=-1)
    owners = patch_owners(coverage)
    same_object: list[float] = []
    different_things: list[float] = []
    for image, owner in zip(unit, owners, strict=True):
        pure = (owner >= 0).nonzero().ravel()
        objects = pure[owner[pure] < coverage.shape[-1]]
        is_same = owner[objects, None] == owner[pure]
        is_same &= objects[:, None] != pure  # exclude a patch paired with itself
        is_different = owner[objects, None] != owner[pure]
        cosine = image[objects] @ image[pure].T
        for pairs_mask, values in ((is_same, same_object), (is_different, different_things)):
            samples = cosine[pairs_mask].numpy()
            if len(samples) > pairs:
                samples = generator.choice(samples, pairs, replace=False)
            values += samples.tolist()
    return area_under_roc(same_object, different_things)


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, ridge: float = 1e-2
) -> float:
    """Test accuracy of a linear classifier fitted to the training features.

    features: float [M, d]; labels: int64 [M] from 0. Least squares onto one-hot labels with an L2
    penalty of `ridge` per training row; features are standardized first.
    """
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)

    def columns(features: Tensor) -> Tensor:
        z = ((features - mean) / std).double()
        return torch.cat([z, z.new_ones(len(z), 1)], dim=1)

    a = columns(train)
    targets = functional.one_hot(train_labels, int(train_labels.max()) + 1).double()
    penalty = ridge * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    penalty[-1, -1] = 0
    weights = torch.linalg.solve(a.T @ a + penalty, a.T @ targets)
    return float(((columns(test) @ weights).argmax(dim=1) == test_labels).float().mean())


@torch.no_grad()
def scene_metrics(features_of: Callable[[Tensor], Tensor], scenes: int = 120) -> dict[str, float]:
    """Evaluate patch features on generated scenes; linear probes train on two thirds of them.

    features_of: uint8 [B, 3, S, S] -> float [B, N, d]. affinity_auroc: as above, on all scenes.
    kind_probe, color_probe: accuracy on the object patches of the last third.
    """
    features, coverage, answers = [], [], []
    for batch in batches(PROBE_SEED, 0, scenes, min(scenes, 24), workers=0):
        features.append(features_of(batch.images).float().cpu())
        coverage.append(batch.coverage)
        answers.append(batch.answers)
    patches, owners = torch.cat(features), patch_owners(torch.cat(coverage))
    metrics = {"affinity_auroc": affinity_auroc(patches, torch.cat(coverage))}
    things = torch.cat(answers)
    image, place = ((owners >= 0) & (owners < things.shape[1])).nonzero(as_tuple=True)
    phrase_answers = things[image, owners[image, place]]  # [M, C]
    for name, columns in (
        ("kind_probe", [n for n, c in enumerate(PHRASE_CLASSES) if c.color is None]),
        ("color_probe", [n for n, c in enumerate(PHRASE_CLASSES) if c.kind is None]),
    ):
        has_label = phrase_answers[:, columns].any(dim=1)
        labels = phrase_answers[:, columns].argmax(dim=1)
        in_train, in_test = (
            has_label & part for part in (image < 2 * scenes // 3, image >= 2 * scenes // 3)
        )
        rows = patches[image, place]
        metrics[name] = linear_probe(
            rows[in_train], labels[in_train], rows[in_test], labels[in_test]
        )
    return metrics
