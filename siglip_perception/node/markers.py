"""Objects in space as rviz shows them: a box and a label each, deleted when the object is gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from siglip_perception.images.overlay import PALETTE
from siglip_perception.types import GroundedObject, Grounding

# A node that ended leaves nothing in view for longer, in seconds.
LIFETIME_S = 2
_BOXES, _LABELS = "boxes", "labels"
_LABEL_HEIGHT = 0.04
_BOX_ALPHA = 0.4
# rviz draws nothing that is flat, in meters.
_LEAST_SIZE = 0.002


class Markers:
    """Makes one camera's MarkerArrays; remembers which markers its viewers have.

    Markers are in the image's own frame and of its stamp: a camera's optical frame, x to the
    right, y down, z forward (REP 103). An object without depth, or lost, has no place in space.
    """

    def __init__(self) -> None:
        self._shown: set[int] = set()

    def message(self, header: Any, grounding: Grounding | None) -> MarkerArray:
        """Make a box and a label for each object with a position, and delete what is gone."""
        objects = () if grounding is None else grounding.objects
        phrases = () if grounding is None else grounding.phrases
        placed = {
            number: item
            for number, item in _numbered(objects)
            if all(map(math.isfinite, (*item.position, *item.extent)))
        }
        markers: list[Marker] = []
        for number in sorted(self._shown - placed.keys()):
            markers += [_marker(header, name, number, Marker.DELETE) for name in (_BOXES, _LABELS)]
        for number, item in placed.items():
            color = PALETTE[phrases.index(item.phrase) % len(PALETTE)]
            markers += [_box(header, number, item, color), _label(header, number, item, color)]
        self._shown = set(placed)
        return MarkerArray(markers=markers)


def _numbered(objects: Sequence[GroundedObject]) -> list[tuple[int, GroundedObject]]:
    """Pair each object with its tracked id, or its place without tracking."""
    return [(item.id or place, item) for place, item in enumerate(objects, start=1)]


def _marker(header: Any, name: str, number: int, action: int) -> Marker:
    return Marker(header=header, ns=name, id=number, action=action)


def _box(header: Any, number: int, item: GroundedObject, color: tuple[int, int, int]) -> Marker:
    marker = _marker(header, _BOXES, number, Marker.ADD)
    marker.type = Marker.CUBE
    marker.pose = box_pose(item)
    marker.scale = Vector3(
        **{axis: max(size, _LEAST_SIZE) for axis, size in zip("xyz", item.extent, strict=True)}
    )
    marker.color = _color(color, _BOX_ALPHA)
    marker.lifetime = Duration(sec=LIFETIME_S)
    return marker


def _label(header: Any, number: int, item: GroundedObject, color: tuple[int, int, int]) -> Marker:
    marker = _marker(header, _LABELS, number, Marker.ADD)
    marker.type = Marker.TEXT_VIEW_FACING
    marker.pose = box_pose(item)
    # y points down: above the box is less.
    marker.pose.position.y -= item.extent[1] / 2 + _LABEL_HEIGHT
    marker.scale.z = _LABEL_HEIGHT
    marker.color = _color(color, 1.0)
    marker.text = f"{item.phrase} {item.score:.2f}" + (f" #{item.id}" if item.id else "")
    marker.lifetime = Duration(sec=LIFETIME_S)
    return marker


def box_pose(item: GroundedObject) -> Pose:
    """The pose of the box around what the camera sees of an object; its axes are the frame's."""
    x, y, z = map(float, item.position)
    return Pose(position=Point(x=x, y=y, z=z))


def _color(color: tuple[int, int, int], alpha: float) -> ColorRGBA:
    red, green, blue = (value / 255 for value in color)
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)
