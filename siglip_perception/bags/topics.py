"""Choice of a bag's topics for cameras, instructions and depth, and names of the output topics.

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
from siglip_perception.images.files import MAX_FILE_PIXELS
from siglip_perception.parameter import format_value

NODE = "/siglip_perception"
# Last parts of a topic that name the image transport, not the camera.
_TRANSPORTS = ("compressed", "compressedDepth", "zstd", "theora", "ffmpeg", "foxglove")
_PLAIN = frozenset(
    (
        *("image", "image_raw", "image_rect", "image_color", "image_rect_color", "image_mono"),
        *("color", "rgb", "raw", *_TRANSPORTS),
    )
)
# Encodings that depth images have and cameras hardly ever.
_DEPTH_ENCODINGS = ("16UC1", "32FC1")
_GRAY16_WHITE = 65535
# Formats of a CompressedImage that hold packets of a video.
_VIDEO_FORMATS = re.compile(r"h\.?26[45]|hevc|av1|vp[89]|theora", re.IGNORECASE)
_MAX_NAMES = 8


@dataclass(frozen=True)
class Cameras:
    """The image topics of a bag.

    topics: topics to use, in the order of their cameras. left_out: other topics, with the reason.
    """

    topics: tuple[BagTopic, ...]
    left_out: Mapping[BagTopic, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the topics to use, each once."""
        return tuple(dict.fromkeys(topic.name for topic in self.topics))


def choose_cameras(
    recording: Recording,
    names: tuple[str, ...] = (),
    *,
    max_pixels: int = MAX_FILE_PIXELS,
    mono16_white: int = Settings.mono16_white,
    depth_topic: str = "",
) -> Cameras:
    """Choose image topics: those of these names, in order; without names every camera's, sorted.

    Of the transports of one image topic, the first readable one is chosen, raw before compressed.
    Depth images are not cameras, but 16UC1 counts as one if mono16_white is set and the bag has no
    other.

    Raises BagError, with the topics of the bag, if none can be used.
    """
    if names:
        topics = [
            topic for name in dict.fromkeys(names) for topic in _image_topics(recording, name)
        ]
        return Cameras(tuple(topics), {})
    store = typestore()
    left_out: dict[BagTopic, str] = {}
    cameras: list[BagTopic] = []
    gray16: list[BagTopic] = []
    for topic in recording.topics:
        if topic.type in VIDEO:
            left_out[topic] = f"{VIDEO[topic.type]}, {_VIDEO_REMEDY}"
        if not image_type(topic) or topic in recording.topics_named(depth_topic):
            continue
        reason, encoding = _camera_fault(recording, store, topic, max_pixels)
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
    left_out = {topic: reason for topic, reason in left_out.items() if topic not in topics}
    return Cameras(tuple(topics), left_out)


def check_decodable(
    recording: Recording, cameras: Cameras, max_pixels: int, mono16_white: int
) -> None:
    """Raise BagError if the first image of every camera shows that none can be decoded."""
    store = typestore()
    reasons = []
    for topic in cameras.topics:
        reason = _decode_fault(recording, store, topic, max_pixels, mono16_white)
        if not reason:
            return
        reasons.append(f"{topic.name}: {reason}")
    raise BagError(f"No image of the bag {recording.path} can be used: {'; '.join(reasons)}.")


def choose_instructions(
    recording: Recording, name: str, *, has_instruction: bool
) -> tuple[tuple[BagTopic, ...], str]:
    """Choose the topics of instructions; return them and a note if there is none or a doubt.

    has_instruction: the options give an instruction, so that the bag needs none.
    Raises BagError if a topic other than the default is named and has no instruction.
    """
    named_topics = recording.topics_named(name)
    text_topics = [topic for topic in named_topics if topic.type == STRING and readable(topic)]
    other_topics = [
        topic
        for topic in recording.topics
        if topic.type == STRING and topic not in named_topics and topic.count
    ]
    if any(topic.count for topic in text_topics):
        notes = []
        if types := {topic.stored_type for topic in named_topics if topic not in text_topics}:
            notes.append(f"{name} has messages of {' and '.join(sorted(types))}, too")
        last = name.rsplit("/", 1)[-1]
        twins = [topic.name for topic in other_topics if topic.name.rsplit("/", 1)[-1] == last]
        if twins and name == INSTRUCTION_TOPIC:
            notes.append(f"the bag has {' and '.join(twins)}, too (see --instruction-topic)")
        source = f"instructions are read only from {name} as {STRING}"
        return tuple(text_topics), f"{source}: {'; '.join(notes)}" if notes else ""
    if has_instruction:
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
    if other_topics:
        candidates = ", ".join(
            f"{topic.name} ({topic.count})" for topic in other_topics[:_MAX_NAMES]
        )
        remedy += f", or name its topic with --instruction-topic; of {STRING} it has {candidates}"
    if name != INSTRUCTION_TOPIC:
        raise BagError(f"The bag {recording.path} holds no such instruction: {problem}; {remedy}.")
    return tuple(text_topics), f"there are no objects, as {problem}: {remedy}"


def choose_depth(
    recording: Recording, depth: str, info: str, cameras: Cameras
) -> tuple[BagTopic, ...]:
    """Choose the topics of depth images and their camera info; none if both names are empty.

    Raises BagError if a topic is missing or of another type, or if there are several cameras.
    """
    if not depth and not info:
        return ()
    bag = recording.path
    if len(cameras.names) > 1:
        raise BagError(
            f"The depth images belong to one camera and the bag {bag} has {len(cameras.names)}:"
            " name that camera with --image-topic."
        )
    topics: list[BagTopic] = []
    for name, kind, option in (
        (depth, RAW, "--depth-topic"),
        (info, CAMERA_INFO, "--camera-info-topic"),
    ):
        matching = [
            topic
            for topic in recording.topics_named(name)
            if topic.type == kind and readable(topic)
        ]
        if not matching:
            candidates = [topic.name for topic in recording.topics if topic.type == kind]
            contents = (
                f"it has {', '.join(candidates[:_MAX_NAMES])}" if candidates else "it has none"
            )
            problem = f"has no {kind} on {name}" if name else f"needs its {kind} named as well"
            raise BagError(
                f"The bag {bag} {problem} ({contents}): name one with {option}; depth needs both"
                " the image and its camera info."
            )
        topics += matching
    return tuple(topics)


def camera_names(topics: Iterable[str]) -> Mapping[str, str]:
    """Return a camera's name for each topic, "" if there is only one topic.

    "/front/image_raw/compressed" -> "front"; if two names are equal, the whole topic with "_".
    """
    names = list(topics)
    if len(names) == 1:
        return {names[0]: ""}
    short = {topic: _camera(topic) for topic in names}
    counts = Counter(short.values())
    return {
        topic: name if name and counts[name] == 1 else topic.strip("/").replace("/", "_")
        for topic, name in short.items()
    }


def under(camera: str, part: str) -> str:
    """Return an output's topic: /siglip_perception/tokens, or /siglip_perception/front/tokens."""
    return f"{NODE}/{camera}/{part}" if camera else f"{NODE}/{part}"


def listing(recording: Recording) -> list[str]:
    """Return one line for each topic of the bag: name, type, number of messages."""
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


def _image_topics(recording: Recording, name: str) -> list[BagTopic]:
    """Return the image topics of this name, at least one; raises BagError."""
    topics = recording.topics_named(name)
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


def _camera_fault(
    recording: Recording, store: Typestore, topic: BagTopic, max_pixels: int
) -> tuple[str, str]:
    """Return the reason why an image topic is no camera, or "", and its first image's encoding."""
    if topic.name.startswith(f"{NODE}/"):
        return "an output of this package", ""
    if not topic.count:
        return "no messages", ""
    if not readable(topic):
        return (
            f"its messages are encoded as {format_value(topic.encoding)}, which is not supported",
            "",
        )
    message = _first(recording, store, topic)
    if message is None:
        # Messages that cannot be read are counted later, in the replay.
        return "", ""
    encoding = str(message.encoding if image_type(topic) == RAW else message.format)
    if encoding in _DEPTH_ENCODINGS or "compressedDepth" in encoding:
        remedy = (
            f"; if it is a camera, --image-topic {topic.name} --mono16-white WHITE takes it"
            if encoding == "16UC1"
            else ""
        )
        return f"depth by its encoding {format_value(encoding)}{remedy}", encoding
    return _decode_fault(recording, store, topic, max_pixels, _GRAY16_WHITE), encoding


def _decode_fault(
    recording: Recording, store: Typestore, topic: BagTopic, max_pixels: int, mono16_white: int
) -> str:
    """Return the reason why images of the first one's encoding cannot be decoded; "" if they can.

    A fault of that one message, such as a JPEG that is cut off, says nothing about the others.
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
                f"its images are 16-bit gray, {format_value(name)}, of unknown white level; give"
                " the value of white, such as 4095 for 12 bits, with --mono16-white"
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
            " what is left): repair it with `mcap recover` or `sqlite3 FILE .recover`."
        )
    empty = [topic for topic in left_out if left_out[topic] == "no messages"]
    if empty and len(empty) == len(left_out):
        return BagError(_no_messages(recording, empty))
    if left_out:
        reasons = "; ".join(f"{topic.name}: {reason}" for topic, reason in left_out.items())
        return BagError(f"The bag {bag} has no usable camera images: {reasons}.")
    contents = ", ".join(f"{t.name} ({t.stored_type})" for t in recording.topics[:_MAX_NAMES])
    excess = len(recording.topics) - _MAX_NAMES
    contents += f" and {excess} more" if excess > 0 else ""
    return BagError(
        f"The bag {bag} has no camera images: it has {contents or 'no topic at all'}; record a"
        " topic of sensor_msgs/Image or CompressedImage."
    )


def _no_messages(recording: Recording, topics: Iterable[BagTopic]) -> str:
    empty = list(topics)
    listed_count = sum(topic.listed_count or 0 for topic in empty)
    addition = f", though its metadata.yaml lists {listed_count}" if listed_count else ""
    names = ", ".join(dict.fromkeys(topic.name for topic in empty))
    return (
        f"The bag {recording.path} has no images on {names}{addition}: record that topic, or name"
        " another with --image-topic."
    )


def _base(name: str) -> str:
    """Return the image topic that a transport's topic belongs to: /image of /image/compressed."""
    base, _, last = name.rpartition("/")
    return base if last in _TRANSPORTS else name


def _preference(topic: BagTopic) -> tuple[bool, bool, str]:
    return image_type(topic) != RAW, not topic.name.endswith("/compressed"), topic.name


def _camera(topic: str) -> str:
    parts = [part for part in topic.split("/") if part]
    while parts and parts[-1] in _PLAIN:
        parts.pop()
    return "_".join(parts)
