"""Mailbox and ledgers: whatever happens, every frame is accounted for, exactly once."""

from __future__ import annotations

from collections import Counter

import pytest
from doubles import ManualClock, camera_stream, image_message, pending_frame
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from siglip_perception.node.mailbox import Mailbox
from siglip_perception.stream.accounting import REASONS, Ledger, Level
from siglip_perception.stream.camera_stream import PendingFrame

CAMERAS = ("", "wrist", "front")
cameras = st.sampled_from(CAMERAS)


class Frames(RuleBasedStateMachine):
    """Frames of three cameras go in, are superseded, served, flushed and refused in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = {camera: camera_stream(camera) for camera in CAMERAS}
        self.mailbox = Mailbox(lambda items: None, lambda: None)
        self.mailbox.open()
        self.is_open = True
        self.taken_frames: list[PendingFrame] = []
        self.received: Counter[str] = Counter()
        self.newest: dict[str, PendingFrame] = {}

    @rule(camera=cameras)
    def receive(self, camera: str) -> None:
        frame = pending_frame(self.streams[camera])
        self.mailbox.put(frame)
        self.received[camera] += 1
        if self.is_open:
            self.newest[camera] = frame

    @rule()
    def take(self) -> None:
        items = self.mailbox.take()
        assert {item.camera: item for item in items} == self.newest
        assert not any(item.stale for item in items)
        assert len(items) == len(self.newest)
        self.newest.clear()
        self.taken_frames += items

    @precondition(lambda self: self.taken_frames)
    @rule(data=st.data())
    def resolve(self, data: st.DataObject) -> None:
        item = self.taken_frames.pop(data.draw(st.integers(0, len(self.taken_frames) - 1)))
        reason = data.draw(st.none() | st.sampled_from(sorted(REASONS)))
        item.ticket.note_repairs(data.draw(st.sampled_from([(), ("jpeg_repaired",)])))
        if reason is None:
            assert item.ticket.publish() >= 0
        else:
            item.ticket.drop(reason)

    @rule(camera=cameras)
    def flush(self, camera: str) -> None:
        before = self.streams[camera].epoch
        self.streams[camera].flush("the clock jumped back")
        self.mailbox.drop_stale()
        assert self.streams[camera].epoch == before + 1
        assert all(item.stale for item in self.taken_frames if item.camera == camera)
        self.newest.pop(camera, None)

    @rule(is_open=st.booleans())
    def open_or_close(self, is_open: bool) -> None:
        self.is_open = is_open
        if is_open:
            self.mailbox.open()
        else:
            self.mailbox.close()
            self.newest.clear()

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        for camera, stream in self.streams.items():
            counts = stream.ledger.counts()
            held_frames = [item for item in self.taken_frames if item.camera == camera]
            assert counts.in_flight == len(held_frames) + (camera in self.newest)
            assert counts.received == self.received[camera]
            assert counts.received == (
                counts.published + sum(counts.dropped.values()) + counts.in_flight
            )


Frames.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_every_frame_is_accounted_for = Frames.TestCase


def test_a_frame_cannot_be_counted_twice() -> None:
    ticket = Ledger().receive()
    ticket.publish()
    with pytest.raises(RuntimeError, match="twice"):
        ticket.drop("superseded")


def seconds(frames: list[PendingFrame]) -> list[tuple[str, int]]:
    """Each frame's camera and stamp."""
    return [(frame.camera, frame.message.header.stamp.sec) for frame in frames]


def test_the_newest_frame_wins_and_keeps_the_place_in_the_queue() -> None:
    texts: list[int] = []
    mailbox = Mailbox(lambda items: None, lambda: texts.append(1))
    mailbox.open()
    streams = {name: camera_stream(name) for name in ("slow", "fast")}
    for camera, second in [("slow", 1), ("fast", 2), ("slow", 3), ("fast", 4), ("fast", 5)]:
        mailbox.put(pending_frame(streams[camera], image_message(stamp=second)))
    assert seconds(mailbox.take()) == [("slow", 3), ("fast", 5)]
    assert mailbox.take() == []
    assert streams["slow"].ledger.counts().dropped == {"superseded": 1}
    assert streams["fast"].ledger.counts().dropped == {"superseded": 2}
    assert len(texts) == 5


def test_a_camera_ten_times_as_fast_takes_no_more_than_its_share() -> None:
    mailbox = Mailbox(lambda items: None, lambda: None)
    mailbox.open()
    fast, slow = camera_stream("fast"), camera_stream("slow")
    message = image_message()
    serve_counts: Counter[str] = Counter()
    for tick in range(3000):  # frames every 1 and every 10 ticks, inference takes 20
        mailbox.put(pending_frame(fast, message))
        if tick % 10 == 0:
            mailbox.put(pending_frame(slow, message))
        if tick % 20 == 19:
            serve_counts.update(item.camera for item in mailbox.take())
    assert serve_counts == {"fast": 150, "slow": 150}


def test_cameras_that_are_joined_wait_for_each_other_and_come_in_their_order() -> None:
    mailbox = Mailbox(lambda items: None, lambda: None)
    mailbox.open(joined_cameras=("front", "wrist"))
    front, wrist = camera_stream("front"), camera_stream("wrist")
    mailbox.put(pending_frame(wrist, image_message(stamp=1)))
    assert mailbox.take() == []
    assert mailbox.delay() is None
    mailbox.put(pending_frame(wrist, image_message(stamp=2)))
    mailbox.put(pending_frame(front, image_message(stamp=3)))
    assert mailbox.delay() == 0
    assert seconds(mailbox.take()) == [("front", 3), ("wrist", 2)]
    assert wrist.ledger.counts().dropped == {"superseded": 1}
    mailbox.put(pending_frame(front, image_message(stamp=4)))
    mailbox.close()
    assert front.ledger.counts().dropped == {"inactive": 1}


def test_of_joined_cameras_a_jump_back_of_one_leaves_the_others_frame_waiting() -> None:
    mailbox = Mailbox(lambda items: None, lambda: None)
    mailbox.open(joined_cameras=("front", "wrist"))
    front, wrist = camera_stream("front"), camera_stream("wrist")
    mailbox.put(pending_frame(wrist, image_message(stamp=8)))
    wrist.flush("the clock jumped back")
    mailbox.drop_stale()
    assert wrist.ledger.counts().drops["time_jump"].text == "the clock jumped back"
    mailbox.put(pending_frame(front, image_message(stamp=3)))
    assert mailbox.delay() is None
    mailbox.put(pending_frame(wrist, image_message(stamp=2)))
    assert seconds(mailbox.take()) == [("front", 3), ("wrist", 2)]


def test_rates_periods_and_latencies() -> None:
    clock = ManualClock()
    ledger = Ledger(clock)
    assert ledger.counts().period is None
    assert ledger.counts().latency_p99 is None
    for number in range(100):
        ticket = ledger.receive()
        clock.now += 0.02 if number < 98 else 0.08
        latency = ticket.publish()
        assert latency == pytest.approx(0.02 if number < 98 else 0.08)
        clock.now += 0.1 - latency
    counts = ledger.counts()
    assert counts.period == pytest.approx(0.1)
    assert counts.received_rate == pytest.approx(10, rel=0.05)
    assert counts.published_rate == pytest.approx(10, rel=0.05)
    assert counts.latency_p50 == pytest.approx(0.02)
    assert counts.latency_p99 == pytest.approx(0.08)
    clock.now += 10
    assert ledger.counts().received_rate == 0
    ledger.forget_rates()
    assert ledger.counts().received == 100
    assert ledger.counts().period is None
    assert ledger.counts().last_arrival == pytest.approx(clock.now - 10.1)


def test_drops_are_remembered_with_their_level_and_text() -> None:
    clock = ManualClock()
    ledger = Ledger(clock)
    ledger.receive().drop("too_old", "3 s old", Level.ERROR)
    ledger.receive().drop("corrupt", "no JPEG")
    ledger.receive().drop("corrupt", "still none")
    ledger.lose(7)
    counts = ledger.counts()
    assert (counts.drops["too_old"].level, counts.drops["too_old"].text) == (
        Level.ERROR,
        "3 s old",
    )
    assert (counts.drops["corrupt"].level, counts.drops["corrupt"].text) == (
        Level.WARN,
        "still none",
    )
    assert counts.examples == {"too_old": "3 s old", "corrupt": "no JPEG"}
    assert counts.streak == {"too_old": 1, "corrupt": 2}
    assert counts.lost == 7
    ledger.receive().publish()
    assert ledger.counts().streak == {}
    assert ledger.counts().dropped == {"too_old": 1, "corrupt": 2}


def test_a_repair_is_counted_beside_what_became_of_the_frame() -> None:
    ledger = Ledger()
    for _ in range(2):
        ticket = ledger.receive()
        ticket.note_repairs(("jpeg_repaired",))
        ticket.publish()
    ledger.receive().note_repairs(())
    counts = ledger.counts()
    assert counts.repaired == {"jpeg_repaired": 2}
    assert (counts.received, counts.published, counts.in_flight) == (3, 2, 1)
    assert counts.dropped == {}
