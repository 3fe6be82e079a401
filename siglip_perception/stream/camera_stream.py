"""One camera's stream: each image message from its arrival to the content of its messages.

The node and a replay run it. It knows neither ROS nor a bag: it is given the function that decodes
a message, the clocks, and what the pipeline gave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.grounding.tracking import Tracker, TrackingOptions
from siglip_perception.images.files import Picture
from siglip_perception.stream.accounting import Clock, Counts, Ledger, Ticket
from siglip_perception.stream.depth_feed import DepthFeed, DepthView
from siglip_perception.stream.rate_limit import RateLimiter
from siglip_perception.stream.stamp_check import StampCheck, stamp_ns, too_old
from siglip_perception.types import Frame, Task

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Query, Result

Decode = Callable[[Any, Settings], Picture]


@dataclass(frozen=True)
class PendingFrame:
    """An image message on its way, undecoded, so that dropping it costs nothing.

    It counts as in flight in its stream's ledger until its ticket is published or dropped.
    stamp_ns: the header's stamp in nanoseconds, 0 where the camera set none. received_ns: arrival
    by the stream's clock. epoch: the stream's at its arrival.
    """

    stream: CameraStream
    message: Any
    ticket: Ticket
    stamp_ns: int
    received_ns: int
    epoch: int

    @property
    def camera(self) -> str:
        return self.stream.name

    @property
    def time_ns(self) -> int:
        """Time of capture; of arrival, where the camera stamps nothing."""
        return self.stamp_ns or self.received_ns

    @property
    def stale(self) -> bool:
        """Whether time has jumped back since it came, so that it belongs to the time before."""
        return self.epoch != self.stream.epoch


@dataclass(frozen=True)
class CameraView:
    """What /diagnostics tells of a camera. Times in monotonic seconds; None: never.

    age: seconds from the newest frame's stamp to its arrival; None where it has no stamp.
    """

    name: str
    topic: str
    counts: Counts
    active_since: float | None
    jumped_at: float | None
    age: float | None
    picture: str
    depth: DepthView | None = None


class CameraStream:
    """One camera: its stamps, counts, depth, rate of grounding and tracked objects.

    Call `decode`, `frame`, `task` and `finish` on the thread that owns the pipeline, in this
    order; all else runs on any thread. decode: an image message -> its picture; raises ImageError.
    settings: the newest ones. now_ns: the clock that the stamps are compared with. clock:
    monotonic seconds. tracker: goes on numbering objects where an older stream of this camera
    ended.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        decode: Decode,
        settings: Callable[[], Settings],
        now_ns: Callable[[], int],
        clock: Clock = time.monotonic,
        tracker: Tracker | None = None,
    ) -> None:
        self.name = name
        self.topic = topic
        self.ledger = Ledger(clock)
        self.depth = DepthFeed(clock)
        self.tracker = tracker or Tracker()
        self._decode = decode
        self._settings = settings
        self._now_ns = now_ns
        self._clock = clock
        self._rate = RateLimiter()
        self._lock = threading.Lock()
        self._stamps = StampCheck()
        self._epoch = 0
        self._jump = ""
        self._newest: PendingFrame | None = None
        self._active_since: float | None = None
        self._jumped_at: float | None = None
        self._age: float | None = None
        self._picture = ""

    @property
    def epoch(self) -> int:
        """Grows by one with each jump back in time."""
        with self._lock:
            return self._epoch

    @property
    def jump(self) -> str:
        """Why time was last taken to have jumped back, in words."""
        with self._lock:
            return self._jump

    def receive(self, message: Any) -> PendingFrame | None:
        """Count a live message and check its stamp; None where the stamp forbids to use it."""
        ticket = self.ledger.receive()
        stamp = stamp_ns(message.header)
        with self._lock:
            jumped = self._stamps.jumped(stamp)
        if jumped:
            self.flush("its stamps jumped back")
        pending = self.admit(message, ticket)
        now = pending.received_ns
        with self._lock:
            verdict = self._stamps.check(stamp, now, self._settings().max_age)
            self._age = (now - stamp) / 1e9 if stamp and now else None
            self._picture = _picture(message)
            if verdict is None:
                self._newest = pending
        if verdict is None:
            return pending
        ticket.drop(verdict.reason, verdict.text, verdict.level)
        return None

    def admit(self, message: Any, ticket: Ticket) -> PendingFrame:
        """Take a message that is counted already, whatever its stamp: a recording has no now."""
        stamp = stamp_ns(message.header)
        return PendingFrame(self, message, ticket, stamp, self._now_ns(), self.epoch)

    def decode(self, pending: PendingFrame, settings: Settings) -> Frame | None:
        """The frame of a message that waited; None where it was dropped, too old or malformed."""
        old = too_old(pending.stamp_ns, self._now_ns(), settings.max_age)
        if old is not None:
            pending.ticket.drop(old.reason, old.text, old.level)
            return None
        try:
            frame = self.frame(pending, settings)
        except ImageError as error:
            pending.ticket.drop(error.reason, str(error))
            return None
        pending.ticket.note_repairs(frame.repairs)
        return frame

    def frame(self, pending: PendingFrame, settings: Settings) -> Frame:
        """The message's frame, with the way to its depth where depth is enabled; counts nothing.

        Raises ImageError.
        """
        picture = self._decode(pending.message, settings)
        frame = Frame(
            picture.pixels,
            pending.stamp_ns,
            pending.message.header.frame_id,
            self.name,
            repairs=picture.repairs,
        )
        if not settings.depth_enabled:
            return frame
        depth = partial(
            self.depth.depth,
            frame.stamp_ns,
            frame.width,
            frame.height,
            settings.depth_tolerance,
        )
        return replace(frame, depth=depth)

    def task(
        self,
        pending: PendingFrame,
        frame: Frame,
        query: Query | None,
        settings: Settings,
        *,
        with_mask: bool,
    ) -> Task:
        """What the pipeline is to do with the frame: objects only as often as grounding_rate."""
        if query is None or not self._rate.due(pending.time_ns, settings.grounding_rate):
            return Task(frame)
        return Task(frame, query, with_mask)

    def finish(
        self,
        pending: PendingFrame,
        frame: Frame,
        outcome: Result | FloatingPointError,
        settings: Settings,
    ) -> Result | None:
        """The frame's result, its objects with ids where tracking is enabled.

        None where the frame was dropped: NaN or infinity came out of it, or time jumped back while
        it was processed.
        """
        if isinstance(outcome, FloatingPointError):
            pending.ticket.drop("not_finite", str(outcome))
            return None
        if pending.stale:
            pending.ticket.drop("time_jump", "time jumped back while the frame was processed")
            return None
        if not settings.tracking_enabled:
            self.tracker = Tracker()
            return outcome
        if outcome.grounding is None:
            return outcome
        tracked = self.tracker.update(
            outcome.grounding,
            pending.time_ns,
            (frame.width, frame.height),
            TrackingOptions(settings.tracking_max_lost, settings.tracking_smoothing),
            settings.max_objects,
        )
        return replace(outcome, grounding=tracked)

    def flush(self, text: str) -> None:
        """Time has jumped back: everything of the time before is stale. text: why, in words."""
        self.depth.flush()
        self.ledger.forget_rates()
        with self._lock:
            self._stamps.forget()
            self._epoch += 1
            self._jump = text
            self._newest = None
            self._jumped_at = self._clock()

    def start(self) -> None:
        """Messages come from now on."""
        self.ledger.forget_rates()
        self.depth.flush()
        with self._lock:
            self._stamps.forget()
            self._newest = None
            self._active_since = self._clock()

    def stop(self) -> None:
        """No message comes any more; the counts stay."""
        with self._lock:
            self._active_since = None
            self._newest = None

    def newest(self) -> tuple[PendingFrame | None, float]:
        """The newest usable message and the seconds since it came; None before any."""
        with self._lock:
            newest = self._newest
        if newest is None:
            return None, 0.0
        return newest, self._clock() - newest.ticket.arrived

    def view(self) -> CameraView:
        counts = self.ledger.counts()
        with self._lock:
            return CameraView(
                self.name,
                self.topic,
                counts,
                self._active_since,
                self._jumped_at,
                self._age,
                self._picture,
                self.depth.view() if self._settings().depth_enabled else None,
            )


def _picture(message: Any) -> str:
    """Size and encoding of an image message, for people; nothing of it is trusted."""
    encoding = getattr(message, "encoding", None)
    if encoding is None:
        return ascii(message.format[:40])
    return f"{message.width}x{message.height} {encoding[:40]!a}"
