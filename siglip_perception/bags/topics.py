"""Which topics of a bag are cameras, instructions and depth, and where a camera's outputs go.

A topic's type and the encoding of its first message decide, never its name alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rosbags.typesys.store import Typestore

from siglip_perception.bags.files import Recording
from siglip_perception.bags.messages import (
    CAMERA_INFO,
    RAW,
    STRING,
    VIDEO,
    BagTopic,
    decode_image,
    deserialize,
    image_type,
    readable,
    typestore,
)
from siglip_perception.config import INSTRUCTION_TOPIC, Settings
from siglip_perception.errors import BagError, ImageError
from siglip_perception.parameter import format_value

NODE = "/siglip_perception"
# Last parts of a topic that say how an image came, not from which camera.
_TRANSPORTS = ("compressed", "compressedDepth", "zstd", "theora", "ffmpeg", "foxglove")
_PLAIN = frozenset(
    (
        *("image", "image_raw", "image_rect", "image_color", "image_rect_color", "image_mono"),
        *("color", "rgb", "raw", *_TRANSPORTS),
    )
)
# Encodings that depth images have, and cameras hardly ever.
_DEPTH_ENCODINGS = ("16UC1", "32FC1")
_GRAY16_WHITE = 65535
# Formats of a CompressedImage that hold packets of a video.
_VIDEO_FORMATS = re.compile(r"h\.?26[45]|hevc|av1|vp[89]|theora", re.IGNORECASE)
_MOST_NAMED = 8


@dataclass(frozen=True)
class Cameras:
    """The image topics of a bag.

    topics: those to take, in the order of their cameras. left_out: the others, each with why.
    """

    topics: tuple[BagTopic, ...]
    left_out: Mapping[BagTopic, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the topics to take, each once."""
        return tuple(dict.fromkeys(topic.name for topic in self.topics))


def choose_cameras(
    recording: Recording,
    names: tuple[str, ...] = (),
    *,
    max_pixels: int = Settings.max_pixels,
    mono16_white: int = Settings.mono16_white,
    depth_topic: str = "",
) -> Cameras:
    """The image topics to take: those of these names, in that order, or every camera's, sorted.

    Of the transports of one image topic the first that can be read is taken, raw before
    compressed. A depth image is no camera; 16UC1 becomes one where mono16_white is set and the bag
    has no other.
    Raises BagError, which says what is there, where there is nothing to take.
    """
    if names:
        topics = [topic for name in dict.fromkeys(names) for topic in _named(recording, name)]
        return Cameras(tuple(topics), {})
    store = typestore()
    left_out: dict[BagTopic, str] = {}
    cameras: list[BagTopic] = []
    gray16: list[BagTopic] = []
    for topic in recording.topics:
        if topic.type in VIDEO:
            left_out[topic] = f"{VIDEO[topic.type]}, {_VIDEO_REMEDY}"
        if not image_type(topic) or topic in recording.named(depth_topic):
            continue
        reason, encoding = _judge(recording, store, topic, max_pixels)
        if not reason:
            cameras.append(topic)
            continue
        left_out[topic] = reason
        if encoding == "16UC1":
            gray16.append(topic)
    if not cameras and mono16_white:
        cameras = gray16
    camera_of_base: dict[str, str] = {}
    for topic in sorted(cameras, key=_preference):
        first = camera_of_base.setdefault(_base(topic.name), topic.name)
        if first != topic.name:
            left_out[topic] = f"the same camera as {first}"
    topics = [topic for topic in cameras if topic.name in camera_of_base.values()]
    if not topics:
        raise _no_camera(recording, left_out)
    unused = {topic: reason for topic, reason in left_out.items() if topic not in topics}
    return Cameras(tuple(topics), unused)


def check_decodable(
    recording: Recording, cameras: Cameras, max_pixels: int, mono16_white: int
) -> None:
    """Raise BagError where no camera's images can be decoded, going by the first of each."""
    store = typestore()
    reasons = []
    for topic in cameras.topics:
        reason = _undecodable(recording, store, topic, max_pixels, mono16_white)
        if not reason:
            return
        reasons.append(f"{topic.name}: {reason}")
    raise BagError(f"No image of the bag {recording.path} can be taken: {'; '.join(reasons)}.")


def choose_instructions(
    recording: Recording, name: str, *, spoken_before: bool
) -> tuple[tuple[BagTopic, ...], str]:
    """The topics of instructions, and a note where there is none, or another one as well.

    spoken_before: whether an instruction is given beforehand, so that none is needed.
    Raises BagError where a topic other than the usual one is named and has none.
    """
    named_topics = recording.named(name)
    text_topics = [topic for topic in named_topics if topic.type == STRING and readable(topic)]
    others = [
        topic
        for topic in recording.topics
        if topic.type == STRING and topic not in named_topics and topic.count
    ]
    if any(topic.count for topic in text_topics):
        notes = []
        if types := {topic.stored_type for topic in named_topics if topic not in text_topics}:
            notes.append(f"{name} has messages of {' and '.join(sorted(types))}, too")
        last = name.rsplit("/", 1)[-1]
        twins = [topic.name for topic in others if topic.name.rsplit("/", 1)[-1] == last]
        if twins and name == INSTRUCTION_TOPIC:
            notes.append(f"the bag has {' and '.join(twins)}, too (see --instruction-topic)")
        source = f"instructions are taken from {name} as {STRING} alone"
        return tuple(text_topics), f"{source}: {'; '.join(notes)}" if notes else ""
    if spoken_before:
        return tuple(text_topics), ""
    if text_topics:
        problem = f"{name} holds no instruction"
    elif named_topics:
        kind = (
            named_topics[0].stored_type
            if named_topics[0].type != STRING
            else named_topics[0].encoding
        )
        problem = f"{name} is of {kind}, and an instruction is a {STRING}"
    else:
        problem = f"the bag has no topic {name}"
    remedy = 'give one with --instruction "pick up the red cup"'
    if others:
        candidates = ", ".join(f"{topic.name} ({topic.count})" for topic in others[:_MOST_NAMED])
        remedy += f", or name its topic with --instruction-topic; of {STRING} it has {candidates}"
    if name != INSTRUCTION_TOPIC:
        raise BagError(f"The bag {recording.path} holds no such instruction: {problem}; {remedy}.")
    return tuple(text_topics), f"no objects are looked for, as {problem}: {remedy}"


def choose_depth(
    recording: Recording, depth: str, info: str, cameras: Cameras
) -> tuple[BagTopic, ...]:
    """The topics of depth images and their camera info; none where both names are empty.

    Raises BagError where one is missing or of another type, or there are several cameras.
    """
    if not depth and not info:
        return ()
    bag = recording.path
    if len(cameras.names) > 1:
        raise BagError(
            f"The depth images belong to one camera and the bag {bag} has {len(cameras.names)}:"
            " name the one with --image-topic."
        )
    topics: list[BagTopic] = []
    for name, kind, option in (
        (depth, RAW, "--depth-topic"),
        (info, CAMERA_INFO, "--camera-info-topic"),
    ):
        matching = [
            topic for topic in recording.named(name) if topic.type == kind and readable(topic)
        ]
        if not matching:
            candidates = [topic.name for topic in recording.topics if topic.type == kind]
            contents = (
                f"it has {', '.join(candidates[:_MOST_NAMED])}" if candidates else "it has none"
            )
            where = f"has no {kind} on {name}" if name else f"needs its {kind} named as well"
            raise BagError(
                f"The bag {bag} {where} ({contents}): name one with {option}; depth needs both the"
                " image and its camera info."
            )
        topics += matching
    return tuple(topics)


def camera_names(topics: Iterable[str]) -> Mapping[str, str]:
    """A camera's name for each topic, "" where there is only one topic.

    "/front/image_raw/compressed" -> "front"; else the whole topic with "_", where two would agree.
    """
    names = list(topics)
    if len(names) == 1:
        return {names[0]: ""}
    short = {topic: _camera(topic) for topic in names}
    often = Counter(short.values())
    return {
        topic: name if name and often[name] == 1 else topic.strip("/").replace("/", "_")
        for topic, name in short.items()
    }


def under(camera: str, part: str) -> str:
    """The topic of an output: /siglip_perception/tokens, or with the camera's name before it."""
    return f"{NODE}/{camera}/{part}" if camera else f"{NODE}/{part}"


def listing(recording: Recording) -> list[str]:
    """One line for each topic of the bag: name, type, number of messages."""
    rows = [
        (topic.name, topic.stored_type or "no type", f"{topic.count}")
        for topic in recording.topics
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [
        f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {count:>{widths[2]}}"
        for name, kind, count in rows
    ]


_VIDEO_REMEDY = (
    "not decoded here: play the bag, turn them into images with"
    " `ros2 run image_transport republish`, and record those"
)


def _named(recording: Recording, name: str) -> list[BagTopic]:
    """The image topics of this name, at least one."""
    topics = recording.named(name)
    pictures = [topic for topic in topics if image_type(topic)]
    if any(topic.count for topic in pictures):
        return pictures
    bag = recording.path
    if pictures:
        raise BagError(_no_messages(recording, pictures))
    if topics and topics[0].type in VIDEO:
        kind = topics[0].stored_type
        raise BagError(
            f"{name} of the bag {bag} is {kind}, {VIDEO[topics[0].type]}, {_VIDEO_REMEDY}."
        )
    image_topics = [topic.name for topic in recording.topics if image_type(topic)]
    contents = ", ".join(image_topics) if image_topics else "no image topic at all"
    of = f", which is of {topics[0].stored_type}" if topics else ""
    raise BagError(f"The bag {bag} has no images on {name}{of}: it has {contents}.")


def _judge(
    recording: Recording, store: Typestore, topic: BagTopic, max_pixels: int
) -> tuple[str, str]:
    """Why an image topic is no camera, "" where it is one; and its first image's encoding."""
    if topic.name.startswith(f"{NODE}/"):
        return "an output of this package", ""
    if not topic.count:
        return "no messages", ""
    if not readable(topic):
        return (
            f"its messages are encoded as {format_value(topic.encoding)}, which is not read here",
            "",
        )
    message = _first(recording, store, topic)
    if message is None:
        # Each message that cannot be read is counted when its turn comes.
        return "", ""
    encoding = str(message.encoding if image_type(topic) == RAW else message.format)
    if encoding in _DEPTH_ENCODINGS or "compressedDepth" in encoding:
        remedy = (
            f"; if it is a camera, --image-topic {topic.name} --mono16-white WHITE takes it"
            if encoding == "16UC1"
            else ""
        )
        return f"depth by its encoding {format_value(encoding)}{remedy}", encoding
    return _undecodable(recording, store, topic, max_pixels, _GRAY16_WHITE), encoding


def _undecodable(
    recording: Recording, store: Typestore, topic: BagTopic, max_pixels: int, mono16_white: int
) -> str:
    """Why the encoding of its first image keeps its images from being decoded; "" where not.

    What is wrong with one message alone, such as a cut-off JPEG, says nothing about the others.
    """
    message = _first(recording, store, topic)
    if message is None:
        return ""
    kind = image_type(topic)
    try:
        decode_image(message, kind, max_pixels, mono16_white)
    except ImageError as error:
        if error.reason != "encoding":
            return ""
        name = message.encoding if kind == RAW else message.format
        if not mono16_white and _is_gray16(message, kind, max_pixels):
            return (
                f"its images are 16-bit gray, {format_value(name)}, and nothing says how bright"
                " they are; give the value that is white, such as 4095 of 12 bits, with"
                " --mono16-white"
            )
        if _VIDEO_FORMATS.search(name):
            return f"its encoding {format_value(name)} is video, {_VIDEO_REMEDY}"
        return f"its encoding {format_value(name)} is not supported"
    return ""


def _is_gray16(message: Any, kind: str, max_pixels: int) -> bool:
    try:
        decode_image(message, kind, max_pixels, _GRAY16_WHITE)
    except ImageError:
        return False
    return True


def _first(recording: Recording, store: Typestore, topic: BagTopic) -> Any | None:
    data = recording.first(topic)
    try:
        return None if data is None else deserialize(store, topic, data)
    except ImageError:
        return None


def _no_camera(recording: Recording, left_out: Mapping[BagTopic, str]) -> BagError:
    bag = recording.path
    if recording.damages:
        return BagError(
            f"The bag {bag} cannot be read ({recording.damages[0]}, and no camera's image is in"
            " what is left): mend it with `mcap recover` or `sqlite3 FILE .recover`."
        )
    empty = [topic for topic in left_out if left_out[topic] == "no messages"]
    if empty and len(empty) == len(left_out):
        return BagError(_no_messages(recording, empty))
    if left_out:
        reasons = "; ".join(f"{topic.name}: {reason}" for topic, reason in left_out.items())
        return BagError(f"The bag {bag} has no camera images that can be taken: {reasons}.")
    contents = ", ".join(f"{t.name} ({t.stored_type})" for t in recording.topics[:_MOST_NAMED])
    more = len(recording.topics) - _MOST_NAMED
    contents += f" and {more} more" if more > 0 else ""
    return BagError(
        f"The bag {bag} has no camera images: it has {contents or 'no topic at all'}; record a"
        " topic of sensor_msgs/Image or CompressedImage."
    )


def _no_messages(recording: Recording, topics: Iterable[BagTopic]) -> str:
    empty = list(topics)
    promised = sum(topic.promised or 0 for topic in empty)
    but = f", though its metadata.yaml promises {promised}" if promised else ""
    return (
        f"The bag {recording.path} has no images on"
        f" {', '.join(dict.fromkeys(topic.name for topic in empty))}{but}: record that topic, or"
        " name another with --image-topic."
    )


def _base(name: str) -> str:
    """The image topic that a transport's topic belongs to: /image of /image/compressed."""
    base, _, last = name.rpartition("/")
    return base if last in _TRANSPORTS else name


def _preference(topic: BagTopic) -> tuple[bool, bool, str]:
    return image_type(topic) != RAW, not topic.name.endswith("/compressed"), topic.name


def _camera(topic: str) -> str:
    parts = [part for part in topic.split("/") if part]
    while parts and parts[-1] in _PLAIN:
        parts.pop()
    return "_".join(parts)
