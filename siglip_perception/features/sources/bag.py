"""Bags: each is an episode, each image topic a camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception.bags.files import reading
from siglip_perception.bags.messages import (
    STRING,
    BagTopic,
    decode_image,
    deserialize,
    image_type,
    typestore,
)
from siglip_perception.bags.topics import camera_names, choose_cameras
from siglip_perception.config import INSTRUCTION_TOPIC
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import BagError, ImageError
from siglip_perception.features.sources.frames import MAX_PIXELS, SourceFrame, file_state, no_frame


@dataclass(frozen=True)
class BagStream:
    """The images of one camera of a bag.

    topics: name of the camera's topics with their canonical types.
    count: messages that the bag's files hold, or that it promises where they hold fewer.
    """

    source: str
    episode: str
    number: int
    camera: str
    path: Path
    topic: str
    types: tuple[str, ...]
    count: int
    state: str
    kind: str = "bag"

    def frames(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        numbers = iter(range(start, stop, step))
        number = next(numbers, None)
        problem = "bag breaks off", "its messages end here"
        try:
            for frame in self._messages(start, stop, step):
                yield frame
                number = next(numbers, None)
                if number is None:
                    return
        except BagError as error:
            problem = "bag unreadable", str(error)
        if number is not None:
            yield from no_frame([number, *numbers], *problem)

    def _messages(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        store = typestore()
        with reading(self.path) as recording:
            topics = [
                topic
                for topic in recording.topics_named(self.topic)
                if topic.type in self.types and image_type(topic)
            ]
            instructions = [
                topic
                for topic in recording.topics_named(INSTRUCTION_TOPIC)
                if topic.type == STRING
            ]
            position, text, first_ns = 0, "", None
            for topic, time_ns, data in recording.messages([*topics, *instructions]):
                if topic in instructions:
                    text = _text(store, topic, data)
                    continue
                first_ns = time_ns if first_ns is None else first_ns
                number, position = position, position + 1
                if number < start or (number - start) % step:
                    continue
                if number >= stop:
                    return
                yield _frame(store, topic, number, time_ns, first_ns, data, text)


def open_bag(path: Path, source: str, number: int, report: SkipReport) -> list[BagStream]:
    """List a bag's cameras as streams; raise BagError for a bag that has none, or is none."""
    with reading(path) as recording:
        cameras = choose_cameras(recording)
        for topic, reason in cameras.left_out.items():
            report.note("topic left out", f"{path}: {topic.name}", reason)
        for note in recording.notes:
            report.note("bag", str(path), note)
        names = camera_names(cameras.names)
        state = file_state([path] if path.is_file() else sorted(path.iterdir()))
        streams = []
        for name in cameras.names:
            topics = [topic for topic in cameras.topics if topic.name == name]
            count = sum(max(topic.count, topic.listed_count or 0) for topic in topics)
            types = tuple(topic.type for topic in topics)
            streams.append(
                BagStream(source, path.stem, number, names[name], path, name, types, count, state)
            )
    return streams


def _frame(
    store: Any,
    topic: BagTopic,
    number: int,
    time_ns: int,
    first_ns: int,
    data: bytes,
    text: str,
) -> SourceFrame:
    """Decode one message; its stamp is the header's, or the recorder's where that is zero."""
    stamp = time_ns
    try:
        message = deserialize(store, topic, data)
        header_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        stamp = header_ns or time_ns
        picture = decode_image(message, image_type(topic), MAX_PIXELS)
    except ImageError as error:
        problem = f"image {error.reason}", str(error)
        return SourceFrame(number, stamp_ns=stamp, key=f"{stamp}", text=text, problem=problem)
    return SourceFrame(
        number,
        picture.pixels,
        (time_ns - first_ns) / 1e9,
        stamp,
        f"{stamp}",
        text,
        remarks=picture.repairs,
    )


def _text(store: Any, topic: BagTopic, data: bytes) -> str:
    try:
        return " ".join(str(deserialize(store, topic, data).data).split())
    except ImageError:
        return ""
