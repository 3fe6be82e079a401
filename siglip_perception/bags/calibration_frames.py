"""A user's frames, from a bag or a folder, to calibrate and evaluate int8 with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from siglip_perception.bags.files import is_bag_folder, reading
from siglip_perception.bags.messages import decode_image, deserialize, image_type, typestore
from siglip_perception.bags.topics import choose_cameras
from siglip_perception.errors import BagError, ImageError, PerceptionError
from siglip_perception.images.files import MAX_FILE_PIXELS, read_image
from siglip_perception.images.formats import SUFFIXES
from siglip_perception.types import UInt8Array


def read_frames(path: Path, limit: int) -> list[UInt8Array]:
    """Read frames uint8 [H, W, 3] RGB, evenly spread over a whole bag or folder.

    limit: most frames to read. Frames that cannot be decoded are left out. Raises PerceptionError
    or BagError if there is nothing to read.
    """
    if path.is_dir() and not is_bag_folder(path):
        frames = list(_read_folder(path, limit))
    elif path.exists():
        frames = _read_bag(path, limit)
    else:
        raise PerceptionError(f"There is no {path}: name a bag, or a folder of images.")
    if not frames:
        raise PerceptionError(f"{path} holds no image that can be read: name another.")
    return frames


def _read_folder(folder: Path, limit: int) -> Iterator[UInt8Array]:
    """Yield the folder's images; name and count on stderr those that are left out."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    indices = _spread(len(files), limit)
    skip_count = 0
    for index in indices:
        try:
            yield read_image(files[index]).pixels
        except PerceptionError as error:
            skip_count += 1
            print(f"left out: {error}", file=sys.stderr)
    if skip_count:
        print(f"{skip_count} of {len(indices)} images of {folder} left out", file=sys.stderr)


def _read_bag(bag: Path, limit: int) -> list[UInt8Array]:
    """Return the bag's images; count on stderr those left out, with one reason per topic."""
    store = typestore()
    frames: list[UInt8Array] = []
    reasons: dict[str, str] = {}
    with reading(bag) as recording:
        topics = choose_cameras(recording).topics
        indices = set(_spread(sum(topic.count for topic in topics), limit))
        for number, (topic, _, data) in enumerate(recording.messages(topics)):
            if number not in indices:
                continue
            try:
                message = deserialize(store, topic, data)
                picture = decode_image(message, image_type(topic), MAX_FILE_PIXELS)
                frames.append(picture.pixels)
            except ImageError as error:
                reasons.setdefault(topic.name, str(error))
    if reasons and not frames:
        summary = "; ".join(f"{name}: {text.rstrip('.')}" for name, text in reasons.items())
        raise BagError(f"No image of the bag {bag} can be read ({summary}): name another.")
    for name, text in reasons.items():
        print(f"left out, first of {name}: {text}", file=sys.stderr)
    if reasons:
        print(
            f"{len(indices) - len(frames)} of {len(indices)} images of {bag} left out",
            file=sys.stderr,
        )
    return frames


def _spread(count: int, limit: int) -> list[int]:
    """Return at most `limit` indices below `count`, evenly spaced."""
    total = min(count, limit)
    return [index * count // total for index in range(total)]
