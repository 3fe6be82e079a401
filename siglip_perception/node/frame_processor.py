"""What the node does with frames, instructions and questions: all of it on the worker's thread."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError, InstructionError, PerceptionError
from siglip_perception.language.instruction import from_phrases
from siglip_perception.node.accounting import Clock
from siglip_perception.node.continuity import Continuity
from siglip_perception.node.conversions import stamp_ns, to_frame
from siglip_perception.node.instruction_state import InstructionState, Listener
from siglip_perception.node.mailbox import Item
from siglip_perception.node.oom import (
    free_memory,
    is_out_of_memory,
    keep_what_is_loaded,
    let_go_of_what_was_loaded,
)
from siglip_perception.node.pipeline_loader import Loader, PipelineLike
from siglip_perception.node.stamp_check import too_old
from siglip_perception.stream.depth_feed import DepthFeed
from siglip_perception.stream.rate_limit import RateLimiter
from siglip_perception.types import Frame, Grounding, Task, TokenGrid

MAX_NOT_FINITE = 3
MAX_FAILURES = 3
MAX_OUT_OF_MEMORY = 3
OUT_OF_MEMORY_SECONDS = 10.0
# One kind of error is logged at most once in so many seconds.
REPORT_SECONDS = 5.0


class Outputs(Protocol):
    """Where results go: the node's publishers."""

    def wants_mask(self, camera: str) -> bool:
        """Whether someone looks at the overlay, which is better with masks."""

    def wants_objects(self, camera: str) -> bool:
        """Whether someone listens to the camera's objects, in whatever form."""

    def publish_joined(self, items: Sequence[Item], grids: Sequence[TokenGrid]) -> bool:
        """The cameras' tokens as one sequence; whether it was published."""

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
    grounding: str = ""
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
        self._pace = RateLimiter(lambda: settings().grounding_rate)
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
        pipeline = self._pipeline
        with self._lock:
            state = self._model_state
        # Engines may take PyTorch's place while frames are served.
        return replace(state, backend=pipeline.backend) if pipeline and state.loaded else state

    @property
    def joins(self) -> bool:
        """Whether the contract joins the cameras' tokens into one sequence."""
        return self._pipeline is not None and bool(self._pipeline.contract.join_cameras)

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
                grounding=pipeline.grounding,
                fingerprint=pipeline.fingerprint,
            )
        )
        self._listener.start(pipeline.query, settings.instruction, settings.phrases)
        keep_what_is_loaded()

    def unload(self) -> None:
        """Frees the model and its memory; the instruction is kept."""
        self._pipeline = None
        self._listener.stop()
        self._set_model_state(ModelState())
        let_go_of_what_was_loaded()

    def hear(self, text: str) -> None:
        """Takes an instruction from the topic: encodes it if it differs from the one before."""
        self._listener.hear(text)

    def serve(self, items: Sequence[Item]) -> None:
        """Frames of different cameras, from their messages to their outputs, in one pass.

        Each is published or dropped with a reason. Where the contract joins the cameras' tokens,
        they are published all together or not at all.
        """
        settings = self._settings()
        taken = [(item, frame) for item in items if (frame := self._frame(item, settings))]
        joined = self.joins and len(items) > 1
        if joined and len(taken) < len(items):
            _drop_rest([item for item, _ in taken])
            return
        if not taken:
            return
        results = self._process(taken, settings)
        served = []
        for (item, frame), result in zip(taken, results, strict=True):
            if result is None:
                continue
            if item.epoch != self._epoch(item.camera):
                item.ticket.drop("time_jump", "time jumped back while the frame was processed")
                continue
            served.append((item, frame, self._continuity.tracked(frame, result, settings)))
        if joined and not self._publish_joined(served, len(items)):
            return
        for item, frame, result in served:
            self._publish(item, frame, result, settings)

    def _frame(self, item: Item, settings: Settings) -> Frame | None:
        """The item's frame; None where it was dropped."""
        old = too_old(stamp_ns(item.message.header), self._now_ns(), settings.max_age)
        if old is not None:
            item.ticket.drop(old.reason, old.text, old.level)
            return None
        try:
            frame = to_frame(item.message, item.camera, settings)
            item.ticket.note_repairs(frame.repairs)
            return self._continuity.with_depth(frame, settings)
        except ImageError as error:
            item.ticket.drop(error.reason, str(error))
        except Exception as error:  # noqa: BLE001 - whatever an image leads to, the camera goes on
            if self._drop(item, error, "an image could not be converted"):
                self._count_out_of_memory()
        return None

    def _publish_joined(self, served: list[tuple[Item, Frame, Any]], wanted: int) -> bool:
        """The joined tokens; whether they were published, else all are dropped."""
        items = [item for item, _, _ in served]
        if len(items) < wanted:
            _drop_rest(items)
            return False
        try:
            grids = [result.tokens for _, _, result in served]
            published = self._outputs.publish_joined(items, grids)
        except Exception as error:  # noqa: BLE001 - the next frames may be published again
            dropped = [self._drop(i, error, "joined tokens could not be published") for i in items]
            if any(dropped):
                self._count_out_of_memory()
            return False
        if not published:
            for item in items:
                item.ticket.drop("inactive")
        return published

    def _publish(self, item: Item, frame: Frame, result: Any, settings: Settings) -> None:
        try:
            published = self._outputs.publish(item, result, settings.publish_mask)
        except Exception as error:  # noqa: BLE001 - the next frame may be published again
            if self._drop(item, error, "a frame's results could not be published"):
                self._count_out_of_memory()
            return
        if not published:
            item.ticket.drop("inactive")
            return
        item.ticket.publish()
        if result.grounding is None and self._listener.query is not None:
            return  # its objects were not due: the picture of those before stays
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
            return True
        item.ticket.drop("failed", _sentence(error))
        return False

    def _process(self, taken: Sequence[tuple[Item, Frame]], settings: Settings) -> list[Any]:
        """The pipeline's results; None for a frame that was dropped."""
        nothing: list[Any] = [None] * len(taken)
        pipeline = self._pipeline
        if pipeline is None:
            for item, _ in taken:
                item.ticket.drop("inactive")
            return nothing
        self._listener.fix(settings.phrases)
        self._listener.retry()
        pipeline.threshold = settings.threshold
        pipeline.max_objects = settings.max_objects
        try:
            results = pipeline.process_batch([self._task(*pair, settings) for pair in taken])
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the cameras go on
            dropped = [self._drop(item, error, "the model failed on a frame") for item, _ in taken]
            if any(dropped):
                self._count_out_of_memory()
            else:
                self._count_failure()
            return nothing
        self._failures = 0
        for (item, _), result in zip(taken, results, strict=True):
            if isinstance(result, FloatingPointError):
                item.ticket.drop("not_finite", str(result))
        finite = [None if isinstance(result, FloatingPointError) else result for result in results]
        good = next((result for result in finite if result is not None), None)
        if good is None:
            del pipeline  # loaded anew there: two of them would take twice the memory
            self._count_not_finite()
            return finite
        self._not_finite = 0
        with self._lock:
            self._model_state = replace(self._model_state, timings=good.timings)
        return finite

    def _task(self, item: Item, frame: Frame, settings: Settings) -> Task:
        query = self._listener.query
        wanted = settings.publish_mask or self._outputs.wants_mask(item.camera)
        if query is None or not self._outputs.wants_objects(item.camera):
            return Task(frame)
        due = self._pace.due(item.camera, frame.stamp_ns or self._now_ns())
        return Task(frame, query if due else None, wanted and due)

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


def _drop_rest(items: Sequence[Item]) -> None:
    """What cannot be joined, as another camera's frame of the same moment was dropped."""
    for item in items:
        item.ticket.drop("incomplete", "a frame to be joined with it was dropped")


def _sentence(error: BaseException) -> str:
    """The first line of an error's text, with its type."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
