"""Which instruction is the newest: one slot, at most RATE_HZ a second, doubles left out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

RATE_HZ = 10.0
# Both subscriptions queue at most this many; a double is never further away than that.
DEPTH = 10


class InstructionSlot:
    """The newest instruction that waits to be encoded; a source of work for the Worker.

    A latched publisher is heard twice, by the volatile and by the transient-local subscription:
    both deliveries bear the same source timestamp, and the second one is left out. What only the
    transient-local one hears was stored before the node came, and may be older than what was
    spoken since: it is left out if a newer one was taken. That goes by the wall clocks of the
    publishers' machines, simulated time or not; what is spoken now is taken whatever they show.
    """

    def __init__(
        self,
        accept: Callable[[str], None],
        notify: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accept = accept
        self._notify = notify
        self._clock = clock
        self._lock = threading.Lock()
        self._text: str | None = None
        self._open = False
        self._due = 0.0
        self._superseded = 0
        self._newest = 0
        self._seen: deque[tuple[int, int]] = deque(maxlen=8 * DEPTH)

    @property
    def superseded(self) -> int:
        """Instructions that a newer one replaced before they were looked at."""
        with self._lock:
            return self._superseded

    def offer(self, text: str, source_timestamp: int = 0, latched: bool = False) -> None:
        """Keeps the text as the newest.

        source_timestamp: the publisher's, in nanoseconds, 0 for none. latched: heard by the
        transient-local subscription, so that it may be a stored one.
        """
        with self._lock:
            mark = (source_timestamp, hash(text))
            if source_timestamp:
                # The mark of one that is too old is not kept: of a publisher whose clock lags, the
                # volatile subscription is still to deliver it.
                if mark in self._seen or (latched and source_timestamp < self._newest):
                    return
                self._seen.append(mark)
                self._newest = max(self._newest, source_timestamp)
            if self._text is not None:
                self._superseded += 1
            self._text = text
        self._notify()

    def open(self) -> None:
        """From now on texts are handed on: there is a model that can encode them."""
        with self._lock:
            self._open = True
        self._notify()

    def close(self) -> None:
        """Keeps texts until open()."""
        with self._lock:
            self._open = False

    def delay(self) -> float | None:
        """Seconds until the text may be looked at; None without one."""
        with self._lock:
            if self._text is None or not self._open:
                return None
            return max(0.0, self._due - self._clock())

    def run(self) -> None:
        """Hands the newest text on, on the worker's thread."""
        with self._lock:
            text, self._text = self._text, None
            self._due = self._clock() + 1.0 / RATE_HZ
        if text is not None:
            self._accept(text)
