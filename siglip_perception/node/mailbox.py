"""One slot a camera: the newest frame wins, and the camera that has waited longest is served."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from siglip_perception.stream.camera_stream import PendingFrame


class Mailbox:
    """At most one waiting frame a camera; a source of work for the Worker.

    A newer frame takes the slot and the place in the queue of the one that it supersedes, so a
    fast camera gains nothing over a slow one. What waits is served together, in one batch.
    """

    def __init__(
        self, serve: Callable[[list[PendingFrame]], None], notify: Callable[[], None]
    ) -> None:
        self._serve = serve
        self._notify = notify
        self._together: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, PendingFrame] = OrderedDict()
        self._open = False

    def put(self, frame: PendingFrame) -> None:
        """Puts a frame into its camera's slot; what was there is dropped as `superseded`, or as
        `time_jump` where it is stale."""
        with self._lock:
            if not self._open:
                frame.ticket.drop("inactive")
                return
            waiting = self._slots.get(frame.camera)
            self._slots[frame.camera] = frame
            if waiting is not None and waiting.stale:
                waiting.ticket.drop("time_jump", waiting.stream.jump)
            elif waiting is not None:
                waiting.ticket.drop("superseded")
        self._notify()

    def take(self) -> list[PendingFrame]:
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
            for frame in self._slots.values():
                frame.ticket.drop("inactive")
            self._slots.clear()

    def drop_stale(self) -> None:
        """Drops what waits of cameras whose time has jumped back since."""
        with self._lock:
            for camera, frame in list(self._slots.items()):
                if frame.stale:
                    del self._slots[camera]
                    frame.ticket.drop("time_jump", frame.stream.jump)

    def delay(self) -> float | None:
        """0 where frames can be served, None otherwise."""
        with self._lock:
            return 0.0 if self._ready() else None

    def run(self) -> None:
        """Serves what waits, on the worker's thread."""
        frames = self.take()
        if frames:
            self._serve(frames)
