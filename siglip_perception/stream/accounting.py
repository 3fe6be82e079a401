"""Counts of every frame's fate: received = published + sum of dropped + in flight, always."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

Clock = Callable[[], float]

# Most recent frames that rates and percentiles are computed from.
WINDOW = 512
# Time that rates look back, in seconds.
RATE_SECONDS = 3.0


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


# Every reason for dropping a frame, and its level.
REASONS: Mapping[str, Level] = {
    "superseded": Level.OK,
    "inactive": Level.OK,
    "incomplete": Level.WARN,
    "time_jump": Level.WARN,
    "out_of_order": Level.WARN,
    "future": Level.WARN,
    "too_old": Level.WARN,
    "malformed": Level.ERROR,
    "encoding": Level.ERROR,
    "too_large": Level.ERROR,
    "corrupt": Level.WARN,
    "not_finite": Level.ERROR,
    "out_of_memory": Level.ERROR,
    "failed": Level.ERROR,
}


@dataclass(frozen=True)
class Drop:
    """The last frame dropped for one reason. at: monotonic seconds. text: the details."""

    at: float
    level: Level
    text: str


@dataclass(frozen=True)
class Counts:
    """Consistent snapshot of a ledger. Rates in Hz, times in seconds; None: not known yet.

    repaired: frames with a fault in their file that was repaired, by fault; they also count as
        published or dropped.
    streak: frames dropped since the last published one, by reason.
    drops: the last drop for each reason. examples: the text of the first drop for each reason.
    """

    received: int
    published: int
    dropped: Mapping[str, int]
    repaired: Mapping[str, int]
    in_flight: int
    lost: int
    streak: Mapping[str, int]
    drops: Mapping[str, Drop]
    examples: Mapping[str, str]
    last_arrival: float | None
    period: float | None
    received_rate: float
    published_rate: float
    latency_p50: float | None
    latency_p99: float | None


class Ticket:
    """One received frame, which must be resolved exactly once: published or dropped.

    arrival: monotonic seconds.
    """

    def __init__(self, ledger: Ledger, arrival: float) -> None:
        self._ledger = ledger
        self._is_resolved = False
        self.arrival = arrival

    def publish(self) -> float:
        """Count the frame as published; return its latency from arrival to now, in seconds."""
        return self._ledger._publish(self)

    def drop(self, reason: str, text: str = "", level: Level | None = None) -> None:
        """Count the frame as dropped for one of REASONS. level: overrides that of REASONS."""
        self._ledger._drop(self, reason, text, REASONS[reason] if level is None else level)

    def note_repairs(self, repairs: Sequence[str]) -> None:
        """Count the faults repaired in the frame's file; the frame stays in flight."""
        self._ledger._note_repairs(repairs)

    def _resolve(self) -> None:
        if self._is_resolved:
            raise RuntimeError("a frame was counted twice")
        self._is_resolved = True


class Ledger:
    """Counts the frames of one camera. Thread-safe."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._received = 0
        self._published = 0
        self._in_flight = 0
        self._lost = 0
        self._dropped: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._streak: Counter[str] = Counter()
        self._drops: dict[str, Drop] = {}
        self._examples: dict[str, str] = {}
        self._last_arrival: float | None = None
        self._arrivals: deque[float] = deque(maxlen=WINDOW)
        self._publishings: deque[float] = deque(maxlen=WINDOW)
        self._latencies: deque[float] = deque(maxlen=WINDOW)

    def receive(self) -> Ticket:
        """Count a frame that has just arrived as in flight."""
        with self._lock:
            now = self._clock()
            self._received += 1
            self._in_flight += 1
            self._last_arrival = now
            self._arrivals.append(now)
            return Ticket(self, now)

    def lose(self, count: int) -> None:
        """Count frames that the middleware lost: they were never received."""
        with self._lock:
            self._lost += count

    def forget_rates(self) -> None:
        """Reset rates, periods and latencies; keep counts and the last arrival."""
        with self._lock:
            self._arrivals.clear()
            self._publishings.clear()
            self._latencies.clear()

    def counts(self) -> Counts:
        with self._lock:
            now = self._clock()
            latencies = sorted(self._latencies)
            return Counts(
                received=self._received,
                published=self._published,
                dropped=dict(self._dropped),
                repaired=dict(self._repaired),
                in_flight=self._in_flight,
                lost=self._lost,
                streak=dict(self._streak),
                drops=dict(self._drops),
                examples=dict(self._examples),
                last_arrival=self._last_arrival,
                period=_period(self._arrivals),
                received_rate=_rate(self._arrivals, now),
                published_rate=_rate(self._publishings, now),
                latency_p50=_percentile(latencies, 0.5),
                latency_p99=_percentile(latencies, 0.99),
            )

    def _note_repairs(self, repairs: Sequence[str]) -> None:
        with self._lock:
            self._repaired.update(repairs)

    def _publish(self, ticket: Ticket) -> float:
        with self._lock:
            ticket._resolve()
            now = self._clock()
            self._published += 1
            self._in_flight -= 1
            self._streak.clear()
            self._publishings.append(now)
            self._latencies.append(now - ticket.arrival)
            return now - ticket.arrival

    def _drop(self, ticket: Ticket, reason: str, text: str, level: Level) -> None:
        with self._lock:
            ticket._resolve()
            self._in_flight -= 1
            self._dropped[reason] += 1
            self._streak[reason] += 1
            self._drops[reason] = Drop(self._clock(), level, text)
            self._examples.setdefault(reason, text)


def _rate(times: deque[float], now: float) -> float:
    """Return the events per second over the last RATE_SECONDS."""
    recent = [at for at in times if at > now - RATE_SECONDS]
    if len(recent) < 2:
        return 0.0
    return (len(recent) - 1) / (recent[-1] - recent[0]) if recent[-1] > recent[0] else 0.0


def _period(times: deque[float]) -> float | None:
    """Return the median time between two of the last 16 events, in seconds."""
    recent = list(times)[-16:]
    gaps = sorted(later - earlier for earlier, later in pairwise(recent))
    return gaps[len(gaps) // 2] if gaps else None


def _percentile(values: list[float], share: float) -> float | None:
    """Return the value that `share` of the sorted values do not exceed."""
    return values[min(int(share * len(values)), len(values) - 1)] if values else None
