"""How often a camera's objects are looked for: a rate that does not drift with the frames'."""

from __future__ import annotations

from collections.abc import Callable

# A frame that comes this much before its time is in time: cameras jitter.
_EARLY_NS = 2_000_000


class RateLimiter:
    """rate: in Hz, asked for at each frame; 0: every frame is due."""

    def __init__(self, rate: Callable[[], float]) -> None:
        self._rate = rate
        self._next: dict[str, tuple[int, int]] = {}

    def due(self, camera: str, stamp_ns: int) -> bool:
        """Whether the camera's frame of this time is due; one that is counts as served.

        Time that jumps back begins anew.
        """
        rate = self._rate()
        if rate <= 0:
            return True
        period = round(1e9 / rate)
        last, at = self._next.get(camera, (stamp_ns, stamp_ns))
        jumped = stamp_ns < last
        if not jumped and stamp_ns < at - _EARLY_NS:
            self._next[camera] = stamp_ns, at
            return False
        late = jumped or stamp_ns - at >= period
        self._next[camera] = stamp_ns, (stamp_ns if late else at) + period
        return True
