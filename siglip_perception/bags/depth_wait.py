"""Queue of a bag's color images that wait for their depth image, which may come later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from siglip_perception.stream.camera_stream import PendingFrame

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Query

# How long a color image waits for its depth image.
_MAX_WAIT_NS = 300_000_000

QueueEntry = tuple[PendingFrame, "Query | None"]


@dataclass
class DepthWait:
    """Frames that wait, oldest first, each with the query at its arrival.

    Times come from the bag and the headers, never from a clock.
    """

    _queue: deque[QueueEntry] = field(default_factory=deque)

    def put(self, pending: PendingFrame, query: Query | None) -> None:
        self._queue.append((pending, query))

    def ready(self, now_ns: int) -> Iterator[QueueEntry]:
        """Yield, in order, the frames that need not wait any longer at the bag's time now_ns."""
        while self._queue:
            pending, _ = self._queue[0]
            newest = pending.stream.depth.newest_ns()
            # Depth images come in order: after one as late as the frame, no nearer one follows.
            complete = newest is not None and newest >= pending.stamp_ns
            if not complete and now_ns - pending.received_ns <= _MAX_WAIT_NS:
                return
            yield self._queue.popleft()

    def remaining(self) -> Iterator[QueueEntry]:
        """Yield the frames that still wait at the end of the bag."""
        while self._queue:
            yield self._queue.popleft()
