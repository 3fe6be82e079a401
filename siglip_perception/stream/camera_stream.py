"""One camera's stream: each image message from its arrival to the content of its output messages.

The node and replay both run it. It imports neither ROS nor the bags: its caller passes in the
decoder, the clocks and the pipeline's results.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.grounding.tracking import Tracker, TrackingOptions
from siglip_perception.images.files import Picture
from siglip_perception.images.pixel_reference import Alarm, PixelReference, StreamCheck
from siglip_perception.stream.accounting import Clock, Counts, Ledger, Ticket
from siglip_perception.stream.depth_feed import DepthFeed, DepthView
from siglip_perception.stream.rate_limit import RateLimiter
from siglip_perception.stream.stamp_check import StampCheck, stamp_ns, too_old
from siglip_perception.types import Frame, Task, TokenGrid

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Query, Result

Decode = Callable[[Any, Settings], Picture]


@dataclass(frozen=True)
class PendingFrame:
    """An image message that waits, undecoded, so that dropping it costs nothing.

    It counts as in flight in its stream's ledger until its ticket is published or dropped.

    stamp_ns: the header's stamp in nanoseconds, 0 if the camera set none.
    received_ns: time of arrival by the stream's clock.
    epoch: the stream's epoch at arrival.
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
        """Time of capture, or of arrival if the camera sets no stamp."""
        return self.stamp_ns or self.received_ns

    @property
    def stale(self) -> bool:
        """True if time has jumped back since the message came."""
        return self.epoch != self.stream.epoch


@dataclass(frozen=True)
class CameraView:
    """Snapshot of a camera for /diagnostics. Times in monotonic seconds; None: never.

    age: seconds from the newest frame's stamp to its arrival; None if it has no stamp.
    picture: size and encoding of the newest frame, or its format.
    pixel_alarms: what differs from the training set's pixels; None if they are not compared.
    """

    name: str
    topic: str
    counts: Counts
    active_since: float | None
    jumped_at: float | None
    age: float | None
    picture: str
    depth: DepthView | None = None
    pixel_alarms: tuple[Alarm, ...] | None = None


class CameraStream:
    """Keeps one camera's stamps, counts, depth, grounding rate and tracked objects.

    Call `decode`, `frame`, `task` and `finish` on the thread that owns the pipeline, in this
    order; everything else is thread-safe.

    decode: decodes an image message; raises ImageError.
    settings: returns the current settings.
    now_ns: the clock to compare stamps with, in nanoseconds.
    clock: monotonic seconds.
    tracker: the tracker of an older stream of this camera, whose object ids go on.
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
        self._pixel_check: StreamCheck | None = None

    @property
    def epoch(self) -> int:
        """Number of jumps back in time so far."""
        with self._lock:
            return self._epoch

    @property
    def episode(self) -> tuple[int, float | None]:
        """Identity of a run of frames that belong together: since activation, without a jump."""
        with self._lock:
            return self._epoch, self._active_since

    @property
    def jump(self) -> str:
        """Description of the last jump back in time."""
        with self._lock:
            return self._jump

    def receive(self, message: Any) -> PendingFrame | None:
        """Count a live message and check its stamp; None if it was dropped for its stamp."""
        ticket = self.ledger.receive()
        stamp = stamp_ns(message.header)
        with self._lock:
            is_jump = self._stamps.is_jump(stamp)
        if is_jump:
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
        """Accept a message that is already counted, with any stamp, as a replay does."""
        stamp = stamp_ns(message.header)
        return PendingFrame(self, message, ticket, stamp, self._now_ns(), self.epoch)

    def decode(self, pending: PendingFrame, settings: Settings) -> Frame | None:
        """Decode a waiting message; None if it was dropped as too old or malformed."""
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
        """Convert the message to a frame, which can look up its depth if depth is enabled.

        Counts nothing. Raises ImageError.
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
        """Return the pipeline's task for the frame; it includes objects at grounding_rate only."""
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
        """Return the frame's result, its objects with ids if tracking is enabled.

        None if the frame was dropped: its features were NaN or infinite, or time jumped back while
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
        grounding = self.tracker.update(
            outcome.grounding,
            pending.time_ns,
            (frame.width, frame.height),
            TrackingOptions(settings.tracking_max_lost, settings.tracking_smoothing),
            settings.max_objects,
        )
        return replace(outcome, grounding=grounding)

    def check_pixels(
        self, pending: PendingFrame, tokens: TokenGrid, reference: PixelReference
    ) -> tuple[Alarm, ...]:
        """Compare the stream's last seconds, this frame included, with a training set's pixels.

        tokens: the frame's, which hold its pixels' fingerprint.
        """
        check = self._pixel_check
        if check is None or check.reference is not reference:
            check = StreamCheck(reference)
        fingerprint = np.array(tokens.pixel_fingerprint, np.float32)
        alarms = check.add(pending.time_ns, fingerprint)
        with self._lock:
            self._pixel_check = check
        return alarms

    def flush(self, text: str) -> None:
        """Make everything so far stale, after a jump back in time, which `text` describes."""
        self.depth.flush()
        self.ledger.forget_rates()
        with self._lock:
            self._stamps.forget()
            self._epoch += 1
            self._jump = text
            self._newest = None
            self._pixel_check = None
            self._jumped_at = self._clock()

    def start(self) -> None:
        """Prepare for messages: the subscriptions start now."""
        self.ledger.forget_rates()
        self.depth.flush()
        with self._lock:
            self._stamps.forget()
            self._newest = None
            self._active_since = self._clock()

    def stop(self) -> None:
        """Note that the subscriptions have ended; keep the counts."""
        with self._lock:
            self._active_since = None
            self._newest = None
            self._pixel_check = None

    def newest(self) -> tuple[PendingFrame | None, float]:
        """Return the newest usable message, or None, and the seconds since it came."""
        with self._lock:
            newest = self._newest
        if newest is None:
            return None, 0.0
        return newest, self._clock() - newest.ticket.arrival

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
                None if self._pixel_check is None else self._pixel_check.alarms,
            )


def _picture(message: Any) -> str:
    """Describe an image message by its size and encoding, or its format, all of it untrusted."""
    encoding = getattr(message, "encoding", None)
    if encoding is None:
        return ascii(message.format[:40])
    return f"{message.width}x{message.height} {encoding[:40]!a}"
