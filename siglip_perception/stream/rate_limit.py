"""Rate limit of a camera's grounding, which does not drift with the frame rate."""

from __future__ import annotations

# How much a frame may come before its time and still be due, since cameras jitter.
_JITTER_NS = 2_000_000


class RateLimiter:
    """Chooses the frames of one camera that are grounded."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self._next_ns = 0

    def due(self, stamp_ns: int, rate: float) -> bool:
        """Return True if the frame of this time is due, and count it as grounded.

        rate: Hz; 0: every frame is due. A jump back in time starts a new schedule.
        """
        if rate <= 0:
            return True
        period = round(1e9 / rate)
        if self._newest_ns is None:
            self._newest_ns = self._next_ns = stamp_ns
        is_jump = stamp_ns < self._newest_ns
        self._newest_ns = stamp_ns
        if not is_jump and stamp_ns < self._next_ns - _JITTER_NS:
            return False
        late = is_jump or stamp_ns - self._next_ns >= period
        self._next_ns = (stamp_ns if late else self._next_ns) + period
        return True
