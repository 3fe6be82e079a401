"""What the node asks of a model, and how it gets one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from siglip_perception.config import Settings
from siglip_perception.language.instruction import Instruction
from siglip_perception.types import Frame, Task


class PipelineLike(Protocol):
    """What the node needs of pipeline.Pipeline."""

    contract: Any
    fingerprint: str
    grounding: str
    threshold: float
    max_objects: int

    @property
    def backend(self) -> str:
        """What runs the encoders now, in words; read from any thread."""

    def query(self, instruction: Instruction, instruction_id: int = 0) -> Any: ...

    def process(
        self,
        frame: Frame,
        query: Any,
        *,
        with_tokens: bool = True,
        with_mask: bool = False,
    ) -> Any: ...

    def process_batch(self, tasks: Sequence[Task]) -> list[Any]: ...


Loader = Callable[[Settings], PipelineLike]


def load_pipeline(settings: Settings) -> PipelineLike:
    """The real pipeline. Imports PyTorch, which takes seconds: call it on the worker's thread."""
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
