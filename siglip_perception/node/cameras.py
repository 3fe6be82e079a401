"""What comes from one camera, up to the mailbox: counted, and its stamp checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from siglip_perception.config import Settings
from siglip_perception.node.accounting import Clock, Counts, Ledger
from siglip_perception.node.conversions import stamp_ns
from siglip_perception.node.mailbox import Mailbox
from siglip_perception.node.stamp_check import StampCheck
from siglip_perception.stream.depth_feed import DepthFeed, DepthView


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


class CameraFeed:
    """One camera. `receive` runs on the executor's threads. clock: monotonic seconds."""

    def __init__(
        self,
        name: str,
        topic: str,
        mailbox: Mailbox,
        settings: Callable[[], Settings],
        now_ns: Callable[[], int],
        clock: Clock = time.monotonic,
    ) -> None:
        self.name = name
        self.topic = topic
        self.ledger = Ledger(clock)
        self._mailbox = mailbox
        self._settings = settings
        self._now_ns = now_ns
        self._clock = clock
        self._lock = threading.Lock()
        self._stamps = StampCheck()
        self._newest: tuple[Any, float] | None = None
        self._active_since: float | None = None
        self._jumped_at: float | None = None
        self._age: float | None = None
        self._picture = ""
        self.depth = DepthFeed(clock)

    def receive(self, message: Any) -> None:
        """Counts a message and puts it into the mailbox, unless its stamp forbids it."""
        ticket = self.ledger.receive()
        stamp, now = stamp_ns(message.header), self._now_ns()
        with self._lock:
            jumped = self._stamps.jumped(stamp)
        if jumped:
            self.flush("its stamps jumped back")
        with self._lock:
            verdict = self._stamps.check(stamp, now, self._settings().max_age)
            self._age = (now - stamp) / 1e9 if stamp and now else None
            self._picture = _picture(message)
            if verdict is None:
                self._newest = message, ticket.arrived
        if verdict is None:
            self._mailbox.put(self.name, message, ticket)
        else:
            ticket.drop(verdict.reason, verdict.text, verdict.level)

    def flush(self, text: str) -> None:
        """Time has jumped back: forgets everything that belongs to the time before."""
        self._mailbox.flush(self.name, "time_jump", text)
        self.depth.flush()
        self.ledger.forget_rates()
        with self._lock:
            self._stamps.forget()
            self._newest = None
            self._jumped_at = self._clock()

    def start(self) -> None:
        """The node is active from now on."""
        self.ledger.forget_rates()
        self.depth.flush()
        with self._lock:
            self._stamps.forget()
            self._newest = None
            self._active_since = self._clock()

    def stop(self) -> None:
        with self._lock:
            self._active_since = None
            self._newest = None

    def newest(self) -> tuple[Any, float]:
        """The newest usable message and the seconds since it came; None before any."""
        with self._lock:
            newest = self._newest
        if newest is None:
            return None, 0.0
        message, arrived = newest
        return message, self._clock() - arrived

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
