"""One camera's depth images and camera infos, matched with its color images."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from siglip_perception.grounding.camera_roll import Uprightness, uprightness
from siglip_perception.grounding.depth import DepthError, depth_of
from siglip_perception.stream.stamp_check import stamp_ns
from siglip_perception.types import Depth

# One depth image in so many is looked at for which way up it is, and so many of these in a row
# have to agree: a moving arm's camera, or a hand before it, is not told.
_UPRIGHT_EVERY, _UPRIGHT_AGREE = 10, 3
# Depth images that wait, undecoded, for their color image.
_QUEUE_SIZE = 16


@dataclass(frozen=True)
class DepthView:
    """Outcomes of the color images' requests for depth.

    counts: `used`, or why there was none: `missing`, `info`, `size`, `encoding`, `malformed`,
        `empty`.
    reason, text: of the last failure. failed_at: its time in monotonic seconds; None: never.
    uprightness: which way up the picture is, by the surface that fills it.
    """

    counts: Mapping[str, int]
    reason: str
    text: str
    failed_at: float | None
    uprightness: Uprightness = "unknown"


class DepthFeed:
    """Matches depth images with color images. Thread-safe. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._images: deque[tuple[int, Any]] = deque(maxlen=_QUEUE_SIZE)
        self._info: Any = None
        self._counts: Counter[str] = Counter()
        self._reason = self._text = ""
        self._failed_at: float | None = None
        self._uprightness: Uprightness = "unknown"
        self._votes: deque[Uprightness] = deque(maxlen=_UPRIGHT_AGREE)

    def receive_image(self, message: Any) -> None:
        """Queue a sensor_msgs/Image of depth."""
        with self._lock:
            self._images.append((stamp_ns(message.header), message))

    def receive_info(self, message: Any) -> None:
        """Keep a sensor_msgs/CameraInfo until the next one."""
        with self._lock:
            self._info = message

    def flush(self) -> None:
        """Forget the images, after a jump back in time; keep the camera info."""
        with self._lock:
            self._images.clear()

    def newest_ns(self) -> int | None:
        """Return the newest depth image's stamp in nanoseconds; None if there is no image."""
        with self._lock:
            return max((stamp for stamp, _ in self._images), default=None)

    def depth(self, stamp_ns: int, width: int, height: int, tolerance: float) -> Depth | None:
        """Return the depth nearest in time to a color image, at most `tolerance` seconds away.

        None if no depth image is usable; view() then counts it and says why.
        """
        try:
            depth = depth_of(*self._nearest(stamp_ns, tolerance), width, height)
        except DepthError as error:
            with self._lock:
                self._counts[error.reason] += 1
                self._reason, self._text = error.reason, str(error)
                self._failed_at = self._clock()
            return None
        with self._lock:
            is_due = self._counts["used"] % _UPRIGHT_EVERY == 0
            self._counts["used"] += 1
        if is_due:
            self._vote(uprightness(depth))
        return depth

    def _vote(self, judgment: Uprightness) -> None:
        """Change what is told once a few judgments in a row agree; unknown ones change nothing."""
        if judgment == "unknown":
            return
        with self._lock:
            self._votes.append(judgment)
            if len(self._votes) == _UPRIGHT_AGREE and len(set(self._votes)) == 1:
                self._uprightness = judgment

    def view(self) -> DepthView:
        with self._lock:
            return DepthView(
                dict(self._counts),
                self._reason,
                self._text,
                self._failed_at,
                self._uprightness,
            )

    def _nearest(self, stamp_ns: int, tolerance: float) -> tuple[Any, Any]:
        with self._lock:
            images, info = list(self._images), self._info
        if info is None:
            raise DepthError("info", "no camera info has come.")
        if not images:
            raise DepthError("missing", "no depth image has come.")
        nearest, message = min(images, key=lambda entry: abs(entry[0] - stamp_ns))
        distance_s = abs(nearest - stamp_ns) / 1e9
        if distance_s > tolerance:
            raise DepthError(
                "missing",
                f"the nearest depth image is {distance_s:.3f} s away from the color image, and the"
                f" tolerance is {tolerance:g} s.",
            )
        return message, info
