"""The same number for the same object across frames, and scores that do not flicker.

A constant-velocity Kalman filter for each object predicts its box; what is found is matched with
the predictions of its own phrase, the best overlap first. An object that is not found for a moment
is kept where it would be, for `max_lost` seconds and no longer, and says so in `lost`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from siglip_perception.types import NOWHERE, Box, GroundedObject, Grounding

_State = npt.NDArray[np.float64]

# Standard deviations in units of an object's size: of its acceleration a second squared, of where
# its box is found, and of its speed a second when it is first seen.
_ACCELERATION = 4.0
_MEASUREMENT = 0.08
_FIRST_SPEED = 2.0
# What is found is the same object where the boxes overlap by this much, or their centers are no
# further apart than this share of their size.
_LEAST_IOU = 0.15
_NEAREST = 0.5
# After so long without a frame, in seconds, nothing is known of where things are.
_LONGEST_GAP = 2.0


@dataclass(frozen=True)
class TrackingOptions:
    """max_lost: seconds for which an object that is not found is kept. smoothing: time constant of
    the scores' average, in seconds; 0: as they are found."""

    max_lost: float = 0.3
    smoothing: float = 0.2


class _Track:
    """One object. Its state: center x and y, width and height, in pixels, and their speeds."""

    def __init__(self, number: int, found: GroundedObject, stamp_ns: int) -> None:
        self.number = number
        self.logit = found.logit
        self.found = found
        self.seen_ns = stamp_ns
        self._place = _place(found.box)
        self._speed: _State = np.zeros(4)
        self._size = math.sqrt(found.box.width * found.box.height)
        # One covariance for all four, in units of the size: the noises are the same.
        self._p = np.array([[_MEASUREMENT**2, 0.0], [0.0, _FIRST_SPEED**2]])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of where it would be."""
        x, y, width, height = self._place
        width, height = max(width, 1.0), max(height, 1.0)
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def predict(self, dt: float) -> None:
        self._place = self._place + self._speed * dt
        step = np.array([[1.0, dt], [0.0, 1.0]])
        # White noise on the acceleration (Bar-Shalom et al. 2001, eq. 6.3.2-4).
        noise = np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]]) * _ACCELERATION**2
        self._p = step @ self._p @ step.T + noise

    def see(self, found: GroundedObject, stamp_ns: int, weight: float) -> None:
        """weight: of the new logit in the average, in (0, 1]."""
        gain = self._p[:, 0] / (self._p[0, 0] + _MEASUREMENT**2)
        surprise = _place(found.box) - self._place
        self._place = self._place + gain[0] * surprise
        self._speed = self._speed + gain[1] * surprise
        self._p = self._p - np.outer(gain, self._p[0])
        self.logit += weight * (found.logit - self.logit)
        self.found, self.seen_ns = found, stamp_ns


class Tracker:
    """The objects of one camera, frame by frame. Numbers are never used twice."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next = 1
        self._last_ns: int | None = None
        self._query: tuple[int, str, tuple[str, ...]] | None = None

    def reset(self) -> None:
        """Forgets every object: the next ones are new."""
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
        """The frame's grounding with ids, smoothed scores, and what was only just lost.

        size: width and height of the image. Another instruction, a stamp before the last one, or
        more than 2 s after it, begin anew. What was lost takes places up to max_objects only.
        """
        query = (grounding.instruction_id, grounding.instruction, grounding.phrases)
        dt = (stamp_ns - self._last_ns) / 1e9 if self._last_ns is not None else 0.0
        if query != self._query or not 0 <= dt <= _LONGEST_GAP:
            self.reset()
            dt = 0.0
        self._query, self._last_ns = query, stamp_ns
        for track in self._tracks:
            track.predict(dt)
        weight = 1 - math.exp(-dt / options.smoothing) if options.smoothing > 0 else 1.0
        matched = self._match(grounding.objects)
        seen: dict[int, GroundedObject] = {}
        current: set[int] = set()
        for index, found in enumerate(grounding.objects):
            if index in matched:
                track = matched[index]
                track.see(found, stamp_ns, weight)
            else:
                track = _Track(self._next, found, stamp_ns)
                self._next += 1
                self._tracks.append(track)
            current.add(track.number)
            seen[index] = replace(
                found, id=track.number, logit=track.logit, score=_sigmoid(track.logit)
            )
        room = max(0, max_objects - len(seen))
        lost = self._lost(current, stamp_ns, size, options.max_lost)[:room]
        return _ordered(grounding, seen, lost)

    def _match(self, objects: Sequence[GroundedObject]) -> dict[int, _Track]:
        """Which track each object continues: the best pairs first, within a phrase."""
        pairs = []
        for index, found in enumerate(objects):
            for place, track in enumerate(self._tracks):
                if track.found.phrase == found.phrase:
                    likeness = _likeness(track.box, found.box)
                    if likeness is not None:
                        pairs.append((-likeness, place, index))
        matched: dict[int, _Track] = {}
        taken: set[int] = set()
        for _, place, index in sorted(pairs):
            if place not in taken and index not in matched:
                taken.add(place)
                matched[index] = self._tracks[place]
        return matched

    def _lost(
        self, current: set[int], stamp_ns: int, size: tuple[int, int], max_lost: float
    ) -> list[GroundedObject]:
        """Those that are kept although they were not found, best first; the others are dropped."""
        kept, lost = [], []
        for track in self._tracks:
            if track.number in current:
                kept.append(track)
                continue
            away = (stamp_ns - track.seen_ns) / 1e9
            box = _clipped(track.box, size)
            if away > max_lost or box is None:
                continue
            kept.append(track)
            if not away:  # a frame of the same moment: no time for which it could be lost
                continue
            lost.append(
                replace(
                    track.found,
                    id=track.number,
                    logit=track.logit,
                    score=_sigmoid(track.logit),
                    box=box,
                    lost=away,
                    position=NOWHERE,
                    extent=NOWHERE,
                )
            )
        self._tracks = kept
        return sorted(lost, key=lambda found: (-found.logit, found.id))


def _ordered(
    grounding: Grounding, seen: dict[int, GroundedObject], lost: list[GroundedObject]
) -> Grounding:
    """Phrases in the order of the query, best first, what is lost last; the mask says the same."""
    rank = {phrase: number for number, phrase in enumerate(grounding.phrases)}
    entries = [*seen.items(), *((-1, found) for found in lost)]
    entries.sort(key=lambda e: (rank[e[1].phrase], e[1].lost > 0, -e[1].logit, e[1].id))
    mask = grounding.mask
    if mask is not None:
        numbers = np.zeros(256, dtype=np.uint8)
        for place, (index, _) in enumerate(entries[:255], start=1):
            if 0 <= index < 255:
                numbers[index + 1] = place
        mask = numbers[mask]
    return replace(grounding, objects=tuple(found for _, found in entries), mask=mask)


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))


def _place(box: Box) -> _State:
    return np.array(
        [box.x + box.width / 2, box.y + box.height / 2, box.width, box.height], dtype=np.float64
    )


def _likeness(expected: tuple[float, float, float, float], box: Box) -> float | None:
    """IoU, less a little for the distance; None where it cannot be the same object."""
    left, top, right, bottom = expected
    across = min(right, box.x + box.width) - max(left, box.x)
    down = min(bottom, box.y + box.height) - max(top, box.y)
    common = max(across, 0.0) * max(down, 0.0)
    area = (right - left) * (bottom - top)
    iou = common / (area + box.width * box.height - common)
    size = math.sqrt(math.sqrt(area * box.width * box.height))
    apart = math.hypot(
        (left + right) / 2 - box.x - box.width / 2, (top + bottom) / 2 - box.y - box.height / 2
    )
    if iou < _LEAST_IOU and apart > _NEAREST * size:
        return None
    return iou - 0.1 * apart / size


def _clipped(edges: tuple[float, float, float, float], size: tuple[int, int]) -> Box | None:
    """The part of a box inside the image; None where less than half of it is."""
    left, top, right, bottom = edges
    x, y = max(round(left), 0), max(round(top), 0)
    across, down = min(round(right), size[0]) - x, min(round(bottom), size[1]) - y
    if across < 1 or down < 1 or across * down < 0.5 * (right - left) * (bottom - top):
        return None
    return Box(x, y, across, down)
