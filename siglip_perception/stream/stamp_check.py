"""Check of a frame's stamp: too old, in the future, out of order, or a jump back in time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from siglip_perception.stream.accounting import REASONS, Level

# How far in the future a stamp may lie: clocks of two machines differ a little.
FUTURE_NS = 50_000_000
# A smaller step back is a frame that another one overtook; a larger step is a bag that loops.
JUMP_NS = 500_000_000
# Stamps that are remembered: those of half a second at 500 frames a second.
_RECENT = 256
# Age from which a frame that is too old is an error, not a warning.
VERY_OLD_NS = 1_000_000_000


def stamp_ns(header: Any) -> int:
    """Return the header's stamp in nanoseconds; 0 if the camera sets none."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


@dataclass(frozen=True)
class Verdict:
    """A fault of a stamp. reason: one of accounting.REASONS."""

    reason: str
    text: str
    level: Level


class StampCheck:
    """Checks the stamps of one camera."""

    def __init__(self) -> None:
        self._newest = 0
        self._recent: deque[int] = deque(maxlen=_RECENT)

    def is_jump(self, stamp_ns: int) -> bool:
        """Return True if time has jumped back, by the stamp.

        It is far before the newest one, or it has come before: no middleware delivers a frame
        twice, but a bag of less than half a second does when it loops.
        """
        if stamp_ns <= 0 or stamp_ns >= self._newest:
            return False
        return stamp_ns < self._newest - JUMP_NS or stamp_ns in self._recent

    def forget(self) -> None:
        self._newest = 0
        self._recent.clear()

    def check(self, stamp_ns: int, now_ns: int, max_age: float) -> Verdict | None:
        """Return the stamp's fault; None if the frame may be used. max_age: seconds; 0: no limit.

        A stamp of 0 means that the camera sets none, a clock of 0 that a simulation has not
        started. Neither says anything about age.
        """
        if stamp_ns == 0:
            return None
        if now_ns > 0 and stamp_ns - now_ns > FUTURE_NS:
            ahead = (stamp_ns - now_ns) / 1e9
            return Verdict("future", f"stamped {ahead:.3f} s in the future", REASONS["future"])
        if stamp_ns < self._newest and not self.is_jump(stamp_ns):
            late = (self._newest - stamp_ns) / 1e9
            return Verdict(
                "out_of_order",
                f"{late:.3f} s older than the frame before",
                REASONS["out_of_order"],
            )
        self._newest = stamp_ns
        self._recent.append(stamp_ns)
        return too_old(stamp_ns, now_ns, max_age)


def too_old(stamp_ns: int, now_ns: int, max_age: float) -> Verdict | None:
    """Return the fault of a frame older than max_age seconds, else None. max_age 0: no limit."""
    age = now_ns - stamp_ns
    if stamp_ns == 0 or now_ns == 0 or max_age <= 0 or age <= max_age * 1e9:
        return None
    return Verdict(
        "too_old",
        f"{age / 1e9:.3f} s old, more than max_age {max_age:g} s",
        Level.ERROR if age > VERY_OLD_NS else Level.WARN,
    )
