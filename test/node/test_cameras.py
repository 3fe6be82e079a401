"""What comes from one camera, up to the mailbox."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import ManualClock, image_message

from siglip_perception.config import Settings
from siglip_perception.node.accounting import Level
from siglip_perception.node.cameras import CameraFeed
from siglip_perception.node.diagnostic_status import camera_status
from siglip_perception.node.mailbox import Mailbox

NOW_NS = 10_000_000_000


@pytest.fixture
def mailbox() -> Mailbox:
    made = Mailbox(lambda item: None, lambda: None)
    made.open()
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def feed(mailbox: Mailbox, clock: ManualClock) -> CameraFeed:
    made = CameraFeed("", "/image", mailbox, lambda: Settings(max_age=5.0), lambda: NOW_NS, clock)
    made.start()
    return made


def counts(feed: CameraFeed) -> Any:
    return feed.ledger.counts()


def test_a_frame_waits_in_the_mailbox_and_is_the_newest(
    feed: CameraFeed, mailbox: Mailbox, clock: ManualClock
) -> None:
    assert feed.newest() == (None, 0.0)
    message = image_message(stamp=9.5)
    feed.receive(message)
    clock.now += 3
    newest, since = feed.newest()
    assert newest is message
    assert since == 3
    view = feed.view()
    assert view.age == pytest.approx(0.5)
    assert view.picture == "6x4 'rgb8'"
    (item,) = mailbox.take()
    assert item.message is message
    assert counts(feed).in_flight == 1


@pytest.mark.parametrize(("stamp", "reason"), [(2.0, "too_old"), (11.0, "future")])
def test_a_stamp_that_forbids_it_is_counted_and_never_waits(
    feed: CameraFeed, mailbox: Mailbox, stamp: float, reason: str
) -> None:
    feed.receive(image_message(stamp=stamp))
    assert mailbox.take() == []
    assert counts(feed).dropped == {reason: 1}
    assert feed.newest()[0] is None


def test_a_jump_back_drops_what_waits_and_goes_on_with_the_new_frame(
    feed: CameraFeed, mailbox: Mailbox, clock: ManualClock
) -> None:
    feed.receive(image_message(stamp=9.0))
    epoch = mailbox.epoch("")
    clock.now += 1
    again = image_message(stamp=6.0)
    feed.receive(again)
    assert mailbox.epoch("") == epoch + 1
    assert counts(feed).dropped == {"time_jump": 1}
    (item,) = mailbox.take()
    assert item.message is again
    assert feed.view().jumped_at == clock.now


def test_after_a_jump_back_a_camera_that_sends_is_not_stale(
    feed: CameraFeed, clock: ManualClock
) -> None:
    for tenth in range(3000):
        clock.now += 0.1
        feed.receive(image_message(stamp=6.0 + tenth / 1000))
    clock.now += 0.1
    feed.receive(image_message(stamp=6.0))
    for seconds, level, reasons in [
        (0.0, Level.WARN, ("WARN time_jump",)),
        (1.0, Level.WARN, ("WARN time_jump",)),
        (0.5, Level.ERROR, ("ERROR stale", "WARN time_jump")),
    ]:
        clock.now += seconds
        found = camera_status(feed.view(), clock.now, 0.0, None)
        assert (found.level, found.reasons) == (level, reasons)
    assert "for 1.5 s" in found.message
    feed.receive(image_message(stamp=6.1))
    assert feed.view().jumped_at == clock.now - 1.5


def test_the_newest_frame_is_as_old_as_itself_and_not_as_a_later_bad_one(
    feed: CameraFeed, clock: ManualClock
) -> None:
    message = image_message(stamp=9.0)
    feed.receive(message)
    for _ in range(10):
        clock.now += 1
        feed.receive(image_message(stamp=11.0))
    assert counts(feed).dropped == {"future": 10}
    assert feed.newest() == (message, 10.0)


def test_a_camera_that_sets_no_stamp_is_served(feed: CameraFeed, mailbox: Mailbox) -> None:
    for _ in range(2):
        feed.receive(image_message(stamp=0.0))
        assert len(mailbox.take()) == 1
    assert feed.view().age is None


def test_after_stop_nothing_of_before_is_the_newest(feed: CameraFeed) -> None:
    feed.receive(image_message(stamp=9.0))
    feed.stop()
    assert feed.newest()[0] is None
    assert feed.view().active_since is None
    feed.start()
    assert feed.newest()[0] is None
    feed.receive(image_message(stamp=5.5))
    assert counts(feed).dropped == {"superseded": 1}


def test_a_frame_that_comes_while_closed_is_inactive(feed: CameraFeed, mailbox: Mailbox) -> None:
    mailbox.close()
    feed.receive(image_message(stamp=9.0))
    assert counts(feed).dropped == {"inactive": 1}
    assert counts(feed).in_flight == 0
