"""One camera's stream, as the node and a replay run it: its counts, stamps, rate and objects."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.images.files import Picture
from siglip_perception.images.fingerprint import pixel_fingerprint
from siglip_perception.images.pixel_reference import PixelReference
from siglip_perception.stream.camera_stream import CameraStream
from siglip_perception.stream.content import CameraJoin, HistoryJoin
from siglip_perception.stream.instruction import CurrentInstruction
from siglip_perception.types import TokenGrid, join

S = 10**9
NAN = FloatingPointError("The tokens hold NaN.")


def header(stamp_ns: int, frame_id: str = "optical") -> Any:
    time = SimpleNamespace(sec=stamp_ns // S, nanosec=stamp_ns % S)
    return SimpleNamespace(stamp=time, frame_id=frame_id)


def message(stamp_ns: int) -> Any:
    return SimpleNamespace(header=header(stamp_ns), format="jpeg")


def decode(message: Any, settings: Settings) -> Picture:
    if message.format != "jpeg":
        raise ImageError("encoding", "it is no JPEG.")
    return Picture(np.zeros((4, 6, 3), np.uint8), 1, "JPEG", ("jpeg_repaired",))


def stream(settings: Settings, now_ns: int = 100 * S) -> CameraStream:
    return CameraStream("", "/image", decode, lambda: settings, lambda: now_ns, lambda: 0.0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 101 * S),
            st.sampled_from(["jpeg", "gif"]),
            st.sampled_from(["result", "nan", "jump"]),
        )
    )
)
def test_received_is_published_and_dropped_and_in_flight(
    frames: list[tuple[int, str, str]],
) -> None:
    settings = Settings(max_age=20.0)
    camera = stream(settings)
    pending = []
    for stamp_ns, kind, outcome in frames:
        arrived = message(stamp_ns)
        arrived.format = kind
        pending_frame = camera.receive(arrived)
        if pending_frame is not None:
            pending.append((pending_frame, outcome))
        counts = camera.ledger.counts()
        assert counts.in_flight == len(pending)
        assert counts.received == sum(counts.dropped.values()) + counts.in_flight
    published = 0
    for pending_frame, outcome in pending:
        frame = camera.decode(pending_frame, settings)
        if frame is None:
            continue
        if outcome == "jump":
            camera.flush("the clock jumped back")
        result: Any = NAN if outcome == "nan" else SimpleNamespace(grounding=None)
        if camera.finish(pending_frame, frame, result, settings) is not None:
            published += 1
            pending_frame.ticket.publish()
    counts = camera.ledger.counts()
    assert (counts.in_flight, counts.published) == (0, published)
    assert counts.received == len(frames) == published + sum(counts.dropped.values())


def test_a_pending_frame_knows_that_time_has_jumped_back_since() -> None:
    camera = stream(Settings())
    before = camera.receive(message(90 * S))
    after = camera.receive(message(80 * S))
    assert before is not None
    assert after is not None
    assert (before.stale, after.stale) == (True, False)
    assert camera.jump == "its stamps jumped back"


def test_a_recording_is_taken_whatever_its_stamps_are() -> None:
    camera = stream(Settings())
    for stamp_ns in (90 * S, 200 * S, S, 0):
        pending = camera.admit(message(stamp_ns), camera.ledger.receive())
        frame = camera.decode(pending, Settings(max_age=0.0))
        assert frame is not None
        assert frame.stamp_ns == stamp_ns
        assert pending.time_ns == (stamp_ns or 100 * S)
    counts = camera.ledger.counts()
    assert (counts.in_flight, counts.repaired) == (4, {"jpeg_repaired": 4})


def test_objects_are_asked_for_at_the_rate_of_the_frames_times() -> None:
    settings = Settings(grounding_rate=1.0)
    camera = stream(settings)
    query: Any = object()
    requests = []
    for tenth in range(0, 30, 5):
        pending = camera.receive(message(50 * S + tenth * S // 10))
        assert pending is not None
        frame = camera.decode(pending, settings)
        assert frame is not None
        task = camera.task(pending, frame, query, settings, with_mask=True)
        assert task.with_mask == (task.query is not None)
        requests.append(task.query is query)
    assert requests == [True, False] * 3


def grid(value: float) -> TokenGrid:
    return TokenGrid(np.full((4, 3), value, np.float32), "float32", 2, 2, "fake", "f00d")


def test_joined_tokens_have_the_oldest_stamp_and_the_first_cameras_frame() -> None:
    join = CameraJoin(["front", "wrist"])
    assert join.add("wrist", header(7 * S, "wrist"), grid(1)) is None
    assert join.add("wrist", header(8 * S, "wrist"), grid(2)) is None
    joined = join.add("front", header(9 * S, "front"), grid(3))
    assert joined is not None
    assert (joined.stamp.sec, joined.frame_id) == (8, "front")
    assert joined.grid.data[:, 0].tolist() == [3.0] * 4 + [2.0] * 4
    assert join.add("front", header(10 * S, "front"), grid(4)) is None


def test_a_history_joins_the_frames_before_and_begins_anew_with_an_episode() -> None:
    """Beside RDT's window of two: the mean color before the first frame, then the last frame."""
    history = HistoryJoin(2, before_first=grid(-1))
    firsts = [history.add("front", grid(value), "run").data[::4, 0] for value in (1, 2, 3)]
    assert [tokens.tolist() for tokens in firsts] == [[-1, 1], [1, 2], [2, 3]]
    assert history.add("wrist", grid(9), "run").data[::4, 0].tolist() == [-1, 9]
    assert history.add("front", grid(4), "next run").data[::4, 0].tolist() == [-1, 4]
    # Two cameras' joined tokens: both of the frame before, then both of the newest.
    pair = join([grid(5), grid(6)])
    joined = history.add("", replace(pair, pixel_fingerprint=(7.0, 8.0)), "run")
    assert joined.data[::4, 0].tolist() == [-1, -1, 5, 6]
    assert (joined.rows, joined.cols, joined.pixel_fingerprint) == (8, 2, (7.0, 8.0))
    repeating = HistoryJoin(3)
    tokens = [repeating.add("", grid(value), 0).data[::4, 0].tolist() for value in (1, 2)]
    assert tokens == [[1, 1, 1], [1, 1, 2]]
    assert HistoryJoin(1).add("", pair, 0) is pair


def test_numbers_grow_and_a_goal_given_again_is_a_new_one() -> None:
    encoded: list[tuple[str, int]] = []

    def encode(instruction: Any, number: int) -> Any:
        encoded.append((instruction.text, number))
        return SimpleNamespace(phrases=instruction.phrases, truncated=(False,))

    instruction = CurrentInstruction()
    instruction.start(encode, "")
    numbers = []
    for text in ("red cup", "red cup", "", "red cup", "x" * 2000, "red cup"):
        instruction.hear(text)
        numbers.append(instruction.state.instruction_id)
        assert (instruction.query is None) == (numbers[-1] == 0)
    assert numbers == [1, 1, 0, 2, 0, 3]
    assert encoded == [("red cup", 1), ("red cup", 2), ("red cup", 3)]


def test_without_a_report_what_the_encoder_raises_is_raised() -> None:
    def encode(instruction: Any, number: int) -> Any:
        raise MemoryError

    instruction = CurrentInstruction()
    instruction.start(encode, "")
    with pytest.raises(MemoryError):
        instruction.hear("red cup")
    assert instruction.query is None


def test_depth_is_offered_only_where_it_is_enabled() -> None:
    settings = Settings()
    camera = stream(settings)
    pending = camera.admit(message(50 * S), camera.ledger.receive())
    assert camera.frame(pending, settings).depth is None
    depth = camera.frame(pending, replace(settings, depth_enabled=True)).depth
    assert depth is not None
    assert depth() is None
    assert camera.depth.view().counts == {"info": 1}


def test_a_camera_that_differs_from_the_training_set_is_told_until_time_jumps_back() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (48, 64, 3), np.uint8)
    reference = PixelReference.of([pixel_fingerprint(image)] * 8)
    camera = stream(Settings())
    assert camera.view().pixel_alarms is None
    image[:12] = 0
    tokens = replace(grid(0.0), pixel_fingerprint=tuple(pixel_fingerprint(image).tolist()))
    for second in (1, 2, 3):
        pending = camera.receive(message(second * S))
        assert pending is not None
        camera.check_pixels(pending, tokens, reference)
    (alarm,) = camera.view().pixel_alarms or ()
    assert alarm.text.startswith("a black band that training did not have (25 % at the top)")
    camera.flush("its stamps jumped back")
    assert camera.view().pixel_alarms is None
