"""A user's request: sources, a folder, a model, and what to store of which frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception.features.plan import Output, StoredDtype

if TYPE_CHECKING:
    from siglip_perception.pipeline import PipelineOptions


@dataclass(frozen=True)
class Request:
    """A user's request.

    episodes: None: all. batch, shard_frames: 0: chosen here. phrases: to look for in every frame.
    """

    sources: tuple[str, ...]
    folder: Path
    model: str
    contract: str
    outputs: tuple[Output, ...]
    dtype: StoredDtype
    every: int = 1
    cameras: tuple[str, ...] = ()
    episodes: frozenset[int] | None = None
    phrases: tuple[str, ...] = ()
    batch: int = 0
    shard_frames: int = 0
    grounding_model: str = ""
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    command: str = ""

    def pipeline_options(self) -> PipelineOptions:
        """Options of the pipeline that encodes the frames."""
        from siglip_perception.pipeline import PipelineOptions

        return PipelineOptions(
            self.model,
            self.contract,
            self.backend,
            self.device,
            self.precision,
            grounding_model=self.grounding_model,
        )
