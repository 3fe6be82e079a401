"""Frames of a bag with the words that were said to the robot, as a tar shard.

A bag can only be read from its beginning. So it is read once, into a shard that is kept beside the
run, and trained from as any other shard.
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
from siglip_perception.config import INSTRUCTION_TOPIC, Settings
from siglip_perception.contrastive.data.sources import BrokenPairError, SourceError, clean_caption
from siglip_perception.errors import BagError, ImageError
from siglip_perception.images.files import decode_file
from siglip_perception.types import UInt8Array

_ENDINGS = {"JPEG": "jpg", "PNG": "png"}
NO_CAPTION_YET = "without caption"
"""Frames before the first words, or after empty ones: no fault of the bag."""


@dataclass(frozen=True)
class BagOptions:
    """image_topics: empty takes every camera. caption_topic: std_msgs/String.

    interval: least time between two frames of a camera that are taken, in seconds.
    """

    image_topics: tuple[str, ...] = ()
    caption_topic: str = INSTRUCTION_TOPIC
    interval: float = 0.5


def bag_to_shard(bag: Path, shard: Path, options: BagOptions) -> Counter[str]:
    """Write frames, each with the newest caption at its time; what was left out, by reason.

    A frame before the first caption, or after one that is empty, is left out. JPEG and PNG are
    kept byte by byte, raw images and mosaics become PNG. The shard appears when it is whole.
    Raises BagError for a bag that cannot be read, SourceError where nothing is left of it.
    """
    skipped: Counter[str] = Counter()
    handle, name = tempfile.mkstemp(prefix=f".{shard.name}.", dir=shard.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            taken = _copy(bag, tar, options, skipped)
        if not taken:
            left = ", ".join(f"{reason} {count}" for reason, count in skipped.items())
            raise SourceError(
                f"The bag {bag} has no frame with a caption from {options.caption_topic}"
                f" ({left or 'it has no frames'}): name the topic with --caption-topic."
            )
        temporary.replace(shard)
    finally:
        temporary.unlink(missing_ok=True)
    return skipped


def _copy(bag: Path, tar: tarfile.TarFile, options: BagOptions, skipped: Counter[str]) -> int:
    store = typestore()
    caption, taken = "", 0
    latest: dict[str, int] = {}
    with reading(bag) as recording:
        cameras = choose_cameras(recording, options.image_topics).topics
        named = recording.named(options.caption_topic)
        captions = [topic for topic in named if topic.type == STRING]
        if named and not captions:
            raise BagError(
                f"{options.caption_topic} of the bag {bag} is {named[0].stored_type}, and captions"
                f" have to be {STRING}: name another with --caption-topic."
            )
        for topic, stamp, data in recording.messages([*cameras, *captions]):
            try:
                message: Any = deserialize(store, topic, data)
                if topic in captions:
                    caption = _caption(message.data, skipped)
                    continue
                since = latest.get(topic.name)
                if since is not None and stamp - since < options.interval * 1e9:
                    continue
                if not caption:
                    skipped[NO_CAPTION_YET] += 1
                    continue
                pixels = decode_image(message, image_type(topic), Settings.max_pixels).pixels
            except ImageError as error:
                skipped[f"image {error.reason}"] += 1
                continue
            latest[topic.name] = stamp
            camera = topic.name.strip("/").replace("/", "_").replace(".", "_")
            key = f"{camera}/{stamp:020d}"
            ending, encoded = _encoded(message, image_type(topic), pixels)
            _add(tar, f"{key}.{ending}", encoded)
            _add(tar, f"{key}.txt", caption.encode())
            taken += 1
    return taken


def _caption(text: str, skipped: Counter[str]) -> str:
    """The caption from now on; none after a broken one, rather than the one before it."""
    try:
        return clean_caption("", text)
    except BrokenPairError as error:
        skipped[error.reason] += 1
        return ""


def _encoded(message: Any, message_type: str, pixels: UInt8Array) -> tuple[str, bytes]:
    """Ending and bytes of a file that is read as these pixels: the message's own if they are."""
    if message_type == COMPRESSED:
        data = bytes(message.data)
        # The message's format may say more than its data: that one channel is a Bayer mosaic.
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
