"""Interface that the readers of a bag's files share, whatever the storage."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Protocol, TypeVar

Entry = TypeVar("Entry")
# Before every time that a file can hold.
EVER = -(2**63)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Most bytes that a message or a chunk unpacks to; the largest image that is read has 265 MB.
MAX_UNPACKED_BYTES = 1 << 29


def unpack_zstd(data: bytes | memoryview) -> bytes:
    """Decompress all frames; ZstdError if they are damaged or unpack to more than 512 MiB."""
    parts: list[bytes] = []
    left = MAX_UNPACKED_BYTES
    while data:
        decompressor = zstd.ZstdDecompressor()
        parts.append(decompressor.decompress(data, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise zstd.ZstdError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        if not decompressor.eof:
            raise zstd.ZstdError("it is cut off")
        data = decompressor.unused_data
    return b"".join(parts)


class BrokenFileError(Exception):
    """A bag's file cannot be opened; the text says why, without a full stop."""


@dataclass(frozen=True)
class StoredTopic:
    """A topic as one file stores it.

    number: the topic's number in the file.
    type: the message type as stored, such as "sensor_msgs/Image".
    encoding: of the messages: "cdr", "json" and so on.
    definition: the type's ROS 2 message definition, "" if the file has none.
    count: number of messages in the file.
    """

    number: int
    name: str
    type: str
    encoding: str
    definition: str
    count: int


class StoredFile(Protocol):
    """A file that is open for reading.

    start_ns: time of the first message, 0 without messages. damages: descriptions of what cannot
    be read; reading messages may add to them.
    """

    topics: tuple[StoredTopic, ...]
    start_ns: int
    damages: list[str]

    def messages(
        self, numbers: Set[int], start_ns: int = EVER
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield (time in nanoseconds, topic number, bytes) of these topics' messages, by time.

        start_ns: leave out earlier ones.
        """

    def close(self) -> None:
        """Close the file."""


def merge_by_time(
    sources: Iterable[tuple[int, Callable[[], Iterator[tuple[int, Entry]]]]],
) -> Iterator[tuple[int, Entry]]:
    """Merge several sources' (time, entry) pairs by time; ties go by the order of the sources.

    sources: each one's first time and a function that opens it and yields its entries by time.
        A source is opened only when its first time has come, so that few are in memory at once.
    """
    waiting = sorted(
        ((start, order, open_source) for order, (start, open_source) in enumerate(sources)),
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
            _, order, open_source = waiting.pop()
            push(order, open_source())
        if heads:
            time, order, entry, entries = heapq.heappop(heads)
            yield time, entry
            push(order, entries)
