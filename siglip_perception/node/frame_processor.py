"""What the node does with frames, instructions and questions: all of it on the worker's thread."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from siglip_perception.config import Settings
from siglip_perception.errors import InstructionError, PerceptionError
from siglip_perception.language.instruction import from_phrases
from siglip_perception.node.pipeline_loader import Loader
from siglip_perception.stream.accounting import Clock
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.stream.content import CameraJoin, JoinedTokens
from siglip_perception.stream.instruction import CurrentInstruction, InstructionState
from siglip_perception.types import Frame, Grounding, Task
from siglip_perception.util.oom import (
    free_memory,
    is_out_of_memory,
    keep_what_is_loaded,
    let_go_of_what_was_loaded,
)

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Pipeline, Result

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

    def publish_joined(self, tokens: JoinedTokens) -> bool:
        """The cameras' tokens as one sequence; whether it was published."""

    def publish(self, pending: PendingFrame, result: Result, publish_mask: bool) -> bool:
        """Tokens and objects, both or neither; whether they were published."""

    def publish_overlay(
        self, pending: PendingFrame, frame: Frame, result: Result, quality: int
    ) -> None:
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


class FrameProcessor:
    """Owns the pipeline and the query. But for the two states, call it on the worker's thread.

    report: logs an error. fatal: called with a sentence where only a new process can help.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        outputs: Outputs,
        load: Loader,
        settings: Callable[[], Settings],
        report: Callable[[str], None],
        fatal: Callable[[str], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._outputs = outputs
        self._load = load
        self._settings = settings
        self._report = report
        self._fatal = fatal
        self._clock = clock
        self._reported: dict[str, float] = {}
        self._instruction = CurrentInstruction(self._tell, clock)
        self._pipeline: Pipeline | None = None
        self._not_finite = 0
        self._failures = 0
        self._out_of_memory: deque[float] = deque(maxlen=MAX_OUT_OF_MEMORY)
        self._lock = threading.Lock()
        self._model_state = ModelState()

    @property
    def instruction_state(self) -> InstructionState:
        return self._instruction.state

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
        return self._pipeline is not None and self._pipeline.contract.join_cameras

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
                contract=pipeline.contract.name,
                grounding=pipeline.grounding_status,
                fingerprint=pipeline.fingerprint,
            )
        )
        self._instruction.start(pipeline.query, settings.instruction, settings.phrases)
        keep_what_is_loaded()

    def unload(self) -> None:
        """Frees the model and its memory; the instruction is kept."""
        self._pipeline = None
        self._instruction.stop()
        self._set_model_state(ModelState())
        let_go_of_what_was_loaded()

    def hear(self, text: str) -> None:
        """Takes an instruction from the topic: encodes it if it differs from the one before."""
        self._instruction.hear(text)

    def serve(self, batch: Sequence[PendingFrame]) -> None:
        """Frames of different cameras, from their messages to their outputs, in one pass.

        Each is published or dropped with a reason. Where the contract joins the cameras' tokens,
        they are published all together or not at all.
        """
        settings = self._settings()
        frames = [(item, frame) for item in batch if (frame := self._decode(item, settings))]
        joined = self.joins and len(batch) > 1
        if joined and len(frames) < len(batch):
            _drop_rest([pending for pending, _ in frames])
            return
        if not frames:
            return
        outcomes = self._process(frames, settings)
        if not outcomes:
            return
        served = []
        for (pending, frame), outcome in zip(frames, outcomes, strict=True):
            result = pending.stream.finish(pending, frame, outcome, settings)
            if result is not None:
                served.append((pending, frame, result))
        self._note(outcomes)
        if joined and not self._publish_joined(served, len(batch)):
            return
        for pending, frame, result in served:
            self._publish(pending, frame, result, settings)

    def _decode(self, pending: PendingFrame, settings: Settings) -> Frame | None:
        """The message's frame; None where it was dropped."""
        try:
            return pending.stream.decode(pending, settings)
        except Exception as error:  # noqa: BLE001 - whatever an image leads to, the camera goes on
            if self._drop(pending, error, "an image could not be converted"):
                self._count_out_of_memory()
        return None

    def _publish_joined(
        self, served: list[tuple[PendingFrame, Frame, Result]], cameras: int
    ) -> bool:
        """The joined tokens; whether they were published, else all are dropped."""
        batch = [pending for pending, _, _ in served]
        if len(batch) < cameras:
            _drop_rest(batch)
            return False
        try:
            join = CameraJoin([pending.camera for pending in batch])
            tokens = None
            for pending, _, result in served:
                assert result.tokens is not None
                tokens = join.add(pending.camera, pending.message.header, result.tokens)
            assert tokens is not None
            published = self._outputs.publish_joined(tokens)
        except Exception as error:  # noqa: BLE001 - the next frames may be published again
            what = "joined tokens could not be published"
            dropped = [self._drop(pending, error, what) for pending in batch]
            if any(dropped):
                self._count_out_of_memory()
            return False
        if not published:
            for pending in batch:
                pending.ticket.drop("inactive")
        return published

    def _publish(
        self, pending: PendingFrame, frame: Frame, result: Result, settings: Settings
    ) -> None:
        try:
            published = self._outputs.publish(pending, result, settings.publish_mask)
        except Exception as error:  # noqa: BLE001 - the next frame may be published again
            if self._drop(pending, error, "a frame's results could not be published"):
                self._count_out_of_memory()
            return
        if not published:
            pending.ticket.drop("inactive")
            return
        pending.ticket.publish()
        if result.grounding is None and self._instruction.query is not None:
            return  # its objects were not due: the picture of those before stays
        try:
            self._outputs.publish_overlay(pending, frame, result, settings.overlay_quality)
        except Exception as error:  # noqa: BLE001 - a picture for people must not end the node
            if is_out_of_memory(error):
                free_memory()
            self._tell("the overlay could not be drawn")

    def _drop(self, pending: PendingFrame, error: Exception, what: str) -> bool:
        """Drops a frame for the exception that is being handled; whether memory was used up."""
        self._tell(what)
        if is_out_of_memory(error):
            pending.ticket.drop("out_of_memory", _sentence(error))
            return True
        pending.ticket.drop("failed", _sentence(error))
        return False

    def _process(
        self, frames: Sequence[tuple[PendingFrame, Frame]], settings: Settings
    ) -> list[Result | FloatingPointError]:
        """The pipeline's outcomes, one for each frame; none where all of them were dropped."""
        pipeline = self._pipeline
        if pipeline is None:
            for pending, _ in frames:
                pending.ticket.drop("inactive")
            return []
        self._instruction.fix(settings.phrases)
        self._instruction.retry()
        pipeline.threshold = settings.threshold
        pipeline.max_objects = settings.max_objects
        try:
            outcomes = pipeline.process_batch([self._task(*pair, settings) for pair in frames])
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the cameras go on
            what = "the model failed on a frame"
            dropped = [self._drop(pending, error, what) for pending, _ in frames]
            if any(dropped):
                self._count_out_of_memory()
            else:
                self._count_failure()
            return []
        self._failures = 0
        return outcomes

    def _task(self, pending: PendingFrame, frame: Frame, settings: Settings) -> Task:
        listened = self._outputs.wants_objects(pending.camera)
        return pending.stream.task(
            pending,
            frame,
            self._instruction.query if listened else None,
            settings,
            with_mask=settings.publish_mask or self._outputs.wants_mask(pending.camera),
        )

    def _note(self, outcomes: Sequence[Result | FloatingPointError]) -> None:
        """Keeps the timings of a pass; loads the model anew where it gave only NaN for long."""
        for outcome in outcomes:
            if not isinstance(outcome, FloatingPointError):
                self._not_finite = 0
                with self._lock:
                    self._model_state = replace(self._model_state, timings=outcome.timings)
                return
        self._count_not_finite()

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
        self, phrases: Sequence[str], decode: Callable[[Settings], Frame], *, with_mask: bool
    ) -> Grounding:
        """What the phrases name in this image; raises PerceptionError with one sentence.

        decode: gives the image's frame; raises ImageError.
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
            frame = decode(settings)
            query = pipeline.query(instruction, 0)
            result = pipeline.process(frame, query, with_tokens=False, with_mask=with_mask)
        except FloatingPointError as error:
            raise PerceptionError(f"the image cannot be used: {error}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            raise PerceptionError("there is not enough memory for this image.") from error
        assert result.grounding is not None  # there was a query
        return result.grounding

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


def _drop_rest(batch: Sequence[PendingFrame]) -> None:
    """Drops what cannot be joined, as another camera's frame of the same moment was dropped."""
    for pending in batch:
        pending.ticket.drop("incomplete", "a frame to be joined with it was dropped")


def _sentence(error: BaseException) -> str:
    """The first line of an error's text, with its type."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
