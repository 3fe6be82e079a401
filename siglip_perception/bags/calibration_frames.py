"""A user's own frames, out of a bag or a folder: what int8 is calibrated and judged on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from siglip_perception.bags.files import is_bag_folder, reading
from siglip_perception.bags.messages import decode_image, deserialize, image_type, typestore
from siglip_perception.bags.topics import choose_cameras
from siglip_perception.config import Settings
from siglip_perception.errors import BagError, ImageError, PerceptionError
from siglip_perception.images.files import read_image
from siglip_perception.images.formats import SUFFIXES
from siglip_perception.types import UInt8Array


def read_frames(path: Path, most: int) -> list[UInt8Array]:
    """At most so many frames uint8 [H, W, 3] RGB, evenly spread over all of a bag or a folder.

    Frames that cannot be decoded are left out. Raises PerceptionError or BagError where there is
    nothing to read.
    """
    if path.is_dir() and not is_bag_folder(path):
        frames = list(_of_folder(path, most))
    elif path.exists():
        frames = _of_bag(path, most)
    else:
        raise PerceptionError(f"There is no {path}: name a bag, or a folder of images.")
    if not frames:
        raise PerceptionError(f"{path} holds no image that can be read: name another.")
    return frames


def _of_folder(folder: Path, most: int) -> Iterator[UInt8Array]:
    """The folder's images; those that are left out are named, and counted, on stderr."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    chosen = _spread(len(files), most)
    left_out = 0
    for index in chosen:
        try:
            yield read_image(files[index]).pixels
        except PerceptionError as error:
            left_out += 1
            print(f"left out: {error}", file=sys.stderr)
    if left_out:
        print(f"{left_out} of {len(chosen)} images of {folder} left out", file=sys.stderr)


def _of_bag(bag: Path, most: int) -> list[UInt8Array]:
    """The bag's images; those that are left out are counted on stderr, with a reason a topic."""
    store = typestore()
    frames: list[UInt8Array] = []
    refused: dict[str, str] = {}
    with reading(bag) as recording:
        topics = choose_cameras(recording).topics
        taken = set(_spread(sum(topic.count for topic in topics), most))
        for number, (topic, _, data) in enumerate(recording.messages(topics)):
            if number not in taken:
                continue
            try:
                message = deserialize(store, topic, data)
                picture = decode_image(message, image_type(topic), Settings.max_pixels)
                frames.append(picture.pixels)
            except ImageError as error:
                refused.setdefault(topic.name, str(error))
    if refused and not frames:
        reasons = "; ".join(f"{name}: {text.rstrip('.')}" for name, text in refused.items())
        raise BagError(f"No image of the bag {bag} can be read ({reasons}): name another.")
    for name, text in refused.items():
        print(f"left out, first of {name}: {text}", file=sys.stderr)
    if refused:
        print(
            f"{len(taken) - len(frames)} of {len(taken)} images of {bag} left out", file=sys.stderr
        )
    return frames


def _spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, at even distances."""
    taken = min(count, most)
    return [index * count // taken for index in range(taken)]
