"""Color images of a bag that wait for their depth image, which may come a little later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from siglip_perception.stream.camera_stream import PendingFrame

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Query

# A depth image that comes more than this after its color image is not waited for.
_LONGEST_WAIT_NS = 300_000_000

Waiting = tuple[PendingFrame, "Query | None"]


@dataclass
class DepthWait:
    """Frames that wait, each with the query that held when it came, oldest first.

    Times are the bag's and the headers', never a clock's.
    """

    _queue: deque[Waiting] = field(default_factory=deque)

    def put(self, pending: PendingFrame, query: Query | None) -> None:
        self._queue.append((pending, query))

    def ready(self, now_ns: int) -> Iterator[Waiting]:
        """The frames that need not wait any longer at the bag's time now_ns, in their order."""
        while self._queue:
            pending, _ = self._queue[0]
            newest = pending.stream.depth.newest_ns()
            # A depth image of its own time or later is there: no nearer one is to come.
            complete = newest is not None and newest >= pending.stamp_ns
            if not complete and now_ns - pending.received_ns <= _LONGEST_WAIT_NS:
                return
            yield self._queue.popleft()

    def rest(self) -> Iterator[Waiting]:
        """The frames that still wait at the end of the bag."""
        while self._queue:
            yield self._queue.popleft()
