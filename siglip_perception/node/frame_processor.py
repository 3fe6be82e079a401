"""Frames, instructions and ~/ground requests through the pipeline, on the worker's thread."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from siglip_perception.config import Settings
from siglip_perception.errors import InstructionError, PerceptionError
from siglip_perception.images.pixel_reference import PixelReference
from siglip_perception.language.instruction import from_phrases
from siglip_perception.node.pipeline_loader import Loader
from siglip_perception.stream.accounting import Clock
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.stream.content import CameraJoin, HistoryJoin, JoinedTokens
from siglip_perception.stream.instruction import CurrentInstruction, InstructionState
from siglip_perception.types import Frame, Grounding, Task
from siglip_perception.util.oom import (
    free_memory,
    is_out_of_memory,
    keep_what_is_loaded,
    let_go_of_what_was_loaded,
)

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Pipeline, Result

# Batches in a row with only NaN or infinity after which the model is loaded again.
MAX_NOT_FINITE = 3
# Batches in a row that failed after which the node ends.
MAX_FAILURES = 3
# Batches out of memory, within OUT_OF_MEMORY_SECONDS, after which the node ends.
MAX_OUT_OF_MEMORY = 3
OUT_OF_MEMORY_SECONDS = 10.0
# Shortest time between two log entries of one kind of error, in seconds.
REPORT_SECONDS = 5.0


class Outputs(Protocol):
    """Publishers of the results."""

    def wants_mask(self, camera: str) -> bool:
        """Return True if the overlay, which shows masks, has a subscriber."""

    def wants_objects(self, camera: str) -> bool:
        """Return True if the camera's objects have a subscriber in any form."""

    def publish_joined(self, tokens: JoinedTokens) -> bool:
        """Publish the cameras' tokens as one sequence; False if the gate is closed."""

    def publish(self, pending: PendingFrame, result: Result, publish_mask: bool) -> bool:
        """Publish tokens and objects, both or neither; False if the gate is closed."""

    def publish_views(
        self, pending: PendingFrame, frame: Frame, result: Result, quality: int
    ) -> None:
        """Publish overlay and markers, each only if it has a subscriber."""


@dataclass(frozen=True)
class ModelState:
    """State of the model for /diagnostics.

    timings: seconds of the last frame's parts. warnings: the backend's, by name.
    """

    is_loaded: bool = False
    backend: str = ""
    contract: str = ""
    grounding: str = ""
    fingerprint: str = ""
    timings: Mapping[str, float] | None = None
    warnings: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""
    trouble_at: float = 0.0


class FrameProcessor:
    """Owns the pipeline and the query. Call it on the worker's thread, except for the two states.

    report: logs an error. fatal: called with a sentence when only a new process can help.
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
        self._report_times: dict[str, float] = {}
        self._instruction = CurrentInstruction(self._report_exception, clock)
        self._pipeline: Pipeline | None = None
        self._pixel_reference: PixelReference | None = None
        self._history = HistoryJoin(1)
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
        # Engines may replace PyTorch while frames are served.
        if not pipeline or not state.is_loaded:
            return state
        return replace(state, backend=pipeline.backend, warnings=pipeline.backend_warnings)

    @property
    def joins(self) -> bool:
        """True if the contract joins the cameras' tokens into one sequence."""
        return self._pipeline is not None and self._pipeline.contract.join_cameras

    def load(self) -> None:
        """Load the model and encode the instruction with it; raises PerceptionError."""
        settings = self._settings()
        self._pixel_reference = (
            PixelReference.read(Path(settings.pixel_reference).expanduser())
            if settings.pixel_reference
            else None
        )
        pipeline = self._load(settings)
        self._pipeline = pipeline
        self._history = HistoryJoin.of(pipeline)
        self._not_finite = self._failures = 0
        self._set_model_state(
            ModelState(
                is_loaded=True,
                backend=pipeline.backend,
                contract=pipeline.contract.name,
                grounding=pipeline.grounding_status,
                fingerprint=pipeline.fingerprint,
            )
        )
        self._instruction.start(pipeline.query, settings.instruction, settings.phrases)
        keep_what_is_loaded()

    def unload(self) -> None:
        """Free the model and its memory; keep the instruction."""
        self._pipeline = None
        self._instruction.stop()
        self._set_model_state(ModelState())
        let_go_of_what_was_loaded()

    def hear(self, text: str) -> None:
        """Set the instruction from the topic; encode it if it differs from the last one."""
        self._instruction.hear(text)

    def serve(self, batch: Sequence[PendingFrame]) -> None:
        """Process frames of different cameras in one pass, from messages to outputs.

        Each is published, or dropped with a reason. If the contract joins the cameras' tokens, all
        of them are published or none.
        """
        settings = self._settings()
        frames = [(item, frame) for item in batch if (frame := self._decode(item, settings))]
        must_join = self.joins and len(batch) > 1
        if must_join and len(frames) < len(batch):
            _drop_rest([pending for pending, _ in frames])
            return
        if not frames:
            return
        outcomes = self._process(frames, settings)
        if not outcomes:
            return
        results = []
        for (pending, frame), outcome in zip(frames, outcomes, strict=True):
            result = pending.stream.finish(pending, frame, outcome, settings)
            if result is not None:
                results.append((pending, frame, result))
                if self._pixel_reference is not None and result.tokens is not None:
                    pending.stream.check_pixels(pending, result.tokens, self._pixel_reference)
        self._note_outcomes(outcomes)
        if must_join and not self._publish_joined(results, len(batch)):
            return
        for pending, frame, result in results:
            self._publish(pending, frame, result, settings, is_joined=must_join)

    def _decode(self, pending: PendingFrame, settings: Settings) -> Frame | None:
        """Decode a message; None if the frame was dropped."""
        try:
            return pending.stream.decode(pending, settings)
        except Exception as error:  # noqa: BLE001 - no image may stop the camera
            if self._drop(pending, error, "an image could not be converted"):
                self._count_out_of_memory()
        return None

    def _publish_joined(
        self, results: list[tuple[PendingFrame, Frame, Result]], cameras: int
    ) -> bool:
        """Publish the joined tokens; drop all frames and return False if that fails."""
        batch = [pending for pending, _, _ in results]
        if len(batch) < cameras:
            _drop_rest(batch)
            return False
        try:
            join = CameraJoin([pending.camera for pending in batch])
            tokens = None
            for pending, _, result in results:
                assert result.tokens is not None
                tokens = join.add(pending.camera, pending.message.header, result.tokens)
            assert tokens is not None
            grid = self._history.add("", tokens.grid, self._episode(batch))
            is_published = self._outputs.publish_joined(replace(tokens, grid=grid))
        except Exception as error:  # noqa: BLE001 - the next frames may be published again
            heading = "joined tokens could not be published"
            out_of_memory = [self._drop(pending, error, heading) for pending in batch]
            if any(out_of_memory):
                self._count_out_of_memory()
            return False
        if not is_published:
            for pending in batch:
                pending.ticket.drop("inactive")
        return is_published

    def _episode(self, batch: Sequence[PendingFrame]) -> Hashable:
        """Return the identity of the run that a history of frames belongs to."""
        number = self._instruction.state.instruction_id
        return number, tuple(pending.stream.episode for pending in batch)

    def _publish(
        self,
        pending: PendingFrame,
        frame: Frame,
        result: Result,
        settings: Settings,
        *,
        is_joined: bool,
    ) -> None:
        try:
            if result.tokens is not None and not is_joined:
                tokens = self._history.add(pending.camera, result.tokens, self._episode([pending]))
                result = replace(result, tokens=tokens)
            is_published = self._outputs.publish(pending, result, settings.publish_mask)
        except Exception as error:  # noqa: BLE001 - the next frame may be published again
            if self._drop(pending, error, "a frame's results could not be published"):
                self._count_out_of_memory()
            return
        if not is_published:
            pending.ticket.drop("inactive")
            return
        pending.ticket.publish()
        if result.grounding is None and self._instruction.query is not None:
            return  # Objects were not due: the last overlay and markers stay.
        try:
            self._outputs.publish_views(pending, frame, result, settings.overlay_quality)
        except Exception as error:  # noqa: BLE001 - what is only looked at must not end the node
            if is_out_of_memory(error):
                free_memory()
            self._report_exception("the overlay or the markers could not be made")

    def _drop(self, pending: PendingFrame, error: Exception, heading: str) -> bool:
        """Drop a frame for the exception being handled; return True if memory ran out."""
        self._report_exception(heading)
        if is_out_of_memory(error):
            pending.ticket.drop("out_of_memory", _sentence(error))
            return True
        pending.ticket.drop("failed", _sentence(error))
        return False

    def _process(
        self, frames: Sequence[tuple[PendingFrame, Frame]], settings: Settings
    ) -> list[Result | FloatingPointError]:
        """Return the pipeline's outcome of each frame; an empty list if all were dropped."""
        pipeline = self._pipeline
        if pipeline is None:
            for pending, _ in frames:
                pending.ticket.drop("inactive")
            return []
        self._instruction.fix(settings.phrases)
        self._instruction.retry()
        pipeline.threshold = settings.score_threshold
        pipeline.max_objects = settings.max_objects
        pipeline.windows = settings.windows
        try:
            outcomes = pipeline.process_batch([self._task(*pair, settings) for pair in frames])
        except Exception as error:  # noqa: BLE001 - no error of a model may stop the cameras
            heading = "the model failed on a frame"
            out_of_memory = [self._drop(pending, error, heading) for pending, _ in frames]
            if any(out_of_memory):
                self._count_out_of_memory()
            else:
                self._count_failure()
            return []
        self._failures = 0
        return outcomes

    def _task(self, pending: PendingFrame, frame: Frame, settings: Settings) -> Task:
        has_subscriber = self._outputs.wants_objects(pending.camera)
        return pending.stream.task(
            pending,
            frame,
            self._instruction.query if has_subscriber else None,
            settings,
            with_mask=settings.publish_mask or self._outputs.wants_mask(pending.camera),
        )

    def _note_outcomes(self, outcomes: Sequence[Result | FloatingPointError]) -> None:
        """Keep a pass' timings; load the model again if it gives only NaN or infinity."""
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
        self._set_trouble(
            f"{MAX_NOT_FINITE} frames in a row gave NaN or infinity: model loaded anew"
        )
        self.unload()
        try:
            self.load()
        except PerceptionError as error:
            self._fatal(f"the model cannot be loaded again: {error}")

    def _count_out_of_memory(self) -> None:
        free_memory()
        now = self._clock()
        self._out_of_memory.append(now)
        recent = [
            time_s for time_s in self._out_of_memory if now - time_s <= OUT_OF_MEMORY_SECONDS
        ]
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
        """Ground the phrases in one image; raises PerceptionError with one sentence.

        decode: returns the image's frame; raises ImageError.
        """
        pipeline = self._pipeline
        if pipeline is None:
            raise PerceptionError("no model is loaded.")
        settings = self._settings()
        instruction = from_phrases(phrases)
        if not instruction.phrases:
            raise InstructionError("there is no phrase to look for; name at least one.")
        pipeline.threshold = settings.score_threshold
        pipeline.max_objects = settings.max_objects
        pipeline.windows = settings.windows
        try:
            frame = decode(settings)
            query = pipeline.query(instruction, 0)
            result = pipeline.process(frame, query, with_tokens=False, with_mask=with_mask)
        except FloatingPointError as error:
            raise PerceptionError(f"the image cannot be used: {error}") from error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            raise PerceptionError("there is not enough memory for this image.") from error
        assert result.grounding is not None  # since there is a query
        return result.grounding

    def _report_exception(self, heading: str) -> None:
        """Log the exception being handled, at most once in REPORT_SECONDS for each heading."""
        now = self._clock()
        if now - self._report_times.get(heading, -REPORT_SECONDS) >= REPORT_SECONDS:
            self._report_times[heading] = now
            self._report(f"{heading}:\n{traceback.format_exc()}")

    def _set_trouble(self, text: str) -> None:
        with self._lock:
            self._model_state = replace(
                self._model_state, trouble=text, trouble_at=time.monotonic()
            )

    def _set_model_state(self, state: ModelState) -> None:
        with self._lock:
            previous = self._model_state
            self._model_state = replace(
                state, trouble=previous.trouble, trouble_at=previous.trouble_at
            )


def _drop_rest(batch: Sequence[PendingFrame]) -> None:
    """Drop frames that cannot be joined because another camera's frame was dropped."""
    for pending in batch:
        pending.ticket.drop("incomplete", "a frame to be joined with it was dropped")


def _sentence(error: BaseException) -> str:
    """Return an error's type and the first line of its text."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
