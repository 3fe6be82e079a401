"""What became of every frame: received = published + sum of dropped + in flight, always."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

Clock = Callable[[], float]

# Frames and latencies that percentiles and rates look back on.
WINDOW = 512
RATE_SECONDS = 3.0


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


# Every reason for which a frame is dropped, and how bad it is.
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
    """The last frame dropped for one reason: when (monotonic seconds), how bad, and why."""

    at: float
    level: Level
    text: str


@dataclass(frozen=True)
class Counts:
    """One consistent look at a ledger. Rates in Hz, times in seconds; None: not known yet.

    repaired: frames whose files had faults that were mended, by fault; they count among the
    published or the dropped ones all the same.
    streak: frames dropped since the last one published, by reason.
    drops: the last drop for each reason. examples: the first one's text.
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
    """One received frame, to be resolved exactly once: published or dropped."""

    def __init__(self, ledger: Ledger, arrived: float) -> None:
        self._ledger = ledger
        self._resolved = False
        self.arrived = arrived

    def publish(self) -> float:
        """Counts the frame as published; returns its latency, arrival to now, in seconds."""
        return self._ledger._publish(self)

    def drop(self, reason: str, text: str = "", level: Level | None = None) -> None:
        """Counts the frame as dropped for one of REASONS; `level` where it differs from there."""
        self._ledger._drop(self, reason, text, REASONS[reason] if level is None else level)

    def note_repairs(self, repairs: Sequence[str]) -> None:
        """Counts the faults of the frame's file that were mended; it stays in flight."""
        self._ledger._note_repairs(repairs)

    def _resolve(self) -> None:
        if self._resolved:
            raise RuntimeError("a frame was counted twice")
        self._resolved = True


class Ledger:
    """The counts of one camera; every method may be called from any thread."""

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
        """Counts a frame that has just arrived as in flight."""
        with self._lock:
            now = self._clock()
            self._received += 1
            self._in_flight += 1
            self._last_arrival = now
            self._arrivals.append(now)
            return Ticket(self, now)

    def lose(self, count: int) -> None:
        """Counts frames that the middleware lost: they were never received."""
        with self._lock:
            self._lost += count

    def forget_rates(self) -> None:
        """Starts rates, periods and latencies anew; counts and the last arrival stay."""
        with self._lock:
            self._arrivals.clear()
            self._publishings.clear()
            self._latencies.clear()

    def counts(self) -> Counts:
        with self._lock:
            now = self._clock()
            ordered = sorted(self._latencies)
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
                latency_p50=_percentile(ordered, 0.5),
                latency_p99=_percentile(ordered, 0.99),
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
            self._latencies.append(now - ticket.arrived)
            return now - ticket.arrived

    def _drop(self, ticket: Ticket, reason: str, text: str, level: Level) -> None:
        with self._lock:
            ticket._resolve()
            self._in_flight -= 1
            self._dropped[reason] += 1
            self._streak[reason] += 1
            self._drops[reason] = Drop(self._clock(), level, text)
            self._examples.setdefault(reason, text)


def _rate(times: deque[float], now: float) -> float:
    """Events a second over the last RATE_SECONDS."""
    recent = [at for at in times if at > now - RATE_SECONDS]
    if len(recent) < 2:
        return 0.0
    return (len(recent) - 1) / (recent[-1] - recent[0]) if recent[-1] > recent[0] else 0.0


def _period(times: deque[float]) -> float | None:
    """The usual time between two events: the median of the last few, in seconds."""
    recent = list(times)[-16:]
    gaps = sorted(later - earlier for earlier, later in pairwise(recent))
    return gaps[len(gaps) // 2] if gaps else None


def _percentile(ordered: list[float], share: float) -> float | None:
    """The value that `share` of the ordered values do not exceed."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
