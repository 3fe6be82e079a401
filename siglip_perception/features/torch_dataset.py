"""Rows of a folder of features for PyTorch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from siglip_perception.errors import DatasetError

if TYPE_CHECKING:
    from siglip_perception.features.reader import FeatureFolder


class FeatureDataset(Dataset[dict[str, Any]]):
    """Each item is a dict that the DataLoader's own collate takes.

    tokens: [tokens, dim], in the files' mapped memory (of int8: float32, scaled).
    pooled: float32 [D]. episode_index, frame_index: int. camera, text: str.
    cameras: rows to take; empty: all.
    """

    def __init__(
        self, folder: FeatureFolder, outputs: tuple[str, ...], cameras: tuple[str, ...]
    ) -> None:
        available = [name for name in folder.job.outputs if name != "objects"]
        for name in outputs:
            if name not in available:
                raise DatasetError(
                    f"{folder.path} has no {name} for training: it has {', '.join(available)}."
                )
        for camera in cameras:
            if camera not in folder.cameras:
                raise DatasetError(
                    f"{folder.path} has no camera {camera!r}: it has {', '.join(folder.cameras)}."
                )
        self.folder = folder
        self._outputs = outputs or tuple(available)
        self._places = [
            place
            for place, (_, _, camera) in enumerate(folder.keys())
            if not cameras or camera in cameras
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.folder[self._places[index]]
        item: dict[str, Any] = {
            "episode_index": row.episode,
            "frame_index": row.frame,
            "camera": row.camera,
            "text": row.text,
        }
        if "tokens" in self._outputs:
            item["tokens"] = row.tokens
        if "pooled" in self._outputs:
            item["pooled"] = row.pooled
        return item


class ShardSampler(Sampler[int]):
    """All rows once: shards in a new order each epoch, rows shuffled within each.

    starts: first row of each shard, and the end. For a dataset of every camera.
    """

    def __init__(self, starts: npt.NDArray[np.int64], seed: int) -> None:
        self._starts = starts
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as in DistributedSampler."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        for shard in torch.randperm(len(self._starts) - 1, generator=generator).tolist():
            start, stop = int(self._starts[shard]), int(self._starts[shard + 1])
            yield from (start + torch.randperm(stop - start, generator=generator)).tolist()
