"""Diagnostic statuses from counts: every fault that the node reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doubles import ManualClock

from siglip_perception.images.pixel_reference import Alarm
from siglip_perception.node.diagnostic_status import (
    NodeView,
    Status,
    camera_status,
    instruction_status,
    node_status,
    topics_status,
)
from siglip_perception.node.frame_processor import ModelState
from siglip_perception.node.qos import Mismatch
from siglip_perception.stream.accounting import Ledger, Level
from siglip_perception.stream.camera_stream import CameraView
from siglip_perception.stream.depth_feed import DepthFeed, DepthView
from siglip_perception.stream.instruction import InstructionState

MISMATCH = Mismatch("/image", "RELIABILITY", "publisher")


def receiving(clock: ManualClock, frames: int = 20, period: float = 0.1) -> Ledger:
    """A ledger of a camera that sent frames up to now, all of them published."""
    ledger = Ledger(clock)
    for _ in range(frames):
        clock.now += period
        ledger.receive().publish()
    return ledger


def status(
    ledger: Ledger, clock: ManualClock, rate: float = 0.0, mismatch: Mismatch | None = None
) -> Status:
    view = CameraView("", "/image", ledger.counts(), 100.0, None, 0.01, "640x480 'rgb8'")
    return camera_status(view, clock.now, rate, mismatch)


def test_a_camera_that_sends_is_ok_with_every_number() -> None:
    clock = ManualClock()
    ledger = receiving(clock)
    ledger.receive().drop("superseded")
    ledger.receive().note_repairs(("jpeg_repaired",))
    ledger.lose(3)
    result = status(ledger, clock)
    assert (result.level, result.message) == (Level.OK, "receiving")
    values = dict(result.values)
    assert values["received"] == "22"
    assert values["published"] == "20"
    assert values["dropped"] == values["dropped.superseded"] == "1"
    assert values["in_flight"] == "1"
    assert values["jpeg_repaired"] == "1"
    assert values["lost_by_middleware"] == "3"
    assert float(values["received_rate_hz"]) == pytest.approx(10, rel=0.2)
    assert values["frame_age_ms"] == "10.00"
    assert values["latency_p99_ms"] == "0.00"


@pytest.mark.parametrize(("rate", "late"), [(0.0, 0.1), (5.0, 0.2), (30.0, 1 / 30)])
def test_a_silent_camera_is_stale_well_within_350_ms_of_its_period(
    rate: float, late: float
) -> None:
    clock = ManualClock()
    ledger = receiving(clock, period=0.1)
    clock.now += late + 0.19
    assert status(ledger, clock, rate).level == Level.OK
    clock.now += 0.02
    result = status(ledger, clock, rate)
    assert result.level == Level.ERROR
    assert result.message.startswith("stale: no frame on /image for")


def test_a_camera_that_never_sent_is_stale() -> None:
    clock = ManualClock()
    ledger = Ledger(clock)
    clock.now += 1.1
    assert status(ledger, clock).level == Level.OK
    clock.now += 0.2
    result = status(ledger, clock)
    assert result.level == Level.ERROR
    assert "since the node became active" in result.message


def test_an_inactive_camera_is_not_stale() -> None:
    clock = ManualClock()
    view = CameraView("wrist", "/wrist/image", Ledger(clock).counts(), None, None, None, "")
    clock.now += 1000
    result = camera_status(view, clock.now, 30.0, None)
    assert (result.name, result.level, result.message) == ("camera wrist", Level.OK, "inactive")


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        ("malformed", Level.ERROR),
        ("encoding", Level.ERROR),
        ("too_large", Level.ERROR),
        ("corrupt", Level.WARN),
        ("future", Level.WARN),
        ("too_old", Level.WARN),
        ("not_finite", Level.ERROR),
        ("out_of_memory", Level.ERROR),
        ("superseded", Level.OK),
    ],
)
def test_a_dropped_frame_colors_the_status_for_a_while(reason: str, level: Level) -> None:
    clock = ManualClock()
    ledger = receiving(clock)
    ledger.receive().drop(reason, "its text")
    result = status(ledger, clock)
    assert result.level == level
    assert ("its text" in result.message) == (level > Level.OK)
    clock.now += 2.1
    ledger.receive().publish()
    assert status(ledger, clock).level == Level.OK


def test_corrupt_frames_one_after_the_other_are_an_error() -> None:
    clock = ManualClock()
    ledger = receiving(clock)
    for expected in [Level.WARN] * 4 + [Level.ERROR]:
        ledger.receive().drop("corrupt", "no JPEG")
        assert status(ledger, clock).level == expected
    ledger.receive().publish()
    assert status(ledger, clock).level == Level.WARN


def test_a_jump_back_is_told_for_a_while() -> None:
    clock = ManualClock()
    ledger = receiving(clock)
    view = CameraView("", "/image", ledger.counts(), 100.0, clock.now, None, "")
    result = camera_status(view, clock.now + 0.1, 0.0, None)
    assert (result.level, result.reasons) == (Level.WARN, ("WARN time_jump",))


def test_a_qos_mismatch_is_named_and_an_error_only_while_nothing_comes() -> None:
    clock = ManualClock()
    result = status(receiving(clock), clock, mismatch=MISMATCH)
    assert result.level == Level.WARN
    clock.now += 5
    result = status(Ledger(clock), clock, mismatch=MISMATCH)
    assert result.level == Level.ERROR
    assert "RELIABILITY" in result.message
    assert "/image" in result.message
    result = topics_status([Mismatch("/siglip_perception/tokens", "DURABILITY", "subscription")])
    assert result.level == Level.ERROR
    assert "DURABILITY" in result.message
    assert topics_status([]).level == Level.OK


def test_the_reasons_change_only_when_something_changes() -> None:
    clock = ManualClock()
    ledger = receiving(clock)
    clock.now += 1
    first = status(ledger, clock)
    clock.now += 0.5
    second = status(ledger, clock)
    assert first.message != second.message
    assert first.reasons == second.reasons


def test_the_node_tells_its_state_and_why_configure_failed() -> None:
    model = ModelState(True, "torch on cpu", "tabletop", "one pass", "ab12", {"encode": 0.025})
    result = node_status(NodeView("active", "", model), 0.0)
    assert (result.level, result.message) == (Level.OK, "active")
    values = dict(result.values)
    assert values["backend"] == "torch on cpu"
    assert values["grounding"] == "one pass"
    assert values["encode_ms"] == "25.00"
    failure_status = node_status(
        NodeView("unconfigured", "configure failed: no folder.", ModelState()), 0
    )
    assert failure_status.level == Level.ERROR
    assert "no folder" in failure_status.message
    assert node_status(NodeView("configuring", "", ModelState()), 0).level == Level.WARN
    assert node_status(NodeView("finalized", "", ModelState()), 0).level == Level.STALE
    trouble_model = replace(model, trouble="loaded anew", trouble_at=100.0)
    assert node_status(NodeView("active", "", trouble_model), 105.0).level == Level.ERROR
    assert node_status(NodeView("active", "", trouble_model), 111.0).level == Level.OK
    warned = replace(model, warnings={"cache_off": "the disk is full", "engine_rebuilt": "x"})
    status = node_status(NodeView("active", "", warned), 0.0)
    assert (status.level, status.message) == (
        Level.WARN,
        "cache_off: the disk is full; engine_rebuilt: x",
    )


def test_the_instruction_tells_its_state() -> None:
    state = InstructionState("instruction", Level.OK, "", 3, "find the cup", ("cup", "접시"))
    result = instruction_status(state, 12)
    assert (result.level, result.message) == (Level.OK, "instruction")
    assert dict(result.values)["phrases"] == "cup; 접시"
    assert dict(result.values)["superseded"] == "12"
    rejection_status = instruction_status(
        InstructionState("instruction_rejected", Level.WARN, "long"), 0
    )
    assert (rejection_status.level, rejection_status.message) == (
        Level.WARN,
        "instruction_rejected: long",
    )


def test_depth_that_is_of_no_use_is_told_with_its_count() -> None:
    clock = ManualClock()
    feed = DepthFeed(clock)
    assert feed.depth(0, 6, 4, 0.05) is None
    counts = receiving(clock).counts()
    clock.now += 0.1

    def depth_status(depth: DepthView | None) -> Status:
        view = CameraView("", "/image", counts, 100.0, None, 0.01, "", depth)
        return camera_status(view, clock.now, 10.0, None)

    assert depth_status(None).level == Level.OK
    feed.depth(0, 6, 4, 0.05)
    result = depth_status(feed.view())
    assert result.level == Level.WARN
    assert "no camera info" in result.message
    assert dict(result.values)["depth.info"] == "2"
    clock.now += 10.0
    assert "depth" not in depth_status(feed.view()).message


def test_pixels_unlike_the_training_sets_are_a_warning_in_words() -> None:
    clock = ManualClock()
    view = CameraView("", "/image", receiving(clock).counts(), 100.0, None, 0.01, "640x480 'rgb8'")
    assert "pixels" not in dict(camera_status(view, clock.now, 0.0, None).values)
    honest = camera_status(replace(view, pixel_alarms=()), clock.now, 0.0, None)
    assert (honest.level, dict(honest.values)["pixels"]) == (Level.OK, "as in the training set")
    alarms = (Alarm("darker", "darker by 1.4 stops than the training set"),)
    status = camera_status(replace(view, pixel_alarms=alarms), clock.now, 0.0, None)
    assert status.level == Level.WARN
    assert status.message == "pixels_darker: darker by 1.4 stops than the training set"
    assert status.reasons == ("WARN pixels_darker",)


def test_a_picture_that_is_upside_down_is_told() -> None:
    clock = ManualClock()
    counts = receiving(clock).counts()
    depth = DepthView({"used": 30}, "", "", None, "upside down")
    view = CameraView("", "/image", counts, 100.0, None, 0.01, "", depth)
    status = camera_status(view, clock.now, 10.0, None)
    assert status.level == Level.WARN
    assert status.message.startswith("upside_down: the surface in view recedes towards the bottom")
    assert dict(status.values)["picture_is"] == "upside down"
