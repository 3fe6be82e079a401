"""Loading of the node's pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from siglip_perception.config import Settings

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Pipeline

Loader = Callable[[Settings], "Pipeline"]


def load_pipeline(settings: Settings) -> Pipeline:
    """Load the pipeline for these settings. Imports PyTorch: call it on the worker's thread."""
    from siglip_perception.pipeline import Pipeline, PipelineOptions

    return Pipeline.load(
        PipelineOptions(
            model=settings.model,
            contract=settings.contract,
            backend=settings.backend,
            device=settings.device,
            precision=settings.precision,
            threshold=settings.threshold,
            max_objects=settings.max_objects,
            tokens_dtype=settings.tokens_dtype,
            grounding_model=settings.grounding_model,
            grounding_contract=settings.grounding_contract,
            background=True,
        )
    )
