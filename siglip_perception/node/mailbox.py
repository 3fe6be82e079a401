"""One slot a camera: the newest frame wins, and the camera that has waited longest is served."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from siglip_perception.node.accounting import Ticket


@dataclass(frozen=True)
class Item:
    """A frame that waits: its message as it came, undecoded, so that dropping it costs nothing.

    epoch: its camera's when it was put in; it grows with every flush.
    """

    camera: str
    message: Any
    ticket: Ticket
    epoch: int = 0


class Mailbox:
    """At most one waiting frame a camera; a source of work for the Worker.

    A newer frame takes the slot and the place in the queue of the one that it supersedes, so a
    fast camera gains nothing over a slow one. What waits is served together, in one batch.
    """

    def __init__(self, serve: Callable[[list[Item]], None], notify: Callable[[], None]) -> None:
        self._serve = serve
        self._notify = notify
        self._together: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, Item] = OrderedDict()
        self._epochs: Counter[str] = Counter()
        self._open = False

    def epoch(self, camera: str) -> int:
        with self._lock:
            return self._epochs[camera]

    def put(self, camera: str, message: Any, ticket: Ticket) -> None:
        """Puts a frame into its camera's slot; what was there is dropped as `superseded`."""
        with self._lock:
            if not self._open:
                ticket.drop("inactive")
                return
            waiting = self._slots.get(camera)
            self._slots[camera] = Item(camera, message, ticket, self._epochs[camera])
            if waiting is not None:
                waiting.ticket.drop("superseded")
        self._notify()

    def take(self) -> list[Item]:
        """All frames that wait, that of the camera that has waited longest first.

        Of cameras that are served together: none before each has one, and in their order.
        """
        with self._lock:
            if not self._ready():
                return []
            waiting = self._together or tuple(self._slots)
            return [self._slots.pop(camera) for camera in waiting]

    def _ready(self) -> bool:
        if self._together:
            return all(camera in self._slots for camera in self._together)
        return bool(self._slots)

    def open(self, together: Sequence[str] = ()) -> None:
        """together: cameras whose frames make sense only side by side."""
        with self._lock:
            self._open = True
            self._together = tuple(together)

    def close(self) -> None:
        """Drops what waits as `inactive`, and so everything that is put in from now on."""
        with self._lock:
            self._open = False
            for item in self._slots.values():
                item.ticket.drop("inactive")
            self._slots.clear()

    def flush(self, camera: str, reason: str, text: str) -> None:
        """Drops what waits of this camera for this reason and begins a new epoch of it."""
        with self._lock:
            self._epochs[camera] += 1
            waiting = self._slots.pop(camera, None)
            if waiting is not None:
                waiting.ticket.drop(reason, text)

    def delay(self) -> float | None:
        """0 where frames can be served, None otherwise."""
        with self._lock:
            return 0.0 if self._ready() else None

    def run(self) -> None:
        """Serves what waits, on the worker's thread."""
        items = self.take()
        if items:
            self._serve(items)
