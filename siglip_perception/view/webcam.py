"""A webcam as a live source."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2

from siglip_perception.view.files import captured_picture
from siglip_perception.view.source import SourceError, SourceFrame, Status

# How long a camera that has vanished is left alone before it is opened again, in seconds.
RETRY_S = 1.0


class Webcam:
    """A camera that OpenCV opens by its number; one that vanishes is opened again when it is back.

    open_capture: as cv2.VideoCapture. clock: monotonic seconds. Raises SourceError where there is
    no such camera.
    """

    kind = "webcam"
    cameras: Sequence[str] = ("",)
    notes: Sequence[str] = ()

    def __init__(
        self,
        number: int,
        max_pixels: int,
        open_capture: Callable[[int], Any] = cv2.VideoCapture,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = f"webcam {number}"
        self._number = number
        self._max_pixels = max_pixels
        self._open_capture = open_capture
        self._clock = clock
        self._start = clock()
        self._count = 0
        self._retry_at = 0.0
        self._capture: Any = self._opened()
        if self._capture is None:
            raise SourceError(
                f"There is no webcam {number}: connect it, name another, as in webcam:1, and see"
                " that this user may open /dev/video*."
            )

    def choose(self, camera: str) -> None:
        """Do nothing: there is one camera."""

    def watch(self, tokens: bool | None) -> None:
        """Do nothing: a frame that nobody reads costs nothing."""

    def next(self, timeout_s: float) -> SourceFrame | None:
        if self._capture is None:
            if self._clock() < self._retry_at:
                time.sleep(min(timeout_s, 0.05))
                return None
            self._capture = self._opened()
        if self._capture is None or not self._capture.grab():
            self._lose()
            raise SourceError(
                f"The {self.title} has stopped giving pictures: is it still connected? It is tried"
                " again every second."
            )
        frame = SourceFrame(
            self._count,
            self._clock() - self._start,
            self.title,
            partial(captured_picture, self._capture, self._max_pixels),
        )
        self._count += 1
        return frame

    def instruct(self, text: str) -> bool:
        return False

    def statuses(self) -> Sequence[Status]:
        return ()

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _opened(self) -> Any:
        capture = self._open_capture(self._number)
        if not capture.isOpened():
            capture.release()
            return None
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else the frames lag behind by the buffer
        return capture

    def _lose(self) -> None:
        self.close()
        self._retry_at = self._clock() + RETRY_S
