"""What the node does with frames, instructions and questions: all of it on the worker's thread."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from siglip_perception.config import Settings
from siglip_perception.depth_feed import DepthFeed
from siglip_perception.errors import ImageError, InstructionError, PerceptionError
from siglip_perception.instruction import Instruction, from_phrases
from siglip_perception.node.continuity import Continuity
from siglip_perception.node.conversions import stamp_ns, to_frame
from siglip_perception.node.counters import Clock
from siglip_perception.node.listener import InstructionState, Listener
from siglip_perception.node.mailbox import Item
from siglip_perception.node.memory import free_memory, is_out_of_memory
from siglip_perception.node.stamps import too_old
from siglip_perception.types import Frame, Grounding

MAX_NOT_FINITE = 3
MAX_FAILURES = 3
MAX_OUT_OF_MEMORY = 3
OUT_OF_MEMORY_SECONDS = 10.0
# One kind of error is logged at most once in so many seconds.
REPORT_SECONDS = 5.0


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

    def publish(self, item: Item, result: Any, publish_mask: bool) -> bool:
        """Tokens and objects, both or neither; whether they were published."""

    def publish_overlay(self, item: Item, frame: Frame, result: Any, quality: int) -> None:
        """The overlay, where someone looks at it."""


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

    now_ns: the node's clock. epoch: the mailbox's, of a camera. depth: a camera's feed of depth.
    report: logs an error. fatal: called with a sentence where only a new process can help.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        outputs: Outputs,
        load: Loader,
        settings: Callable[[], Settings],
        now_ns: Callable[[], int],
        epoch: Callable[[str], int],
        depth: Callable[[str], DepthFeed],
        report: Callable[[str], None],
        fatal: Callable[[str], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._outputs = outputs
        self._load = load
        self._settings = settings
        self._now_ns = now_ns
        self._epoch = epoch
        self._continuity = Continuity(depth, now_ns)
        self._report = report
        self._fatal = fatal
        self._clock = clock
        self._reported: dict[str, float] = {}
        self._listener = Listener(self._tell, clock)
        self._pipeline: PipelineLike | None = None
        self._not_finite = 0
        self._failures = 0
        self._out_of_memory: deque[float] = deque(maxlen=MAX_OUT_OF_MEMORY)
        self._lock = threading.Lock()
        self._model_state = ModelState()

    @property
    def instruction_state(self) -> InstructionState:
        return self._listener.state

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
        self._listener.start(pipeline.query, settings.instruction)

    def unload(self) -> None:
        """Frees the model and its memory; the instruction is kept."""
        self._pipeline = None
        self._listener.stop()
        self._set_model_state(ModelState())
        free_memory()

    def hear(self, text: str) -> None:
        """Takes an instruction from the topic: encodes it if it differs from the one before."""
        self._listener.hear(text)

    def serve(self, item: Item) -> None:
        """One frame, from its message to its outputs; it is published or dropped with a reason."""
        settings = self._settings()
        old = too_old(stamp_ns(item.message.header), self._now_ns(), settings.max_age)
        if old is not None:
            item.ticket.drop(old.reason, old.text, old.level)
            return
        try:
            frame = to_frame(item.message, item.camera, settings)
            frame = self._continuity.with_depth(frame, settings)
        except ImageError as error:
            item.ticket.drop(error.reason, str(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever an image leads to, the camera goes on
            self._drop(item, error, "an image could not be converted")
            return
        result = self._process(item, frame, settings)
        if result is None:
            return
        if item.epoch != self._epoch(item.camera):
            item.ticket.drop("time_jump", "time jumped back while the frame was processed")
            return
        try:
            published = self._outputs.publish(item, result, settings.publish_mask)
        except Exception as error:  # noqa: BLE001 - the next frame may be published again
            self._drop(item, error, "a frame's results could not be published")
            return
        if not published:
            item.ticket.drop("inactive")
            return
        item.ticket.publish()
        try:
            self._outputs.publish_overlay(item, frame, result, settings.overlay_quality)
        except Exception as error:  # noqa: BLE001 - a picture for people must not end the node
            if is_out_of_memory(error):
                free_memory()
            self._tell("the overlay could not be drawn")

    def _drop(self, item: Item, error: Exception, what: str) -> bool:
        """Drops a frame for the exception that is being handled; whether memory was used up."""
        self._tell(what)
        if is_out_of_memory(error):
            item.ticket.drop("out_of_memory", _sentence(error))
            self._count_out_of_memory()
            return True
        item.ticket.drop("failed", _sentence(error))
        return False

    def _process(self, item: Item, frame: Frame, settings: Settings) -> Any | None:
        """The pipeline's result; None where the frame was dropped."""
        pipeline = self._pipeline
        if pipeline is None:
            item.ticket.drop("inactive")
            return None
        self._listener.retry()
        pipeline.threshold = settings.threshold
        pipeline.max_objects = settings.max_objects
        try:
            with_mask = settings.publish_mask or self._outputs.wants_mask(item.camera)
            result = pipeline.process(frame, self._listener.query, with_mask=with_mask)
            result = self._continuity.tracked(frame, result, settings)
        except FloatingPointError as error:
            item.ticket.drop("not_finite", str(error))
            self._count_not_finite()
            return None
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the camera goes on
            if not self._drop(item, error, "the model failed on a frame"):
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
        free_memory()
        now = self._clock()
        self._out_of_memory.append(now)
        recent = [at for at in self._out_of_memory if now - at <= OUT_OF_MEMORY_SECONDS]
        if len(recent) >= MAX_OUT_OF_MEMORY:
            self._fatal(
                f"out of memory {len(recent)} times in {OUT_OF_MEMORY_SECONDS:g} s; the node ends "
                "so that it can be started afresh"
            )

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self._fatal(f"the model failed on {MAX_FAILURES} frames in a row; the node ends.")

    def ground(
        self,
        phrases: list[str],
        message: Any,
        camera: str,
        with_mask: bool,
        with_depth: bool = False,
    ) -> Grounding:
        """What the phrases name in this image; raises PerceptionError with one sentence.

        with_depth: the image is the camera's own, so that its depth belongs to it.
        """
        pipeline = self._pipeline
        if pipeline is None:
            raise PerceptionError("no model is loaded.")
        settings = self._settings()
        instruction = from_phrases(phrases)
        if not instruction.phrases:
            raise InstructionError("there is no phrase to look for; name at least one.")
        pipeline.threshold = settings.threshold
        pipeline.max_objects = settings.max_objects
        try:
            frame = to_frame(message, camera, settings)
            if with_depth:
                frame = self._continuity.with_depth(frame, settings)
            query = pipeline.query(instruction, 0)
            result = pipeline.process(frame, query, with_tokens=False, with_mask=with_mask)
        except FloatingPointError as error:
            raise PerceptionError(f"the image cannot be used: {error}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            raise PerceptionError("there is not enough memory for this image.") from error
        grounding: Grounding = result.grounding
        return grounding

    def _tell(self, what: str) -> None:
        """Logs the exception that is being handled, each `what` once in REPORT_SECONDS."""
        now = self._clock()
        if now - self._reported.get(what, -REPORT_SECONDS) >= REPORT_SECONDS:
            self._reported[what] = now
            self._report(f"{what}:\n{traceback.format_exc()}")

    def _trouble(self, text: str) -> None:
        with self._lock:
            self._model_state = replace(
                self._model_state, trouble=text, trouble_at=time.monotonic()
            )

    def _set_model_state(self, state: ModelState) -> None:
        with self._lock:
            before = self._model_state
            self._model_state = replace(
                state, trouble=before.trouble, trouble_at=before.trouble_at
            )


def _sentence(error: BaseException) -> str:
    """The first line of an error's text, with its type."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
