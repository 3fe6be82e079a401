"""What the node does with frames, instructions and questions: all of it on the worker's thread."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError, InstructionError, PerceptionError
from siglip_perception.instruction import Instruction, from_phrases, parse
from siglip_perception.node.conversions import stamp_ns, to_frame
from siglip_perception.node.counters import Level
from siglip_perception.node.mailbox import Item
from siglip_perception.node.stamps import too_old
from siglip_perception.types import Frame, Grounding

MAX_NOT_FINITE = 3
MAX_FAILURES = 3
MAX_OUT_OF_MEMORY = 3
OUT_OF_MEMORY_SECONDS = 10.0


class PipelineLike(Protocol):
    """What the node needs of pipeline.Pipeline."""

    contract: Any
    fingerprint: str
    backend: str
    threshold: float
    max_objects: int

    def query(self, instruction: Instruction, instruction_id: int = 0) -> Any: ...

    def process(
        self,
        frame: Frame,
        query: Any,
        *,
        with_tokens: bool = True,
        with_mask: bool = False,
    ) -> Any: ...


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
        )
    )


class Outputs(Protocol):
    """Where results go: the node's publishers."""

    def wants_mask(self, camera: str) -> bool:
        """Whether someone looks at the overlay, which is better with masks."""

    def publish(self, item: Item, frame: Frame, result: Any, publish_mask: bool) -> bool:
        """Tokens and objects, both or neither; whether they were published."""

    def publish_overlay(self, item: Item, frame: Frame, result: Any, quality: int) -> None:
        """The overlay, where someone looks at it."""


@dataclass(frozen=True)
class InstructionState:
    """What /diagnostics says of the instruction."""

    state: str = "no_instruction"
    level: Level = Level.OK
    detail: str = ""
    instruction_id: int = 0
    text: str = ""
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelState:
    """What /diagnostics says of the model. timings: seconds of the last frame, by part."""

    loaded: bool = False
    backend: str = ""
    contract: str = ""
    fingerprint: str = ""
    timings: Mapping[str, float] | None = None
    trouble: str = ""
    trouble_at: float = 0.0


class Perceiver:
    """Owns the pipeline and the query. But for the two states, call it on the worker's thread.

    now_ns: the node's clock. epoch: the mailbox's, of a camera. report: logs an error.
    fatal: called with a sentence where only a new process can help.
    """

    def __init__(
        self,
        outputs: Outputs,
        load: Loader,
        settings: Callable[[], Settings],
        now_ns: Callable[[], int],
        epoch: Callable[[str], int],
        report: Callable[[str], None],
        fatal: Callable[[str], None],
    ) -> None:
        self._outputs = outputs
        self._load = load
        self._settings = settings
        self._now_ns = now_ns
        self._epoch = epoch
        self._report = report
        self._fatal = fatal
        self._pipeline: PipelineLike | None = None
        self._query: Any = None
        self._heard: str | None = None
        self._text: str | None = None
        self._numbered = ""
        self._instruction_id = 0
        self._not_finite = 0
        self._failures = 0
        self._out_of_memory: deque[float] = deque(maxlen=MAX_OUT_OF_MEMORY)
        self._lock = threading.Lock()
        self._instruction_state = InstructionState()
        self._model_state = ModelState()

    @property
    def instruction_state(self) -> InstructionState:
        with self._lock:
            return self._instruction_state

    @property
    def model_state(self) -> ModelState:
        with self._lock:
            return self._model_state

    def load(self) -> None:
        """Loads the model, and encodes the instruction anew; raises PerceptionError."""
        settings = self._settings()
        pipeline = self._load(settings)
        self._pipeline = pipeline
        self._not_finite = self._failures = 0
        self._set_model_state(
            ModelState(
                loaded=True,
                backend=pipeline.backend,
                contract=str(pipeline.contract.name),
                fingerprint=pipeline.fingerprint,
            )
        )
        self._text = None
        self._instruct(settings.instruction if self._heard is None else self._heard)

    def unload(self) -> None:
        """Frees the model and its memory; the instruction is kept."""
        self._pipeline = None
        self._query = None
        self._set_model_state(ModelState())
        _free_memory()

    def hear(self, text: str) -> None:
        """Takes an instruction from the topic: encodes it if it differs from the one before."""
        self._heard = text
        self._instruct(text)

    def _instruct(self, text: str) -> None:
        pipeline = self._pipeline
        if pipeline is None or text == self._text:
            return
        self._text = text
        # Nothing of the instruction before may be answered while this one is being looked at.
        self._query = None
        try:
            instruction = parse(text)
        except InstructionError as error:
            self._set_instruction_state(
                InstructionState("instruction_rejected", Level.WARN, str(error))
            )
            return
        if not instruction.text:
            self._set_instruction_state(_empty(instruction))
            return
        if instruction.text != self._numbered:
            self._numbered = instruction.text
            self._instruction_id += 1
        state = InstructionState(
            "instruction",
            instruction_id=self._instruction_id,
            text=instruction.text,
            phrases=instruction.phrases,
        )
        if not instruction.phrases:
            self._set_instruction_state(
                replace(
                    state,
                    state="no_phrase",
                    level=Level.WARN,
                    detail="the instruction names no object; tokens go on without objects",
                )
            )
            return
        query = pipeline.query(instruction, self._instruction_id)
        self._query = query
        warnings = []
        if instruction.changed:
            warnings.append("control, bidi or special-token text was taken out, or it was cut")
        if any(query.truncated):
            cut = [p for p, t in zip(query.phrases, query.truncated, strict=True) if t]
            warnings.append(f"longer than the text context and cut: {', '.join(cut)}")
        if warnings:
            state = replace(state, level=Level.WARN, detail="; ".join(warnings))
        self._set_instruction_state(state)

    def serve(self, item: Item) -> None:
        """One frame, from its message to its outputs; it is published or dropped with a reason."""
        settings = self._settings()
        old = too_old(stamp_ns(item.message.header), self._now_ns(), settings.max_age)
        if old is not None:
            item.ticket.drop(old.reason, old.text, old.level)
            return
        try:
            frame = to_frame(item.message, item.camera, settings)
        except ImageError as error:
            item.ticket.drop(error.reason, str(error))
            return
        result = self._process(item, frame, settings)
        if result is None:
            return
        if item.epoch != self._epoch(item.camera):
            item.ticket.drop("time_jump", "time jumped back while the frame was processed")
        elif self._outputs.publish(item, frame, result, settings.publish_mask):
            item.ticket.publish()
            self._outputs.publish_overlay(item, frame, result, settings.overlay_quality)
        else:
            item.ticket.drop("inactive")

    def _process(self, item: Item, frame: Frame, settings: Settings) -> Any | None:
        """The pipeline's result; None where the frame was dropped."""
        pipeline = self._pipeline
        if pipeline is None:
            item.ticket.drop("inactive")
            return None
        pipeline.threshold = settings.threshold
        pipeline.max_objects = settings.max_objects
        with_mask = settings.publish_mask or self._outputs.wants_mask(item.camera)
        try:
            result = pipeline.process(frame, self._query, with_mask=with_mask)
        except FloatingPointError as error:
            item.ticket.drop("not_finite", str(error))
            self._count_not_finite()
            return None
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the camera goes on
            if is_out_of_memory(error):
                item.ticket.drop("out_of_memory", _sentence(error))
                self._count_out_of_memory()
            else:
                item.ticket.drop("failed", _sentence(error))
                self._count_failure()
            return None
        self._not_finite = self._failures = 0
        with self._lock:
            self._model_state = replace(self._model_state, timings=result.timings)
        return result

    def _count_not_finite(self) -> None:
        self._not_finite += 1
        if self._not_finite < MAX_NOT_FINITE:
            return
        self._trouble(f"{MAX_NOT_FINITE} frames in a row gave NaN or infinity: model loaded anew")
        self.unload()
        try:
            self.load()
        except PerceptionError as error:
            self._fatal(f"the model cannot be loaded again: {error}")

    def _count_out_of_memory(self) -> None:
        _free_memory()
        now = time.monotonic()
        self._out_of_memory.append(now)
        recent = [at for at in self._out_of_memory if now - at <= OUT_OF_MEMORY_SECONDS]
        if len(recent) >= MAX_OUT_OF_MEMORY:
            self._fatal(
                f"out of memory {len(recent)} times in {OUT_OF_MEMORY_SECONDS:g} s; the node ends "
                "so that it can be started afresh"
            )

    def _count_failure(self) -> None:
        self._report(f"the model failed on a frame:\n{traceback.format_exc()}")
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self._fatal(f"the model failed on {MAX_FAILURES} frames in a row; the node ends.")

    def ground(self, phrases: list[str], message: Any, camera: str, with_mask: bool) -> Grounding:
        """What the phrases name in this image; raises PerceptionError with one sentence."""
        pipeline = self._pipeline
        if pipeline is None:
            raise PerceptionError("no model is loaded.")
        settings = self._settings()
        instruction = from_phrases(phrases)
        if not instruction.phrases:
            raise InstructionError("there is no phrase to look for; name at least one.")
        frame = to_frame(message, camera, settings)
        pipeline.threshold = settings.threshold
        pipeline.max_objects = settings.max_objects
        try:
            query = pipeline.query(instruction, 0)
            result = pipeline.process(frame, query, with_tokens=False, with_mask=with_mask)
        except FloatingPointError as error:
            raise PerceptionError(f"the image cannot be used: {error}") from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            _free_memory()
            raise PerceptionError("there is not enough memory for this image.") from error
        grounding: Grounding = result.grounding
        return grounding

    def _trouble(self, text: str) -> None:
        with self._lock:
            self._model_state = replace(
                self._model_state, trouble=text, trouble_at=time.monotonic()
            )

    def _set_instruction_state(self, state: InstructionState) -> None:
        with self._lock:
            self._instruction_state = state

    def _set_model_state(self, state: ModelState) -> None:
        with self._lock:
            before = self._model_state
            self._model_state = replace(
                state, trouble=before.trouble, trouble_at=before.trouble_at
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is PyTorch's or Python's way to say that memory is used up."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _empty(instruction: Instruction) -> InstructionState:
    if not instruction.changed:
        return InstructionState()
    return InstructionState(
        level=Level.WARN,
        detail="nothing was left after control, bidi and special-token text was taken out",
    )


def _sentence(error: BaseException) -> str:
    """The first line of an error's text, with its type."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
