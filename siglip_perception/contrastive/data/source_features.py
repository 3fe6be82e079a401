"""Folders of features as pairs: pooled vectors in place of images, with each frame's own text.

An image tower that is kept frozen gives the same vector in every epoch: here it is read.
"""

from __future__ import annotations

from pathlib import Path

from siglip_perception.contrastive.data.sources import (
    BrokenPairError,
    Pair,
    SourceError,
    clean_caption,
)
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.features.job import MANIFEST
from siglip_perception.features.reader import FeatureFolder


def is_features(path: Path) -> bool:
    """Return whether a folder is one that `siglip-perception features` has written."""
    return (path / MANIFEST).is_file()


class FeatureSource:
    """Rows with a text, in the order of the folder; rows without one are skipped."""

    def __init__(self, path: Path, strict: bool = False) -> None:
        self.report = SkipReport(strict)
        self._folder = FeatureFolder(path)
        if "pooled" not in self._folder.job.outputs:
            raise SourceError(
                f"{path} has no pooled vectors to train on: write them with --outputs pooled."
            )
        self._rows: list[int] = []
        for place, (text, key) in enumerate(
            zip(self._folder.texts(), self._folder.keys(), strict=True)
        ):
            if text:
                self._rows.append(place)
            else:
                name = f"{path}: episode {key[0]}, frame {key[1]}"
                self.report.skip("frame without a text", name)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int, epoch: int = 0) -> Pair:
        row = self._folder[self._rows[index]]
        name = f"{self._folder.path}: episode {row.episode}, frame {row.frame}"
        if row.pooled is None:
            raise BrokenPairError(name, "frame without a pooled vector")
        return Pair(None, clean_caption(name, row.text), name, (), row.pooled.numpy())
