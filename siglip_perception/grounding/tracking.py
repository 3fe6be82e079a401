"""Tracker of objects: the same id for the same object across frames, and smooth scores.

A constant-velocity Kalman filter per object predicts its box; detections are matched with the
predictions of their phrase, the best overlap first. An object that is not detected stays at its
predicted place for at most `max_lost` seconds, and `lost` says for how long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from siglip_perception.grounding.scores import sigmoid
from siglip_perception.types import NOWHERE, Box, GroundedObject, Grounding

_State = npt.NDArray[np.float64]

# Standard deviations in units of an object's size: of its acceleration per second squared, of its
# detected box, and of its initial speed per second.
_ACCELERATION = 4.0
_MEASUREMENT = 0.08
_FIRST_SPEED = 2.0
# A detection continues a track if the boxes' IoU is at least _MIN_IOU, or the distance of their
# centers is at most _MAX_DISTANCE of their size.
_MIN_IOU = 0.15
_MAX_DISTANCE = 0.5
# Longest time between two frames, in seconds; after that all tracks are dropped.
_MAX_GAP = 2.0


@dataclass(frozen=True)
class TrackingOptions:
    """Options of the tracker.

    max_lost: how long an object that is not detected is kept, in seconds.
    smoothing: time constant of the scores' average, in seconds; 0: no average.
    """

    max_lost: float = 0.3
    smoothing: float = 0.2


class _Track:
    """Kalman filter of one object; the state is center x and y, width and height, and speeds."""

    def __init__(self, number: int, detection: GroundedObject, stamp_ns: int) -> None:
        self.number = number
        self.logit = detection.logit
        self.detection = detection
        self.seen_ns = stamp_ns
        self._place = _place(detection.box)
        self._speed: _State = np.zeros(4)
        self._size = math.sqrt(detection.box.width * detection.box.height)
        # One covariance for all four, in units of the size, since their noise is the same.
        self._p = np.array([[_MEASUREMENT**2, 0.0], [0.0, _FIRST_SPEED**2]])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the predicted box."""
        x, y, width, height = self._place
        width, height = max(width, 1.0), max(height, 1.0)
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def predict(self, dt: float) -> None:
        self._place = self._place + self._speed * dt
        step = np.array([[1.0, dt], [0.0, 1.0]])
        # White noise on the acceleration (Bar-Shalom et al. 2001, eq. 6.3.2-4).
        noise = np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]]) * _ACCELERATION**2
        self._p = step @ self._p @ step.T + noise

    def see(self, detection: GroundedObject, stamp_ns: int, weight: float) -> None:
        """Update with a detection. weight: of its logit in the average, in (0, 1]."""
        gain = self._p[:, 0] / (self._p[0, 0] + _MEASUREMENT**2)
        surprise = _place(detection.box) - self._place
        self._place = self._place + gain[0] * surprise
        self._speed = self._speed + gain[1] * surprise
        self._p = self._p - np.outer(gain, self._p[0])
        self.logit += weight * (detection.logit - self.logit)
        self.detection, self.seen_ns = detection, stamp_ns


class Tracker:
    """Tracks the objects of one camera. No id is used twice."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next = 1
        self._last_ns: int | None = None
        self._query: tuple[int, str, tuple[str, ...]] | None = None

    def reset(self) -> None:
        """Forget every object."""
        self._tracks.clear()
        self._last_ns = None

    def update(
        self,
        grounding: Grounding,
        stamp_ns: int,
        size: tuple[int, int],
        options: TrackingOptions,
        max_objects: int = 255,
    ) -> Grounding:
        """Return the frame's grounding with ids, smoothed scores and recently lost objects.

        size: width and height of the image. Another instruction, a stamp before the last one or
        more than 2 s after it resets the tracker. Lost objects only fill up to max_objects.
        """
        query = (grounding.instruction_id, grounding.instruction, grounding.phrases)
        dt = (stamp_ns - self._last_ns) / 1e9 if self._last_ns is not None else 0.0
        if query != self._query or not 0 <= dt <= _MAX_GAP:
            self.reset()
            dt = 0.0
        self._query, self._last_ns = query, stamp_ns
        for track in self._tracks:
            track.predict(dt)
        weight = 1 - math.exp(-dt / options.smoothing) if options.smoothing > 0 else 1.0
        matches = self._match(grounding.objects)
        detections: dict[int, GroundedObject] = {}
        current: set[int] = set()
        for index, item in enumerate(grounding.objects):
            if index in matches:
                track = matches[index]
                track.see(item, stamp_ns, weight)
            else:
                track = _Track(self._next, item, stamp_ns)
                self._next += 1
                self._tracks.append(track)
            current.add(track.number)
            detections[index] = replace(
                item, id=track.number, logit=track.logit, score=float(sigmoid(track.logit))
            )
        room = max(0, max_objects - len(detections))
        lost_objects = self._keep_lost(current, stamp_ns, size, options.max_lost)[:room]
        return _combine(grounding, detections, lost_objects)

    def _match(self, objects: Sequence[GroundedObject]) -> dict[int, _Track]:
        """Return the track that each object continues: the best pairs first, within a phrase."""
        pairs = []
        for index, item in enumerate(objects):
            for place, track in enumerate(self._tracks):
                if track.detection.phrase == item.phrase:
                    likeness = _likeness(track.box, item.box)
                    if likeness is not None:
                        pairs.append((-likeness, place, index))
        matches: dict[int, _Track] = {}
        used_places: set[int] = set()
        for _, place, index in sorted(pairs):
            if place not in used_places and index not in matches:
                used_places.add(place)
                matches[index] = self._tracks[place]
        return matches

    def _keep_lost(
        self, current: set[int], stamp_ns: int, size: tuple[int, int], max_lost: float
    ) -> list[GroundedObject]:
        """Return undetected objects that are kept, best first; drop the other tracks."""
        tracks, objects = [], []
        for track in self._tracks:
            if track.number in current:
                tracks.append(track)
                continue
            lost_s = (stamp_ns - track.seen_ns) / 1e9
            box = _clip(track.box, size)
            if lost_s > max_lost or box is None:
                continue
            tracks.append(track)
            if not lost_s:  # a frame of the same moment: no time for which it could be lost
                continue
            objects.append(
                replace(
                    track.detection,
                    id=track.number,
                    logit=track.logit,
                    score=float(sigmoid(track.logit)),
                    box=box,
                    lost=lost_s,
                    position=NOWHERE,
                    extent=NOWHERE,
                )
            )
        self._tracks = tracks
        return sorted(objects, key=lambda item: (-item.logit, item.id))


def _combine(
    grounding: Grounding, detections: dict[int, GroundedObject], lost_objects: list[GroundedObject]
) -> Grounding:
    """Sort by the query's phrases, best first, lost objects last; renumber the mask to match."""
    rank = {phrase: number for number, phrase in enumerate(grounding.phrases)}
    entries = [*detections.items(), *((-1, item) for item in lost_objects)]
    entries.sort(key=lambda e: (rank[e[1].phrase], e[1].lost > 0, -e[1].logit, e[1].id))
    mask = grounding.mask
    if mask is not None:
        numbers = np.zeros(256, dtype=np.uint8)
        for place, (index, _) in enumerate(entries[:255], start=1):
            if 0 <= index < 255:
                numbers[index + 1] = place
        mask = numbers[mask]
    return replace(grounding, objects=tuple(item for _, item in entries), mask=mask)


def _place(box: Box) -> _State:
    return np.array(
        [box.x + box.width / 2, box.y + box.height / 2, box.width, box.height], dtype=np.float64
    )


def _likeness(edges: tuple[float, float, float, float], box: Box) -> float | None:
    """Return the IoU less a small penalty for distance; None if it cannot be the same object."""
    left, top, right, bottom = edges
    across = min(right, box.x + box.width) - max(left, box.x)
    down = min(bottom, box.y + box.height) - max(top, box.y)
    common = max(across, 0.0) * max(down, 0.0)
    area = (right - left) * (bottom - top)
    iou = common / (area + box.width * box.height - common)
    size = math.sqrt(math.sqrt(area * box.width * box.height))
    distance = math.hypot(
        (left + right) / 2 - box.x - box.width / 2, (top + bottom) / 2 - box.y - box.height / 2
    )
    if iou < _MIN_IOU and distance > _MAX_DISTANCE * size:
        return None
    return iou - 0.1 * distance / size


def _clip(edges: tuple[float, float, float, float], size: tuple[int, int]) -> Box | None:
    """Return the part of a box inside the image; None if that is less than half of it."""
    left, top, right, bottom = edges
    x, y = max(round(left), 0), max(round(top), 0)
    across, down = min(round(right), size[0]) - x, min(round(bottom), size[1]) - y
    if across < 1 or down < 1 or across * down < 0.5 * (right - left) * (bottom - top):
        return None
    return Box(x, y, across, down)
