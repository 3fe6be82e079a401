"""Pairs in training order, as batches: what is at a place of the order depends on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siglip_perception.contrastive.data.sources import (
    BrokenPairError,
    Pair,
    PairSource,
    SourceError,
)
from siglip_perception.datasets.skips import describe
from siglip_perception.images.preprocess import ResizeSpec, to_square
from siglip_perception.types import UInt8Array

_TRIES = 50
_SPARE = 1
Broken = tuple[str, str, str]
"""Name, reason and detail of a pair that was replaced by another."""

Remark = tuple[str, str]
"""Name of a pair, and what there is to report of it."""

Item = tuple[UInt8Array, str, int, list[Broken], list[Remark]]
"""Image, caption, place, what was broken on the way to them, and remarks on the pair."""


@dataclass(frozen=True)
class PairBatch:
    """B pairs of this process.

    images: uint8 [B, 3, S, S], resized, not normalized. seeds: one a pair, for what is random
    about it. broken: pairs that had to be replaced. remarks: on those that are here. failure: why
    there are no pairs, or "".
    """

    images: Tensor
    captions: list[str]
    seeds: list[int]
    broken: list[Broken]
    remarks: list[Remark]
    failure: str = ""

    def __len__(self) -> int:
        return len(self.captions)

    def parts(self, count: int) -> list[PairBatch]:
        """Equal parts, one after the other; B has to be a multiple of their number."""
        size = len(self) // count
        return [
            replace(
                self,
                images=self.images[start : start + size],
                captions=self.captions[start : start + size],
                seeds=self.seeds[start : start + size],
            )
            for start in range(0, len(self), size)
        ]


@dataclass(frozen=True)
class Order:
    """Which pair stands at a place: every epoch is a new shuffle of all pairs.

    No epoch: pairs in their own order, for evaluation.
    """

    count: int
    seed: int
    shuffled: bool = True

    def __call__(self, place: int) -> int:
        epoch, position = divmod(place, self.count)
        if not self.shuffled:
            return position
        return int(_permutation(self.count, self.seed, epoch)[position])

    def epoch(self, place: int) -> int:
        """How often all pairs have come before that place."""
        return place // self.count

    def spare(self, place: int, attempt: int) -> int:
        """Another pair for a place whose own is broken."""
        rng = np.random.default_rng((self.seed, place, attempt, _SPARE))
        return int(rng.integers(self.count))


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


class PairDataset(Dataset[Item | str]):
    """The pair at each place of the order, resized, with what was broken on the way.

    strict: whether the first broken pair is a failure.
    """

    def __init__(
        self, source: PairSource, order: Order, square: ResizeSpec, strict: bool = False
    ) -> None:
        self._source = source
        self._order = order
        self._square = square
        self._strict = strict

    def __getitem__(self, place: int) -> Item | str:
        """The pair, or in one sentence why there is none: an error would lose its own words."""
        broken: list[Broken] = []
        for attempt in range(_TRIES):
            number = self._order.spare(place, attempt) if attempt else self._order(place)
            try:
                pair: Pair = self._source.read(number, self._order.epoch(place))
            except BrokenPairError as error:
                if self._strict:
                    return f"{error}; without --strict it is skipped."
                broken.append((error.name, error.reason, error.detail))
                continue
            remarks = [(pair.name, remark) for remark in pair.remarks]
            return to_square(pair.image, self._square), pair.caption, place, broken, remarks
        return (
            f"{_TRIES} pairs one after the other could not be used, the last"
            f" {describe(*broken[-1])}: check the data."
        )


@dataclass(frozen=True)
class Share:
    """Which places a process takes: of each batch of `batch` pairs, part `rank` of `world`."""

    batch: int
    rank: int = 0
    world: int = 1

    def places(self, step: int) -> Sequence[int]:
        """The places of this process in that step."""
        own = self.batch // self.world
        first = step * self.batch + self.rank * own
        return range(first, first + own)


class _Steps:
    """Batches of places for the loader, from a step on."""

    def __init__(self, share: Share, first: int, stop: int) -> None:
        self._share, self._first, self._stop = share, first, stop

    def __iter__(self) -> Iterator[list[int]]:
        return (list(self._share.places(step)) for step in range(self._first, self._stop))

    def __len__(self) -> int:
        return self._stop - self._first


def _collate(items: list[Item | str]) -> PairBatch:
    failure = next((item for item in items if isinstance(item, str)), None)
    if failure is not None:
        return PairBatch(torch.empty(0), [], [], [], [], failure)
    loaded = [item for item in items if isinstance(item, tuple)]
    images, captions, places, broken, remarks = zip(*loaded, strict=True)
    return PairBatch(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        list(captions),
        list(places),
        list(chain.from_iterable(broken)),
        list(chain.from_iterable(remarks)),
    )


def _quiet_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def batches(
    dataset: PairDataset, share: Share, first: int, stop: int, workers: int
) -> Iterator[PairBatch]:
    """The batches of steps first to stop - 1, loaded by that many processes besides.

    Raises SourceError where pair after pair is broken.
    """
    untyped: Dataset[Any] = dataset
    loader: DataLoader[PairBatch] = DataLoader(
        untyped,
        batch_sampler=_Steps(share, first, stop),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if batch.failure:
            raise SourceError(batch.failure)
        yield batch
