"""The worker's frames, instructions and requests, with a stand-in for the model."""

from __future__ import annotations

import gc
import weakref
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import simplejpeg
from doubles import FakeOutputs, FakePipeline, ManualClock, image_message, pending_frame
from sensor_msgs.msg import CameraInfo, CompressedImage

from siglip_perception.config import ModelSelection, Settings
from siglip_perception.errors import (
    BackendError,
    CheckpointError,
    ImageError,
    InstructionError,
    PerceptionError,
)
from siglip_perception.images.files import Picture
from siglip_perception.node.conversions import decode_message, to_frame
from siglip_perception.node.frame_processor import REPORT_SECONDS, FrameProcessor
from siglip_perception.node.pipeline_loader import load_pipeline
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.stream.accounting import Counts, Level
from siglip_perception.stream.camera_stream import CameraStream, Decode
from siglip_perception.stream.instruction import RETRY_S
from siglip_perception.types import Box, GroundedObject, Grounding
from siglip_perception.util.oom import is_out_of_memory

NOW_NS = 10_000_000_000


@dataclass
class Bench:
    """A FrameProcessor with everything around it in a test's hands."""

    pipeline: FakePipeline = field(default_factory=FakePipeline)
    outputs: FakeOutputs = field(default_factory=FakeOutputs)
    values: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, CameraStream] = field(default_factory=dict)
    decode: Decode = decode_message
    reports: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    loads: int = 0
    load_error: Exception | None = None

    def __post_init__(self) -> None:
        self.processor = FrameProcessor(
            self.outputs,
            self.load,
            lambda: Settings.of(self.values),
            self.reports.append,
            self.ends.append,
            self.clock,
        )

    def load(self, settings: Settings) -> Pipeline:
        if self.load_error is not None:
            raise self.load_error
        self.loads += 1
        return cast("Pipeline", self.pipeline)

    def stream(self, name: str = "") -> CameraStream:
        return self.streams.setdefault(
            name,
            CameraStream(
                name,
                "/image",
                lambda message, settings: self.decode(message, settings),
                lambda: Settings.of(self.values),
                lambda: NOW_NS,
                self.clock,
            ),
        )

    def serve(self, **message: Any) -> None:
        self.serve_message(image_message(**message))

    def serve_message(self, message: Any) -> None:
        self.processor.serve([pending_frame(self.stream(), message)])

    def serve_together(self, *messages: Any) -> None:
        """A frame of each camera "0", "1", ... at once."""
        self.processor.serve(
            [pending_frame(self.stream(str(n)), message) for n, message in enumerate(messages)]
        )

    def ground(self, phrases: list[str], message: Any, *, with_mask: bool) -> Grounding:
        return self.processor.ground(phrases, partial(to_frame, message, ""), with_mask=with_mask)

    def last_call(self, argument: str) -> Any:
        """An argument of the last frame that the pipeline processed."""
        return self.pipeline.calls[-1][argument]

    def last_grounding(self) -> Any:
        """Return the objects of the last published frame."""
        return self.outputs.published[-1][1].grounding

    def all_counts(self) -> list[Counts]:
        return [stream.ledger.counts() for stream in self.streams.values()]

    def counts(self) -> Counts:
        """Those of the camera without a name."""
        return self.stream().ledger.counts()

    def published(self) -> int:
        return sum(counts.published for counts in self.all_counts())

    def dropped(self) -> dict[str, int]:
        """Return the counts of all cameras, once nothing is in flight."""
        dropped: Counter[str] = Counter()
        for counts in self.all_counts():
            assert counts.in_flight == 0
            assert counts.received == counts.published + sum(counts.dropped.values())
            dropped.update(counts.dropped)
        return dict(dropped)

    @property
    def state(self) -> str:
        return self.processor.instruction_state.state


@pytest.fixture
def bench() -> Bench:
    pipelines = Bench()
    pipelines.processor.load()
    return pipelines


def test_a_frame_is_published_with_its_message(bench: Bench) -> None:
    bench.serve(stamp=7.5)
    ((item, result, mask),) = bench.outputs.published
    frame = bench.pipeline.calls[0]["frame"]
    assert item.message.header.stamp.nanosec == 500_000_000
    assert (frame.stamp_ns, frame.frame_id, frame.image.shape) == (
        7_500_000_000,
        "optical",
        (4, 6, 3),
    )
    assert result.grounding is None
    assert not mask
    assert bench.published() == 1
    assert bench.processor.model_state.timings == {"encode": 0.01}


def test_what_runs_the_encoders_is_told_as_it_is_now(bench: Bench) -> None:
    bench.pipeline.backend = "torch (TensorRT engines are being built: 40%)"
    assert bench.processor.model_state.backend == bench.pipeline.backend
    bench.pipeline.backend = "tensorrt"
    bench.serve()
    state = bench.processor.model_state
    assert (state.backend, state.timings) == ("tensorrt", {"encode": 0.01})
    bench.processor.unload()
    assert bench.processor.model_state.backend == ""


def test_a_node_serves_while_engines_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[ModelSelection, PipelineOptions]] = []
    monkeypatch.setattr(Pipeline, "load", lambda *request: requests.append(request))
    load_pipeline(Settings.of({"model": "/my/model", "backend": "tensorrt", "threshold": 0.25}))
    selection, options = requests[0]
    assert selection == ModelSelection("/my/model", backend="tensorrt")
    assert options == PipelineOptions(threshold=0.25, background=True)
    assert not PipelineOptions().background


def test_text_is_encoded_when_it_changes_and_never_for_a_frame(bench: Bench) -> None:
    for text in ("find the cup.", "find the cup.", "find the plate."):
        bench.processor.hear(text)
        bench.serve()
        bench.serve()
    assert bench.pipeline.encoded == [("find the cup.", 1), ("find the plate.", 2)]
    ids = [result.grounding.instruction_id for _, result, _ in bench.outputs.published]
    assert ids == [1, 1, 1, 1, 2, 2]


def test_the_parameter_instruction_is_the_first_one() -> None:
    bench = Bench(values={"instruction": "find the cup."})
    bench.processor.load()
    assert bench.pipeline.encoded == [("find the cup.", 1)]
    assert bench.state == "instruction"


def test_a_loaded_model_is_not_walked_for_garbage_and_cleanup_frees_it(bench: Bench) -> None:
    assert gc.get_freeze_count() > 0
    bench.pipeline.itself = bench.pipeline  # type: ignore[attr-defined]
    alive = weakref.ref(bench.pipeline)
    bench.pipeline = FakePipeline()
    bench.processor.unload()
    assert gc.get_freeze_count() == 0
    assert alive() is None


def test_an_instruction_outlives_cleanup_with_its_number(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    bench.processor.unload()
    assert not bench.processor.model_state.is_loaded
    bench.processor.load()
    assert bench.pipeline.encoded == [("find the cup.", 1)] * 2


@pytest.mark.parametrize(
    ("text", "state", "level", "words"),
    [
        ("", "no_instruction", Level.OK, ""),
        ("   ", "no_instruction", Level.OK, ""),
        ("x" * 1025, "instruction_rejected", Level.WARN, "1"),
        ("a" * 1_000_000, "instruction_rejected", Level.WARN, ""),
        ("\ufdfa" * 60, "instruction_rejected", Level.WARN, ""),
        ("<s></s>", "no_instruction", Level.WARN, "special-token"),
        ("open it", "no_phrase", Level.WARN, '"open" is read as what to do. Name one'),
    ],
)
def test_after_these_tokens_go_on_and_no_object_of_before_is_answered(
    bench: Bench, text: str, state: str, level: Level, words: str
) -> None:
    bench.processor.hear("find the cup.")
    bench.processor.hear(text)
    assert bench.state == state
    assert bench.processor.instruction_state.level == level
    assert words in bench.processor.instruction_state.detail
    bench.serve()
    assert bench.outputs.published[0][1].grounding is None
    assert bench.published() == 1


def test_a_guess_is_answered_with_a_warning_that_says_how_it_was_read(bench: Bench) -> None:
    bench.processor.hear("prends la tasse rouge sur la table")
    instruction = bench.processor.instruction_state
    assert (instruction.state, instruction.level) == ("instruction", Level.WARN)
    assert "is a guess" in instruction.detail
    assert "parameter phrases" in instruction.detail
    bench.processor.hear("take the red cup")
    assert bench.processor.instruction_state.level == Level.OK


def test_stripped_and_cut_instructions_are_answered_with_a_warning(bench: Bench) -> None:
    bench.pipeline.truncate = ("plate",)
    bench.processor.hear("find the cup\u202e and the plate")
    instruction = bench.processor.instruction_state
    assert (instruction.state, instruction.level) == ("instruction", Level.WARN)
    assert "bidi" in instruction.detail
    assert "cut: plate" in instruction.detail
    bench.serve()
    assert bench.outputs.published[0][1].grounding is not None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"step": 5}, "malformed"),
        ({"encoding": "32FC1"}, "encoding"),
        ({"height": 0}, "malformed"),
    ],
)
def test_bad_images_are_dropped_with_their_reason(
    bench: Bench, message: dict[str, Any], reason: str
) -> None:
    pipelines = image_message()
    for name, value in message.items():
        setattr(pipelines, name, value)
    bench.serve_message(pipelines)
    bench.serve()
    assert bench.dropped() == {reason: 1}
    assert len(bench.outputs.published) == 1
    assert bench.counts().drops[reason].text.endswith(".")


def test_a_webcams_frame_without_its_end_is_published_and_counted(bench: Bench) -> None:
    data = simplejpeg.encode_jpeg(np.full((8, 16, 3), 90, np.uint8))
    for size in (len(data), len(data) - 2, len(data) // 2):
        message = CompressedImage(header=image_message().header, format="jpeg")
        message.data.frombytes(data[:size])
        bench.serve_message(message)
    counts = bench.counts()
    assert counts.repaired == {"jpeg_repaired": 1}
    assert counts.published == len(bench.outputs.published) == 2
    assert bench.dropped() == {"corrupt": 1}


def test_a_frame_that_waited_too_long_is_dropped(bench: Bench) -> None:
    bench.values["max_age"] = 0.5
    bench.serve(stamp=9.0)
    bench.serve(stamp=9.8)
    assert bench.dropped() == {"too_old": 1}
    assert bench.published() == 1


def test_a_frame_of_before_a_jump_is_not_published(bench: Bench) -> None:
    bench.pipeline.fail = lambda frame: bench.stream().flush("the clock jumped back")
    bench.serve()
    assert bench.dropped() == {"time_jump": 1}
    assert bench.outputs.published == []


def test_a_frame_that_ends_after_deactivation_is_not_published(bench: Bench) -> None:
    bench.outputs.is_open = False
    bench.serve()
    assert bench.dropped() == {"inactive": 1}


def raising(error: Exception) -> Callable[[Any], None]:
    def fail(frame: Any) -> None:
        raise error

    return fail


def raising_decode(error: Exception) -> Decode:
    def fail(message: Any, settings: Settings) -> Picture:
        raise error

    return fail


def test_three_frames_of_nan_load_the_model_anew(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    bench.pipeline.fail = raising(FloatingPointError("nan"))
    for expected in (1, 1, 2):
        bench.serve()
        assert bench.loads == expected
    assert bench.dropped() == {"not_finite": 3}
    assert "NaN" in bench.processor.model_state.trouble
    assert bench.outputs.published == []
    bench.pipeline.fail = lambda frame: None
    bench.serve()
    assert bench.outputs.published[0][1].grounding.instruction_id == 1
    assert bench.ends == []


def test_a_model_that_is_loaded_anew_does_not_stand_beside_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipelines: list[weakref.ref[FakePipeline]] = []
    alive: list[int] = []

    def load(bench: Bench, settings: Settings) -> FakePipeline:
        gc.collect()
        alive.append(sum(item() is not None for item in pipelines))
        pipeline = FakePipeline()
        pipeline.fail = raising(FloatingPointError("nan"))
        pipelines.append(weakref.ref(pipeline))
        return pipeline

    monkeypatch.setattr(Bench, "load", load)
    bench = Bench()
    del bench.pipeline  # only the processor holds one
    bench.processor.load()
    for _ in range(3):
        bench.serve()
    assert alive == [0, 0]


def test_nan_with_a_model_that_is_gone_ends_the_node(bench: Bench) -> None:
    bench.pipeline.fail = raising(FloatingPointError("nan"))
    bench.load_error = CheckpointError("the folder is gone.")
    for _ in range(3):
        bench.serve()
    (end,) = bench.ends
    assert "the folder is gone" in end


def test_nan_now_and_then_loads_nothing(bench: Bench) -> None:
    for _ in range(6):
        bench.pipeline.fail = raising(FloatingPointError("nan"))
        bench.serve()
        bench.pipeline.fail = lambda frame: None
        bench.serve()
    assert bench.loads == 1
    assert bench.dropped() == {"not_finite": 6}


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


def test_out_of_memory_three_times_ends_the_node(bench: Bench) -> None:
    bench.pipeline.fail = raising(OutOfMemoryError("CUDA out of memory"))
    bench.serve()
    bench.serve()
    assert bench.ends == []
    bench.serve()
    assert bench.dropped() == {"out_of_memory": 3}
    assert len(bench.ends) == 1


def opencv_error(text: str, code: int) -> Exception:
    error = cv2.error(text)
    error.code = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (opencv_error("Failed to allocate 10000000000 bytes", -4), True),
        (opencv_error("a wrong argument", -5), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_failing_model_is_reported_and_ends_the_node_at_the_third_frame(bench: Bench) -> None:
    bench.pipeline.fail = raising(ValueError("bad shape\nand more"))
    bench.serve()
    assert "Traceback" in bench.reports[0]
    bench.serve()
    assert bench.ends == []
    bench.serve()
    assert len(bench.ends) == 1
    assert bench.dropped() == {"failed": 3}
    assert bench.counts().drops["failed"].text == "ValueError: bad shape"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ImportError("numpy"), "failed"), (MemoryError(), "out_of_memory")],
)
def test_an_image_that_breaks_its_conversion_is_dropped_and_the_camera_goes_on(
    bench: Bench, error: Exception, reason: str
) -> None:
    bench.decode = raising_decode(error)
    bench.serve()
    bench.decode = decode_message
    assert bench.dropped() == {reason: 1}
    assert "converted" in bench.reports[0]
    bench.serve()
    assert len(bench.outputs.published) == 1


def test_images_that_break_their_conversion_never_end_the_node(bench: Bench) -> None:
    bench.decode = raising_decode(ValueError("bad"))
    for _ in range(10):
        bench.serve()
    assert bench.dropped() == {"failed": 10}
    assert bench.ends == []
    assert len(bench.reports) == 1
    bench.clock.now += REPORT_SECONDS
    bench.serve()
    assert len(bench.reports) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [(TypeError("field"), "failed"), (MemoryError(), "out_of_memory")],
)
def test_results_that_cannot_be_published_are_dropped_and_the_camera_goes_on(
    bench: Bench, error: Exception, reason: str
) -> None:
    bench.outputs.fail = error
    bench.serve()
    assert bench.dropped() == {reason: 1}
    bench.outputs.fail = None
    bench.serve()
    assert bench.published() == 1
    assert bench.outputs.overlays == 0


@pytest.mark.parametrize("error", [ValueError("width > 65500"), MemoryError()])
def test_an_overlay_that_fails_is_reported_and_the_frame_is_published_once(
    bench: Bench, error: Exception
) -> None:
    bench.outputs.overlay = True
    bench.outputs.fail_overlay = error
    for _ in range(5):
        bench.serve()
    assert bench.dropped() == {}
    assert bench.published() == 5
    assert len(bench.reports) == 1
    assert "overlay" in bench.reports[0]
    assert bench.ends == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        (KeyError("find the plate."), "KeyError"),
    ],
)
def test_an_instruction_that_cannot_be_encoded_is_told_and_tried_again(
    bench: Bench, error: Exception, words: str
) -> None:
    bench.processor.hear("find the cup.")
    bench.pipeline.fail_text = raising(error)
    bench.processor.hear("find the plate.")
    state = bench.processor.instruction_state
    assert (state.state, state.level) == ("instruction_failed", Level.ERROR)
    assert words in state.detail
    bench.serve()
    assert bench.last_grounding() is None
    bench.pipeline.fail_text = lambda instruction: None
    bench.serve()
    assert bench.last_grounding() is None
    bench.clock.now += RETRY_S
    bench.serve()
    assert bench.last_grounding().instruction_id == 2
    assert bench.state == "instruction"
    assert bench.published() == 3
    assert bench.pipeline.encoded == [("find the cup.", 1), ("find the plate.", 2)]
    assert bench.ends == []


def test_an_instruction_that_could_not_be_encoded_is_taken_when_it_is_said_again(
    bench: Bench,
) -> None:
    bench.pipeline.fail_text = raising(MemoryError())
    bench.processor.hear("find the cup.")
    bench.pipeline.fail_text = lambda instruction: None
    bench.processor.hear("find the cup.")
    assert bench.pipeline.encoded == [("find the cup.", 1)]


def test_numbers_follow_the_rule_of_replays(bench: Bench) -> None:
    numbers = []
    for text in ("cup", "cup", "", "cup", "plate", "x" * 2000, "plate", " plate "):
        bench.processor.hear(text)
        numbers.append(bench.processor.instruction_state.instruction_id)
    assert numbers == [1, 1, 0, 2, 3, 0, 4, 4]


def test_settings_are_read_for_every_frame(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    bench.serve()
    assert bench.pipeline.threshold is None  # each language's own
    bench.values.update({"threshold": 0.25, "max_objects": 3, "publish_mask": True})
    bench.serve()
    assert [bench.pipeline.threshold, bench.pipeline.max_objects] == [0.25, 3]
    assert bench.pipeline.calls[-1]["with_mask"]
    assert bench.outputs.published[-1][2]
    bench.values["publish_mask"] = False
    bench.serve()
    assert not bench.pipeline.calls[-1]["with_mask"]


def test_the_overlay_gets_a_mask_of_its_own(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    bench.outputs.overlay = True
    bench.serve()
    assert bench.pipeline.calls[-1]["with_mask"]
    assert not bench.outputs.published[-1][2]
    assert bench.outputs.overlays == 1


def test_ground_disturbs_neither_counts_nor_instruction(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    grounding = bench.ground(["plate", "접시"], image_message(), with_mask=True)
    assert (grounding.phrases, grounding.instruction_id) == (("plate", "접시"), 0)
    assert bench.pipeline.calls[-1]["with_mask"]
    assert not bench.pipeline.calls[-1]["with_tokens"]
    assert bench.counts().received == 0
    bench.serve()
    assert bench.outputs.published[0][1].grounding.phrases == ("cup",)


@pytest.mark.parametrize(
    ("phrases", "message", "error"),
    [
        ([], {}, InstructionError),
        (["", "  "], {}, InstructionError),
        (["x" * 2000], {}, InstructionError),
        ([f"cup {i}" for i in range(33)], {}, InstructionError),
        (["cup"], {"encoding": "32FC1"}, ImageError),
    ],
)
def test_ground_refuses_in_one_sentence(
    bench: Bench, phrases: list[str], message: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as excinfo:
        bench.ground(phrases, image_message(**message), with_mask=False)
    assert "\n" not in str(excinfo.value)


def test_frames_that_wait_are_served_in_one_pass_each_with_its_own_header(bench: Bench) -> None:
    bench.serve_together(image_message(stamp=5.0), image_message(stamp=6.0, height=2, step=18))
    assert bench.pipeline.batches == [2]
    stamps = [item.message.header.stamp.sec for item, _, _ in bench.outputs.published]
    assert stamps == [5, 6]
    assert bench.published() == 2


def test_one_bad_frame_of_a_batch_costs_no_other(bench: Bench) -> None:
    bench.serve_together(image_message(step=1), image_message(), image_message())
    assert bench.pipeline.batches == [2]
    assert bench.published() == 2
    assert bench.dropped() == {"malformed": 1}

    def fail(frame: Any) -> None:
        if frame.camera == "1":
            raise FloatingPointError("nan")

    bench.pipeline.fail = fail
    bench.serve_together(image_message(), image_message(), image_message())
    assert bench.published() == 4
    assert bench.dropped() == {"malformed": 1, "not_finite": 1}


def test_nobody_who_listens_to_objects_nothing_is_looked_for(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    bench.outputs.listened = False
    bench.serve()
    assert bench.last_call("query") is None
    bench.outputs.listened = True
    bench.serve()
    assert bench.last_call("query") is not None


def test_objects_are_looked_for_at_their_own_rate(bench: Bench) -> None:
    bench.values["grounding.rate"] = 10.0
    bench.outputs.overlay = True
    bench.processor.hear("find the cup.")
    for number in range(31):
        bench.serve(stamp=5.0 + number / 30)
    requests = [call["query"] is not None for call in bench.pipeline.calls]
    assert requests == ([True, False, False] * 11)[:31]
    assert bench.published() == 31
    assert bench.outputs.overlays == 11  # the others would be a picture without objects


def test_a_model_that_cannot_ground_says_so_and_tokens_go_on(bench: Bench) -> None:
    bench.pipeline.fail_text = raising(BackendError("name one in grounding.model."))
    bench.processor.hear("find the cup.")
    instruction = bench.processor.instruction_state
    assert (instruction.state, instruction.level) == ("no_grounding", Level.WARN)
    assert "grounding.model" in instruction.detail
    bench.serve()
    assert bench.published() == 1
    assert bench.reports == []


def test_a_contract_with_history_publishes_the_frame_before_first(bench: Bench) -> None:
    bench.pipeline.contract.history = 2
    bench.pipeline.contract.history_start = "repeat"
    bench.processor.load()

    def stamps() -> list[float]:
        values: list[float] = bench.outputs.published[-1][1].tokens.data[::4, 0].tolist()
        return values

    for stamp, expected in ((5.0, [5, 5]), (6.0, [5, 6]), (7.0, [6, 7])):
        bench.serve(stamp=stamp)
        assert stamps() == expected
    bench.processor.hear("red cup")
    bench.serve(stamp=8.0)
    assert stamps() == [8, 8]
    bench.stream().flush("the clock jumped back")
    bench.serve(stamp=1.0)
    assert stamps() == [1, 1]


def test_a_contract_that_joins_publishes_all_or_none(bench: Bench) -> None:
    bench.pipeline.contract.join_cameras = True
    bench.serve_together(image_message(stamp=6.0), image_message(stamp=5.0))
    (tokens,) = bench.outputs.joined
    assert (tokens.stamp.sec, tokens.frame_id) == (5, "optical")
    assert (tokens.grid.rows, tokens.grid.cols) == (2 * 2, 2)
    assert tokens.grid.data[:, 0].tolist() == [6.0] * 4 + [5.0] * 4
    assert bench.published() == 2
    bench.serve_together(image_message(step=1), image_message())
    assert len(bench.outputs.joined) == 1
    assert bench.dropped() == {"malformed": 1, "incomplete": 1}
    bench.pipeline.fail = lambda frame: bench.stream("1").flush("the clock jumped back")
    bench.serve_together(image_message(), image_message())
    assert len(bench.outputs.joined) == 1
    assert bench.dropped() == {"malformed": 1, "incomplete": 2, "time_jump": 1}
    bench.pipeline.fail = lambda frame: None
    bench.outputs.is_open = False
    bench.serve_together(image_message(), image_message())
    assert bench.dropped()["inactive"] == 2
    bench.outputs.fail = MemoryError()
    bench.serve_together(image_message(), image_message())
    assert bench.dropped()["out_of_memory"] == 2


@pytest.mark.parametrize(
    "error", [FloatingPointError("nan"), OutOfMemoryError("CUDA out of memory"), MemoryError()]
)
def test_ground_says_why_a_model_gives_no_answer(bench: Bench, error: Exception) -> None:
    bench.pipeline.fail = raising(error)
    with pytest.raises(PerceptionError):
        bench.ground(["cup"], image_message(), with_mask=False)


def cup(x: int) -> GroundedObject:
    return GroundedObject("cup", 0.9, 2.2, Box(x, 1, 2, 2), 0.1)


def published(bench: Bench) -> list[tuple[GroundedObject, ...]]:
    return [result.grounding.objects for _, result, _ in bench.outputs.published]


def test_tracked_objects_keep_their_id_until_another_instruction(bench: Bench) -> None:
    bench.values["tracking.enabled"] = True
    bench.pipeline.objects = lambda frame: (cup(1),)
    bench.processor.hear("find the cup.")
    bench.serve(stamp=7.0)
    bench.serve(stamp=7.1)
    bench.pipeline.objects = lambda frame: ()
    bench.serve(stamp=7.2)
    bench.serve(stamp=7.5)
    bench.pipeline.objects = lambda frame: (cup(1),)
    bench.processor.hear("find a cup.")
    bench.serve(stamp=7.6)
    tracks = [[(item.id, item.lost > 0) for item in objects] for objects in published(bench)]
    assert tracks == [[(1, False)], [(1, False)], [(1, True)], [], [(2, False)]]


def test_a_jump_back_in_time_and_switching_off_begin_anew(bench: Bench) -> None:
    bench.values["tracking.enabled"] = True
    bench.pipeline.objects = lambda frame: (cup(1),)
    bench.processor.hear("find the cup.")
    for stamp in (7.0, 5.0, 5.1):
        bench.serve(stamp=stamp)
    bench.values["tracking.enabled"] = False
    bench.serve(stamp=5.2)
    assert [objects[0].id for objects in published(bench)] == [1, 2, 2, 0]


def test_depth_is_looked_up_for_the_frames_own_stamp(bench: Bench) -> None:
    meters = np.full((4, 6), 0.5, dtype=np.float32)
    bench.stream().depth.receive_image(
        image_message(7.02, encoding="32FC1", step=24, data=array("B", meters.tobytes()))
    )
    bench.stream().depth.receive_info(
        CameraInfo(height=4, width=6, k=[5.0, 0.0, 3.0, 0.0, 5.0, 2.0, 0.0, 0.0, 1.0])
    )
    bench.serve(stamp=7.0)
    assert bench.last_call("frame").depth is None  # it was not asked for
    bench.values["depth.enabled"] = True
    bench.serve(stamp=7.0)
    depth = bench.last_call("frame").depth()
    np.testing.assert_array_equal(depth.meters, meters)
    bench.serve(stamp=7.5)
    assert bench.last_call("frame").depth() is None
    assert bench.stream().depth.view().counts == {"used": 1, "missing": 1}
    assert len(bench.outputs.published) == 3


def test_phrases_set_as_a_parameter_hold_until_they_are_taken_back(bench: Bench) -> None:
    bench.processor.hear("find the cup.")
    bench.values["phrases"] = ["", "the red cup left of it", "접시"]
    bench.serve()
    assert bench.last_call("query").phrases == ("the red cup left of it", "접시")
    bench.processor.hear("find the ball.")
    bench.serve()
    assert bench.last_call("query").phrases == ("the red cup left of it", "접시")
    bench.values["phrases"] = [""]
    bench.serve()
    assert bench.last_call("query").phrases == ("ball",)
    assert [number for _, number in bench.pipeline.encoded] == [1, 2, 3]


@pytest.mark.parametrize(
    ("phrases", "words"),
    [
        (["x" * 10_000], "1024 bytes"),
        ([f"cup {n}" for n in range(200)], "200 phrases are too many"),
        ([], "no phrase"),
        (["\u202e\u0007", "<s>"], "no phrase"),
        (["\U0001f964"], "no phrase"),
    ],
)
def test_ground_refuses_phrases_in_one_sentence(
    bench: Bench, phrases: list[str], words: str
) -> None:
    with pytest.raises(PerceptionError, match=words) as excinfo:
        bench.ground(phrases, image_message(), with_mask=False)
    assert "\n" not in str(excinfo.value)


def test_a_missing_pixel_reference_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    bench = Bench()
    bench.values["pixel_reference"] = str(tmp_path / "gone.json")
    with pytest.raises(PerceptionError, match=r"Cannot read the pixel reference .*gone\.json"):
        bench.processor.load()
    assert bench.loads == 0
