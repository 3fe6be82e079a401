"""Linear probe on a folder of features: what its frozen vectors tell of their frames' texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from siglip_perception.datasets.class_names import labels_of
from siglip_perception.errors import DatasetError
from siglip_perception.features.reader import FeatureFolder

if TYPE_CHECKING:
    # PyTorch takes seconds: only once there are labels to fit.
    from torch import Tensor

# Of the episodes with a label, one in so many is for the test: frames of one are nearly equal.
_TEST_EVERY = 3


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a linear classifier on episodes that it was not fitted to.

    accuracy: by the features, such as "pooled" or "dinov2 tokens, mean". majority: share of the
    most frequent class. train, test: frames. unlabeled: frames whose text names none, or several.
    """

    accuracy: dict[str, float]
    majority: float
    classes: int
    train: int
    test: int
    unlabeled: int


def probe(folder: FeatureFolder, classes: Sequence[str] = ()) -> ProbeResult:
    """Fit a linear classifier to the labels that texts give; test it on other episodes.

    classes: a frame has the class that its text names; empty: each text is a class of its own.
    Raises DatasetError where labels do not allow a test.
    """
    texts = folder.texts()
    names = list(classes) or list(dict.fromkeys(text for text in texts if text))
    numbers = {name: number for number, name in enumerate(names)}
    labels: list[int | None] = (
        labels_of(texts, names) if classes else [numbers.get(text) for text in texts]
    )
    rows = [row for row, label in enumerate(labels) if label is not None]
    keys = folder.keys()
    episodes = [keys[row][0] for row in rows]
    order = {episode: place for place, episode in enumerate(dict.fromkeys(episodes))}
    test_rows = [order[e] % _TEST_EVERY == _TEST_EVERY - 1 for e in episodes]
    if len(names) < 2 or not any(test_rows) or all(test_rows):
        raise DatasetError(
            f"{folder.path} allows no probe: {len(order)} episodes have one of {len(names)}"
            " classes by their texts, and 3 episodes of 2 classes are needed; name classes with"
            " --classes."
        )
    import torch

    from siglip_perception.evaluation.linear_probe import linear_probe

    in_test = torch.tensor(test_rows)
    truth = torch.tensor([labels[row] for row in rows])
    accuracy = {}
    for name, values in _features(folder, rows):
        accuracy[name] = linear_probe(
            values[~in_test], truth[~in_test], values[in_test], truth[in_test]
        )
    counts = torch.bincount(truth[in_test])
    return ProbeResult(
        accuracy,
        float(counts.max() / counts.sum()),
        len(set(truth.tolist())),
        int((~in_test).sum()),
        int(in_test.sum()),
        len(texts) - len(rows),
    )


def _features(folder: FeatureFolder, rows: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield what is probed: pooled vectors, and the mean of each encoder's tokens, [rows, d]."""
    import torch

    if "pooled" in folder.job.outputs:
        yield "pooled", torch.from_numpy(folder.pooled()[list(rows)])
    if "tokens" not in folder.job.outputs:
        return
    means = []
    for row in rows:
        tokens = folder[row].tokens
        assert tokens is not None
        means.append(tokens.float().mean(dim=0))
    fused = torch.stack(means)
    start = 0
    for encoder in folder.job.pixels["encoders"]:
        stop = start + int(encoder["dim"])
        yield f"{encoder['name']} tokens, mean", fused[:, start:stop]
        start = stop
