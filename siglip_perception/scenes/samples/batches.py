"""Generated scenes in batches, loaded by PyTorch's worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siglip_perception.scenes.samples.items import RenderedShare, SceneItem, scene_item
from siglip_perception.scenes.scenes import MAX_OBJECTS


@dataclass(frozen=True)
class Batch:
    """B scenes.

    images: uint8 [B, 3, S, S], resized as in the node, not normalized.
    coverage: float32 [B, N, K], share of each patch covered by each thing: objects, then clutter,
        then zeros.
    answers: float32 [B, K, C], 1 if phrase class C names thing K; clutter has only a color.
    captions: B sentences.
    """

    images: Tensor
    coverage: Tensor
    answers: Tensor
    captions: list[str]


class SceneDataset(Dataset[SceneItem]):
    """Samples [start, stop) of a seed; evaluation uses other seeds than training.

    objects: most named objects in a drawn scene. rendered: the share of rendered scenes.
    """

    def __init__(
        self,
        seed: int,
        start: int,
        stop: int,
        rendered: RenderedShare | None = None,
        objects: int = MAX_OBJECTS,
    ) -> None:
        self._seed = seed
        self._start = start
        self._stop = stop
        self._rendered = rendered
        self._objects = objects

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> SceneItem:
        return scene_item(self._seed, self._start + index, self._rendered, self._objects)


class RepeatedScenes(Dataset[SceneItem]):
    """The first `count` scenes of a seed again and again, each drawn once and kept in memory."""

    def __init__(
        self,
        seed: int,
        start: int,
        stop: int,
        count: int,
        rendered: RenderedShare | None = None,
        objects: int = MAX_OBJECTS,
    ) -> None:
        self._scenes = SceneDataset(seed, 0, count, rendered, objects)
        self._start, self._stop = start, stop
        self._kept: dict[int, SceneItem] = {}

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> SceneItem:
        number = (self._start + index) % len(self._scenes)
        if number not in self._kept:
            self._kept[number] = self._scenes[number]
        return self._kept[number]


def _collate(samples: list[SceneItem]) -> Batch:
    images, coverage, answers, captions = zip(*samples, strict=True)
    return Batch(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack(coverage)),
        torch.from_numpy(np.stack(answers)),
        list(captions),
    )


def _quiet_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def batches(
    seed: int,
    start: int,
    stop: int,
    size: int,
    workers: int = 1,
    rendered: RenderedShare | None = None,
    objects: int = MAX_OBJECTS,
    repeated: int = 0,
) -> DataLoader[Batch]:
    """Load samples [start, stop) of a seed in order, in batches of `size`.

    objects: most in a drawn scene. repeated: number of different scenes, 0: every one is new.
    """
    dataset: Dataset[Any] = (
        RepeatedScenes(seed, start, stop, repeated, rendered, objects)
        if repeated
        else SceneDataset(seed, start, stop, rendered, objects)
    )
    return DataLoader(
        dataset,
        batch_size=size,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_quiet_worker,
    )
