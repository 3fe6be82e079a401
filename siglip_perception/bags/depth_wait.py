"""Color images of a bag that wait for their depth image, which may come a little later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from siglip_perception.stream.depth_feed import DepthFeed

Waiting = TypeVar("Waiting")

# A depth image that comes more than this after its color image is not waited for.
_LONGEST_WAIT_NS = 300_000_000


@dataclass
class DepthWait(Generic[Waiting]):
    """What waits, oldest first. Times are the bag's and the headers', never a clock's."""

    feed: DepthFeed = field(default_factory=lambda: DepthFeed(clock=lambda: 0.0))
    _queue: deque[tuple[int, int, Waiting]] = field(default_factory=deque)

    def put(self, received_ns: int, stamp_ns: int, what: Waiting) -> None:
        """received_ns: the bag's time of it; stamp_ns: its header's."""
        self._queue.append((received_ns, stamp_ns, what))

    def ready(self, now_ns: int) -> Iterator[Waiting]:
        """What need not wait any longer at the bag's time now_ns, in its order."""
        newest = self.feed.newest_ns()
        while self._queue:
            received, stamp, what = self._queue[0]
            # A depth image of its own time or later is there: no nearer one is to come.
            complete = newest is not None and newest >= stamp
            if not complete and now_ns - received <= _LONGEST_WAIT_NS:
                return
            self._queue.popleft()
            yield what

    def rest(self) -> Iterator[Waiting]:
        """What still waits at the end of the bag."""
        while self._queue:
            yield self._queue.popleft()[2]
