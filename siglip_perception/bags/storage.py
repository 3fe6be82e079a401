"""One file of a bag, whatever its storage: the interface that its readers share."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Protocol, TypeVar

Entry = TypeVar("Entry")


class BrokenFileError(Exception):
    """A file of a bag that cannot be opened; the text says why, without a full stop."""


@dataclass(frozen=True)
class StoredTopic:
    """One topic as one file stores it.

    number: the file's own number for it. type: its message type as it is written there, such as
    "sensor_msgs/Image". encoding: how its messages are encoded: "cdr", "json" and so on.
    definition: the type's ROS 2 message definition, "" where the file has none. count: messages
    that the file holds.
    """

    number: int
    name: str
    type: str
    encoding: str
    definition: str
    count: int


class StoredFile(Protocol):
    """A file, open for reading.

    start_ns: time of its first message, 0 without messages. damages: what of it cannot be read,
    one entry each, in words; reading messages may add to it.
    """

    topics: tuple[StoredTopic, ...]
    start_ns: int
    damages: list[str]

    def messages(self, numbers: Set[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (time in nanoseconds, number of the topic, bytes) of these topics, by time."""

    def close(self) -> None:
        """Close the file."""


def merge_by_time(
    sources: Iterable[tuple[int, Callable[[], Iterator[tuple[int, Entry]]]]],
) -> Iterator[tuple[int, Entry]]:
    """Yield the (time, entry) of several sources by time; ties in the order of the sources.

    sources: for each its first time, and a function that opens it; it yields its entries by time.
    A source is opened when its first time has come, so that few are in memory together.
    """
    waiting = sorted(
        ((start, order, opened) for order, (start, opened) in enumerate(sources)),
        key=lambda source: source[:2],
        reverse=True,
    )
    heads: list[tuple[int, int, Entry, Iterator[tuple[int, Entry]]]] = []

    def push(order: int, entries: Iterator[tuple[int, Entry]]) -> None:
        for time, entry in entries:
            # No two heads share an order, so entries are never compared.
            heapq.heappush(heads, (time, order, entry, entries))
            return

    while waiting or heads:
        while waiting and (not heads or waiting[-1][0] <= heads[0][0]):
            _, order, opened = waiting.pop()
            push(order, opened())
        if heads:
            time, order, entry, entries = heapq.heappop(heads)
            yield time, entry
            push(order, entries)
