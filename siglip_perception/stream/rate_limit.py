"""How often a camera's objects are looked for: a rate that does not drift with the frames'."""

from __future__ import annotations

# A frame that comes this much before its time is in time: cameras jitter.
_EARLY_NS = 2_000_000


class RateLimiter:
    """Chooses the frames of one camera in which objects are looked for."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self._next_ns = 0

    def due(self, stamp_ns: int, rate: float) -> bool:
        """Whether the frame of this time is due; one that is counts as served.

        rate: in Hz; 0: every frame is due. Time that jumps back begins anew.
        """
        if rate <= 0:
            return True
        period = round(1e9 / rate)
        if self._newest_ns is None:
            self._newest_ns = self._next_ns = stamp_ns
        jumped = stamp_ns < self._newest_ns
        self._newest_ns = stamp_ns
        if not jumped and stamp_ns < self._next_ns - _EARLY_NS:
            return False
        late = jumped or stamp_ns - self._next_ns >= period
        self._next_ns = (stamp_ns if late else self._next_ns) + period
        return True
