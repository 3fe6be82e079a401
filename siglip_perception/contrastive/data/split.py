"""The pairs of --data, split into those to train on and those held out for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siglip_perception.contrastive.data.open import open_data
from siglip_perception.contrastive.data.source_bag import BagOptions
from siglip_perception.contrastive.data.sources import PairSource, Subset
from siglip_perception.errors import PerceptionError

_HOLDOUT_SHARE, _MAX_HOLDOUT = 0.05, 1000
_SPLIT_SEED = 20_231


@dataclass(frozen=True)
class TrainingData:
    """Pairs to train on, and pairs held out for evaluation."""

    train: PairSource
    holdout: PairSource


def open_split(
    names: list[str],
    cache: Path,
    bag: BagOptions,
    captioned: bool,
    strict: bool,
    holdout: int | None = None,
) -> TrainingData:
    """Open the sources that open_data() takes, and hold out some of their pairs.

    holdout: number of pairs held out; None: a twentieth of captioned ones, at most 1000, and none
        of others. The split depends on the number of pairs alone.
    Raises SourceError for unusable data, PerceptionError if nothing is left to train on.
    """
    source = open_data(names, cache, bag, captioned, strict)
    count = len(source)
    if holdout is None:
        holdout = min(int(count * _HOLDOUT_SHARE), _MAX_HOLDOUT) if captioned else 0
    if not 0 <= holdout < count:
        raise PerceptionError(
            f"--holdout {holdout} leaves nothing of {count} pairs to train on: hold out fewer."
        )
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    return TrainingData(Subset(source, order[holdout:]), Subset(source, order[:holdout]))
