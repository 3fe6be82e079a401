"""A user's request: sources, a folder, a model, and what to store of which frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from siglip_perception.config import ModelSelection
from siglip_perception.features.plan import Output, StoredDtype


@dataclass(frozen=True)
class Request:
    """A user's request.

    episodes: None: all. batch, shard_frames: 0: chosen here. phrases: to look for in every frame.
    """

    sources: tuple[str, ...]
    folder: Path
    selection: ModelSelection
    outputs: tuple[Output, ...]
    dtype: StoredDtype
    every: int = 1
    cameras: tuple[str, ...] = ()
    episodes: frozenset[int] | None = None
    phrases: tuple[str, ...] = ()
    batch: int = 0
    shard_frames: int = 0
    command: str = ""
