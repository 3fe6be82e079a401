"""Bags on a disk: opened, read, and written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from siglip_perception.bag_topics import COMPRESSED
from siglip_perception.config import Settings
from siglip_perception.errors import BagError, ImageError
from siglip_perception.images.decode import convert, decode_compressed
from siglip_perception.images.files import Picture

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_BAG_VERSION: Literal[9] = 9


@contextmanager
def reading(bag: Path) -> Iterator[Reader]:
    """The bag, open; BagError where it cannot be."""
    try:
        reader = Reader(bag)
        reader.open()
    except Exception as error:  # rosbags raises errors of many kinds for broken files
        raise _broken(bag, error) from error
    try:
        yield reader
    finally:
        reader.close()


def messages(
    bag: Path, reader: Reader, connections: list[Connection]
) -> Iterator[tuple[Connection, int, bytes]]:
    """Those connections' messages by time, each with its stamp in nanoseconds; BagError."""
    entries = reader.messages(connections)
    while True:
        try:
            entry = next(entries, None)
        except Exception as error:
            raise _broken(bag, error) from error
        if entry is None:
            return
        yield entry


def deserialise(store: Typestore, connection: Connection, data: bytes) -> Any:
    """A message out of its bytes; ImageError `malformed` where they are none."""
    try:
        return store.deserialize_cdr(data, connection.msgtype)
    except Exception as error:  # rosbags raises errors of many kinds for broken bytes
        raise ImageError("malformed", "the message's bytes cannot be read.") from error


def decode_image(
    message: Any, msgtype: str, max_pixels: int, mono16_white: int = Settings.mono16_white
) -> Picture:
    """The picture of a sensor_msgs/Image or CompressedImage; ImageError if refused."""
    if msgtype == COMPRESSED:
        return decode_compressed(
            message.format, message.data, max_pixels=max_pixels, mono16_white=mono16_white
        )
    pixels = convert(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
        max_pixels=max_pixels,
        mono16_white=mono16_white,
    )
    return Picture(pixels, 1, message.encoding)


def _broken(bag: Path, error: Exception) -> BagError:
    what = str(error).strip().splitlines()
    return BagError(
        f"The bag {bag} cannot be read ({what[0].rstrip('.') if what else type(error).__name__}):"
        " give a whole rosbag2 bag, or mend it with `ros2 bag reindex` or `mcap recover`."
    )


def storage(bag: Path, reader: Reader) -> str:
    files = [bag] if bag.is_file() else list(bag.iterdir())
    return "mcap" if any(".mcap" in file.suffixes for file in files) else "sqlite3"


@contextmanager
def writing(out: Path, storage: str) -> Iterator[Writer]:
    """A bag that appears under its name when it is whole, and not at all after an error."""
    if storage not in _PLUGINS:
        raise BagError(f"There is no bag storage {storage!r}: use {' or '.join(_PLUGINS)}.")
    if out.exists():
        raise BagError(f"{out} exists already: name a new folder for the bag.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BagError(f"Cannot write to {out.parent} ({error.strerror}).") from error
    try:
        # In a folder of its own: the bag's file and metadata carry the bag folder's name.
        unfinished = temporary / out.name
        try:
            with Writer(
                unfinished, version=_BAG_VERSION, storage_plugin=_PLUGINS[storage]
            ) as writer:
                yield writer
            unfinished.rename(out)
        except OSError as error:
            raise BagError(f"The bag {out} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
