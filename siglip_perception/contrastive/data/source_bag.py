"""Convert a bag's camera frames and instructions to a tar shard.

A bag can only be read from start to end, and training needs random access: so the bag is converted
once, and the shard is kept beside the run.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siglip_perception.bags.files import reading
from siglip_perception.bags.messages import (
    COMPRESSED,
    STRING,
    decode_image,
    deserialize,
    image_type,
    typestore,
)
from siglip_perception.bags.topics import choose_cameras
from siglip_perception.config import INSTRUCTION_TOPIC
from siglip_perception.contrastive.data.sources import BrokenPairError, SourceError, clean_caption
from siglip_perception.errors import BagError, ImageError
from siglip_perception.images.files import MAX_FILE_PIXELS, decode_file
from siglip_perception.types import UInt8Array

_ENDINGS = {"JPEG": "jpg", "PNG": "png"}
NO_CAPTION = "without caption"
"""Reason for frames before the first caption or after an empty one; not a defect of the bag."""


@dataclass(frozen=True)
class BagOptions:
    """Topics and rate of the frames taken from a bag.

    image_topics: empty means every camera. caption_topic: a std_msgs/String topic.
    interval: minimum time between two frames of a camera, in seconds.
    captioned: skip frames without a caption.
    """

    image_topics: tuple[str, ...] = ()
    caption_topic: str = INSTRUCTION_TOPIC
    interval: float = 0.5
    captioned: bool = True


def bag_to_shard(bag: Path, shard: Path, options: BagOptions) -> Counter[str]:
    """Write each frame with the latest caption at its time; return skipped frames by reason.

    Frames before the first caption, or after an empty one, are skipped. JPEG and PNG data are
    copied unchanged; raw images and Bayer mosaics become PNG. The shard is put in place only once
    complete. Raises BagError for an unreadable bag, SourceError if no frame is usable.
    """
    skips: Counter[str] = Counter()
    handle, name = tempfile.mkstemp(prefix=f".{shard.name}.", dir=shard.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            frames = _copy(bag, tar, options, skips)
        if not frames:
            summary = ", ".join(f"{reason} {count}" for reason, count in skips.items())
            raise SourceError(
                f"The bag {bag} has no frame with a caption from {options.caption_topic}"
                f" ({summary or 'it has no frames'}): name the topic with --caption-topic."
            )
        temporary.replace(shard)
    finally:
        temporary.unlink(missing_ok=True)
    return skips


def _copy(bag: Path, tar: tarfile.TarFile, options: BagOptions, skips: Counter[str]) -> int:
    store = typestore()
    caption, frames = "", 0
    latest: dict[str, int] = {}
    with reading(bag) as recording:
        cameras = choose_cameras(recording, options.image_topics).topics
        topics = recording.topics_named(options.caption_topic)
        captions = [topic for topic in topics if topic.type == STRING]
        if topics and not captions:
            raise BagError(
                f"{options.caption_topic} of the bag {bag} is {topics[0].stored_type}, and"
                f" captions have to be {STRING}: name another with --caption-topic."
            )
        for topic, stamp, data in recording.messages([*cameras, *captions]):
            try:
                message: Any = deserialize(store, topic, data)
                if topic in captions:
                    caption = _caption(message.data, skips)
                    continue
                since = latest.get(topic.name)
                if since is not None and stamp - since < options.interval * 1e9:
                    continue
                if not caption and options.captioned:
                    skips[NO_CAPTION] += 1
                    continue
                pixels = decode_image(message, image_type(topic), MAX_FILE_PIXELS).pixels
            except ImageError as error:
                skips[f"image {error.reason}"] += 1
                continue
            latest[topic.name] = stamp
            camera = topic.name.strip("/").replace("/", "_").replace(".", "_")
            key = f"{camera}/{stamp:020d}"
            ending, image_bytes = _encode_image(message, image_type(topic), pixels)
            _add(tar, f"{key}.{ending}", image_bytes)
            if caption:
                _add(tar, f"{key}.txt", caption.encode())
            frames += 1
    return frames


def _caption(text: str, skips: Counter[str]) -> str:
    """Return the caption that applies from now on; "" after a broken one, not the previous one."""
    try:
        return clean_caption("", text)
    except BrokenPairError as error:
        skips[error.reason] += 1
        return ""


def _encode_image(message: Any, message_type: str, pixels: UInt8Array) -> tuple[str, bytes]:
    """Return suffix and bytes of a file with these pixels: the message's own data if possible."""
    if message_type == COMPRESSED:
        data = bytes(message.data)
        # The file alone may decode differently: only the message says that it is a Bayer mosaic.
        with suppress(ImageError):
            picture = decode_file(data, "frame")
            ending = _ENDINGS.get(picture.format)
            if ending is not None and np.array_equal(picture.pixels, pixels):
                return ending, data
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return "png", buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
