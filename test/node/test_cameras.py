"""Messages of one camera, up to the mailbox."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import ManualClock, image_message

from siglip_perception.config import Settings
from siglip_perception.node.conversions import decode_message
from siglip_perception.node.diagnostic_status import camera_status
from siglip_perception.node.mailbox import Mailbox
from siglip_perception.stream.accounting import Level
from siglip_perception.stream.camera_stream import CameraStream

NOW_NS = 10_000_000_000


@pytest.fixture
def mailbox() -> Mailbox:
    instance = Mailbox(lambda item: None, lambda: None)
    instance.open()
    return instance


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Camera(CameraStream):
    """A stream whose frames go into a mailbox, as the node's do."""

    def __init__(self, mailbox: Mailbox, clock: ManualClock) -> None:
        settings = Settings(max_age=5.0)
        super().__init__("", "/image", decode_message, lambda: settings, lambda: NOW_NS, clock)
        self.mailbox = mailbox

    def send(self, message: Any) -> None:
        pending = self.receive(message)
        if pending is not None:
            self.mailbox.put(pending)


@pytest.fixture
def feed(mailbox: Mailbox, clock: ManualClock) -> Camera:
    instance = Camera(mailbox, clock)
    instance.start()
    return instance


def counts(feed: Camera) -> Any:
    return feed.ledger.counts()


def test_a_frame_waits_in_the_mailbox_and_is_the_newest(
    feed: Camera, mailbox: Mailbox, clock: ManualClock
) -> None:
    assert feed.newest() == (None, 0.0)
    message = image_message(stamp=9.5)
    feed.send(message)
    clock.now += 3
    newest, since = feed.newest()
    assert newest is not None
    assert newest.message is message
    assert since == 3
    view = feed.view()
    assert view.age == pytest.approx(0.5)
    assert view.picture == "6x4 'rgb8'"
    (item,) = mailbox.take()
    assert item.message is message
    assert counts(feed).in_flight == 1


@pytest.mark.parametrize(("stamp", "reason"), [(2.0, "too_old"), (11.0, "future")])
def test_a_stamp_that_forbids_it_is_counted_and_never_waits(
    feed: Camera, mailbox: Mailbox, stamp: float, reason: str
) -> None:
    feed.send(image_message(stamp=stamp))
    assert mailbox.take() == []
    assert counts(feed).dropped == {reason: 1}
    assert feed.newest()[0] is None


def test_a_jump_back_drops_what_waits_and_goes_on_with_the_new_frame(
    feed: Camera, mailbox: Mailbox, clock: ManualClock
) -> None:
    feed.send(image_message(stamp=9.0))
    epoch = feed.epoch
    clock.now += 1
    again = image_message(stamp=6.0)
    feed.send(again)
    assert feed.epoch == epoch + 1
    assert counts(feed).dropped == {"time_jump": 1}
    assert counts(feed).drops["time_jump"].text == "its stamps jumped back"
    (item,) = mailbox.take()
    assert item.message is again
    assert not item.stale
    assert feed.view().jumped_at == clock.now


def test_after_a_jump_back_a_camera_that_sends_is_not_stale(
    feed: Camera, clock: ManualClock
) -> None:
    for tenth in range(3000):
        clock.now += 0.1
        feed.send(image_message(stamp=6.0 + tenth / 1000))
    clock.now += 0.1
    feed.send(image_message(stamp=6.0))
    for seconds, level, reasons in [
        (0.0, Level.WARN, ("WARN time_jump",)),
        (1.0, Level.WARN, ("WARN time_jump",)),
        (0.5, Level.ERROR, ("ERROR stale", "WARN time_jump")),
    ]:
        clock.now += seconds
        result = camera_status(feed.view(), clock.now, 0.0, None)
        assert (result.level, result.reasons) == (level, reasons)
    assert "for 1.5 s" in result.message
    feed.send(image_message(stamp=6.1))
    assert feed.view().jumped_at == clock.now - 1.5


def test_the_newest_frame_is_as_old_as_itself_and_not_as_a_later_bad_one(
    feed: Camera, clock: ManualClock
) -> None:
    message = image_message(stamp=9.0)
    feed.send(message)
    for _ in range(10):
        clock.now += 1
        feed.send(image_message(stamp=11.0))
    assert counts(feed).dropped == {"future": 10}
    newest, since = feed.newest()
    assert newest is not None
    assert newest.message is message
    assert since == 10.0


def test_a_camera_that_sets_no_stamp_is_served(feed: Camera, mailbox: Mailbox) -> None:
    for _ in range(2):
        feed.send(image_message(stamp=0.0))
        assert len(mailbox.take()) == 1
    assert feed.view().age is None


def test_after_stop_nothing_of_before_is_the_newest(feed: Camera) -> None:
    feed.send(image_message(stamp=9.0))
    feed.stop()
    assert feed.newest()[0] is None
    assert feed.view().active_since is None
    feed.start()
    assert feed.newest()[0] is None
    feed.send(image_message(stamp=5.5))
    assert counts(feed).dropped == {"superseded": 1}


def test_a_frame_that_comes_while_closed_is_inactive(feed: Camera, mailbox: Mailbox) -> None:
    mailbox.close()
    feed.send(image_message(stamp=9.0))
    assert counts(feed).dropped == {"inactive": 1}
    assert counts(feed).in_flight == 0
