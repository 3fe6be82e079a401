"""A user's own frames, out of a bag or a folder: what int8 is calibrated and judged on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siglip_perception.bag import typestore
from siglip_perception.bag_files import decode_image, deserialise, messages, reading
from siglip_perception.bag_topics import choose_topics
from siglip_perception.config import Settings
from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.images.files import read_image
from siglip_perception.images.formats import SUFFIXES
from siglip_perception.types import UInt8Array

_BAGS = (".mcap", ".db3")


def read_frames(path: Path, most: int) -> list[UInt8Array]:
    """At most so many frames uint8 [H, W, 3] RGB, evenly spread over all of a bag or a folder.

    Frames that cannot be decoded are left out. Raises PerceptionError or BagError where there is
    nothing to read.
    """
    if path.suffix in _BAGS or (path / "metadata.yaml").is_file():
        found = list(_of_bag(path, most))
    elif path.is_dir():
        found = list(_of_folder(path, most))
    else:
        raise PerceptionError(f"{path} is neither a bag nor a folder of images.")
    if not found:
        raise PerceptionError(f"{path} holds no image that can be read: name another.")
    return found


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


def _of_bag(bag: Path, most: int) -> Iterator[UInt8Array]:
    store = typestore()
    with reading(bag) as reader:
        topics = choose_topics(reader.connections, (), bag)
        wanted = [c for c in reader.connections if c.topic in topics]
        taken = set(_spread(sum(c.msgcount for c in wanted), most))
        for number, (connection, _, data) in enumerate(messages(bag, reader, wanted)):
            if number not in taken:
                continue
            try:
                message: Any = deserialise(store, connection, data)
                yield decode_image(message, connection.msgtype, Settings.max_pixels).pixels
            except ImageError:
                continue


def _spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, at even distances."""
    taken = min(count, most)
    return [index * count // taken for index in range(taken)]
