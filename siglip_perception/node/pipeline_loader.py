"""Loading of the node's pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from siglip_perception.config import Settings

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Pipeline

# Room of the code -> what loading does there.
_STEPS = {
    "checkpoints": "reading the model folder",
    "contracts": "reading the contract",
    "encoders": "preparing the encoders",
    "backends": "starting the backend",
    "language": "encoding the instruction",
    "stream": "encoding the instruction",
}

Loader = Callable[[Settings], "Pipeline"]


def step_of(modules: Sequence[str]) -> str:
    """Say what a thread does, from the modules that it is in, the innermost first."""
    for module in modules:
        package, _, rest = module.partition(".")
        step = _STEPS.get(rest.partition(".")[0]) if package == "siglip_perception" else None
        if step is not None:
            return step
    return "importing PyTorch or loading the model"


def load_pipeline(settings: Settings) -> Pipeline:
    """Load the pipeline for these settings. Imports PyTorch: call it on the worker's thread."""
    from siglip_perception.pipeline import Pipeline, PipelineOptions

    return Pipeline.load(
        settings.selection,
        PipelineOptions(
            threshold=settings.score_threshold,
            max_objects=settings.max_objects,
            windows=settings.windows,
            tokens_dtype=settings.tokens_dtype,
            background=True,
        ),
    )
