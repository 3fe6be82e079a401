"""Which topics of a bag are images, which camera each belongs to, and where its outputs go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rosbags.interfaces import Connection

from siglip_perception.errors import BagError

RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
NODE = "/siglip_perception"
# Last parts of a topic that say how an image came, not from which camera.
_PLAIN = frozenset(
    (
        *("image", "image_raw", "image_rect", "image_color", "image_rect_color", "image_mono"),
        *("color", "rgb", "raw", "compressed"),
    )
)


def choose_topics(
    connections: Iterable[Connection], asked: tuple[str, ...], bag: Path
) -> tuple[str, ...]:
    """The image topics to replay: those asked for, in that order, or all cameras' own, sorted.

    A compressed topic is left out where the raw one of the same name is there, and so are depth
    images and this package's own outputs. Raises BagError where there is nothing to replay.
    """
    types = {connection.topic: connection.msgtype for connection in connections}
    there = sorted(topic for topic, kind in types.items() if kind in (RAW, COMPRESSED))
    missing = [topic for topic in asked if topic not in there]
    if missing:
        raise BagError(
            f"The bag {bag} has no images on {missing[0]}: it has"
            f" {', '.join(there) if there else 'no image topic at all'}."
        )
    if asked:
        return tuple(dict.fromkeys(asked))
    chosen = tuple(
        topic
        for topic in there
        if not topic.startswith(f"{NODE}/")
        and "depth" not in topic.lower()
        and not (topic.endswith("/compressed") and topic.removesuffix("/compressed") in there)
    )
    if not chosen:
        raise BagError(
            f"The bag {bag} has no camera images: name the topic to take with --image-topic."
        )
    return chosen


def depth_connections(
    connections: Iterable[Connection], depth: str, info: str, images: tuple[str, ...], bag: Path
) -> list[Connection]:
    """The connections of a depth topic and its camera info; none where both are empty.

    Raises BagError where one is missing or of another type, or there are several cameras.
    """
    if not depth and not info:
        return []
    if len(images) > 1:
        raise BagError(
            f"The depth images belong to one camera and the bag {bag} has {len(images)}: name the"
            " one with --image-topic."
        )
    found = []
    for topic, kind, option in (
        (depth, RAW, "--depth-topic"),
        (info, CAMERA_INFO, "--camera-info-topic"),
    ):
        there = [c for c in connections if c.topic == topic and c.msgtype == kind]
        if not there:
            raise BagError(
                f"The bag {bag} has no {kind} on {topic or 'the topic that is missing'}: name one"
                f" with {option}; depth needs both the image and its camera info."
            )
        found += there
    return found


def camera_names(topics: Iterable[str]) -> Mapping[str, str]:
    """A camera's name for each topic, "" where there is only one topic.

    "/front/image_raw/compressed" -> "front"; else the whole topic with "_", where two would agree.
    """
    given = list(topics)
    if len(given) == 1:
        return {given[0]: ""}
    short = {topic: _camera(topic) for topic in given}
    often = Counter(short.values())
    return {
        topic: name if name and often[name] == 1 else topic.strip("/").replace("/", "_")
        for topic, name in short.items()
    }


def under(camera: str, part: str) -> str:
    """The topic of an output: /siglip_perception/tokens, or with the camera's name before it."""
    return f"{NODE}/{camera}/{part}" if camera else f"{NODE}/{part}"


def _camera(topic: str) -> str:
    parts = [part for part in topic.split("/") if part]
    while parts and parts[-1] in _PLAIN:
        parts.pop()
    return "_".join(parts)
