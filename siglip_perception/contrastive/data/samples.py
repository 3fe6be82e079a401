"""Batches of pairs in training order; the pair at a position depends on the seed alone."""

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
from siglip_perception.images.squares import SquareSpec, to_levels
from siglip_perception.types import FloatArray, UInt8Array

_TRIES = 50
_SPARE = 1
Broken = tuple[str, str, str]
"""Name, reason and detail of an unusable pair that another one replaced."""

Remark = tuple[str, str]
"""Name of a pair, and a remark on it."""

Item = tuple[UInt8Array | FloatArray, str, int, list[Broken], list[Remark]]
"""Tower's input, caption, position in the order, unusable pairs skipped on the way, remarks."""


@dataclass(frozen=True)
class PairBatch:
    """This process's B pairs of a step.

    images: uint8 [B, 3, S, S], resized but not normalized, or float32 [B, D], their embeddings.
    seeds: one per pair, for augmentation.
    broken: unusable pairs that were replaced. remarks: on the pairs in the batch.
    failure: error message if the batch could not be loaded, else "".
    """

    images: Tensor
    captions: list[str]
    seeds: list[int]
    broken: list[Broken]
    remarks: list[Remark]
    failure: str = ""

    def __len__(self) -> int:
        return len(self.captions)

    def split(self, count: int) -> list[PairBatch]:
        """Split into `count` equal microbatches, in order; B has to be a multiple of `count`."""
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
    """Maps a position in training to a pair's number; every epoch is a new shuffle.

    shuffle: False keeps the source's order, for evaluation.
    """

    count: int
    seed: int
    shuffle: bool = True

    def __call__(self, place: int) -> int:
        epoch, position = divmod(place, self.count)
        if not self.shuffle:
            return position
        return int(_permutation(self.count, self.seed, epoch)[position])

    def epoch(self, place: int) -> int:
        """Return the epoch that a position falls into, from 0."""
        return place // self.count

    def spare(self, place: int, attempt: int) -> int:
        """Draw a substitute for the unusable pair at a position."""
        rng = np.random.default_rng((self.seed, place, attempt, _SPARE))
        return int(rng.integers(self.count))


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


class PairDataset(Dataset[Item | str]):
    """Loads and resizes the pair at each position, replace_folder unusable ones.

    strict: fail on the first unusable pair instead of replace_folder it.
    """

    def __init__(
        self, source: PairSource, order: Order, square: SquareSpec, strict: bool = False
    ) -> None:
        self._source = source
        self._order = order
        self._square = square
        self._strict = strict

    def __getitem__(self, place: int) -> Item | str:
        """Return the pair, or an error message as a string.

        An exception would reach the main process wrapped in the worker's traceback.
        """
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
            return tower_input(pair, self._square), pair.caption, place, broken, remarks
        return (
            f"{_TRIES} pairs one after the other could not be used, the last"
            f" {describe(*broken[-1])}: check the data."
        )


@dataclass(frozen=True)
class Share:
    """The positions of one process: part `rank` of `world` of every batch of `batch` pairs."""

    batch: int
    rank: int = 0
    world: int = 1

    def places(self, step: int) -> Sequence[int]:
        """Return this process's positions in a step."""
        size = self.batch // self.world
        first = step * self.batch + self.rank * size
        return range(first, first + size)


class _Steps:
    """Batch sampler: the positions of steps first to stop - 1."""

    def __init__(self, share: Share, first: int, stop: int) -> None:
        self._share, self._first, self._stop = share, first, stop

    def __iter__(self) -> Iterator[list[int]]:
        return (list(self._share.places(step)) for step in range(self._first, self._stop))

    def __len__(self) -> int:
        return self._stop - self._first


def tower_input(pair: Pair, square: SquareSpec) -> UInt8Array | FloatArray:
    """Resize a pair's image to uint8 [S, S, 3], or pass on its embedding, float32 [D]."""
    if pair.embedding is not None:
        return pair.embedding
    assert pair.image is not None
    return to_levels(pair.image, square)


def stack_inputs(inputs: Sequence[UInt8Array | FloatArray]) -> Tensor:
    """Stack what tower_input() gives: uint8 [B, 3, S, S], or float32 [B, D]."""
    stacked = torch.from_numpy(np.stack(inputs))
    return stacked if stacked.is_floating_point() else stacked.permute(0, 3, 1, 2)


def _collate(items: list[Item | str]) -> PairBatch:
    failure = next((item for item in items if isinstance(item, str)), None)
    if failure is not None:
        return PairBatch(torch.empty(0), [], [], [], [], failure)
    pairs = [item for item in items if isinstance(item, tuple)]
    images, captions, places, broken, remarks = zip(*pairs, strict=True)
    return PairBatch(
        stack_inputs(images),
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
    """Load the batches of steps first to stop - 1 with that many worker processes.

    Raises SourceError after too many unusable pairs in a row.
    """
    any_dataset: Dataset[Any] = dataset
    loader: DataLoader[PairBatch] = DataLoader(
        any_dataset,
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
