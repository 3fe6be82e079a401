"""One slot per camera: the newest frame wins, and the camera that waits longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from siglip_perception.stream.camera_stream import PendingFrame


class Mailbox:
    """Holds at most one waiting frame per camera; a source of work for the Worker.

    A newer frame takes over the slot and the queue position of the frame that it supersedes, so a
    fast camera gains nothing over a slow one. All waiting frames are served in one batch.
    """

    def __init__(
        self, serve: Callable[[list[PendingFrame]], None], notify: Callable[[], None]
    ) -> None:
        self._serve = serve
        self._notify = notify
        self._joined_cameras: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, PendingFrame] = OrderedDict()
        self._open = False

    def put(self, frame: PendingFrame) -> None:
        """Put a frame into its camera's slot.

        The frame that was there is dropped as `superseded`, or as `time_jump` if it is stale.
        """
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
        """Remove and return all waiting frames, that of the longest-waiting camera first.

        Frames of joined cameras come in the cameras' order, and only once each camera has one.
        """
        with self._lock:
            if not self._ready():
                return []
            cameras = self._joined_cameras or tuple(self._slots)
            return [self._slots.pop(camera) for camera in cameras]

    def _ready(self) -> bool:
        if self._joined_cameras:
            return all(camera in self._slots for camera in self._joined_cameras)
        return bool(self._slots)

    def open(self, joined_cameras: Sequence[str] = ()) -> None:
        """Accept frames. joined_cameras: cameras whose frames are only useful together."""
        with self._lock:
            self._open = True
            self._joined_cameras = tuple(joined_cameras)

    def close(self) -> None:
        """Drop waiting frames as `inactive`, and all later ones until open()."""
        with self._lock:
            self._open = False
            for frame in self._slots.values():
                frame.ticket.drop("inactive")
            self._slots.clear()

    def drop_stale(self) -> None:
        """Drop waiting frames of cameras whose time has jumped back since they came."""
        with self._lock:
            for camera, frame in list(self._slots.items()):
                if frame.stale:
                    del self._slots[camera]
                    frame.ticket.drop("time_jump", frame.stream.jump)

    def delay(self) -> float | None:
        """Return 0 if frames can be served, None otherwise."""
        with self._lock:
            return 0.0 if self._ready() else None

    def run(self) -> None:
        """Serve the waiting frames, on the worker's thread."""
        frames = self.take()
        if frames:
            self._serve(frames)
