"""Frames of a corpus, whatever holds them: streams of one camera in one episode, read in order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.images.files import Picture, decode_file
from siglip_perception.types import UInt8Array

MAX_PIXELS: int = Settings.max_pixels


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a stream, decoded, or why it is not.

    index: its number in the stream, from 0.
    image: uint8 [H, W, 3] RGB; None where it could not be read.
    timestamp: seconds since the episode began; None where the source has no times.
    stamp_ns: the recording's own stamp, nanoseconds; None outside of bags.
    key: name of the frame in its source: a file, a sample's key, a stamp.
    text: caption, task or instruction that holds at this frame; "" without one.
    problem: reason and detail why there is no image.
    remarks: notes on an image that is used, such as "jpeg_repaired".
    """

    index: int
    image: UInt8Array | None = None
    timestamp: float | None = None
    stamp_ns: int | None = None
    key: str = ""
    text: str = ""
    problem: tuple[str, str] | None = None
    remarks: tuple[str, ...] = ()


class Stream(Protocol):
    """The frames of one camera in one episode. Can be pickled: workers open it by themselves.

    kind: "pictures", "video", "bag", "webdataset" or "lerobot".
    source: the path that was named. episode: name of the episode in it. number: of the episode in
        its source, from 0. camera: "" for the only one.
    count: frames that the source says there are.
    state: what tells whether the source has changed: files with sizes and times, JSON's types.
    """

    @property
    def kind(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def episode(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def camera(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def state(self) -> str: ...

    def frames(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        """Yield exactly one frame for each number of range(start, stop, step), in order.

        A frame that cannot be read has a problem; nothing is raised for it.
        """


def file_state(paths: Iterable[Path]) -> str:
    """Digest names, sizes and modification times of files: 16 hex digits."""
    facts: list[Any] = []
    for path in paths:
        status = path.stat()
        facts.append([os.fspath(path), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def decode_bytes(data: bytes, name: str) -> Picture | tuple[str, str]:
    """Decode an image file's bytes, or say reason and detail why that cannot be."""
    try:
        return decode_file(data, name, max_pixels=MAX_PIXELS)
    except ImageError as error:
        return f"image {error.reason}", str(error).removeprefix(f"{name}: ")
    except PerceptionError as error:
        return "image unreadable", str(error)


def no_frame(numbers: Iterable[int], reason: str, detail: str) -> Iterator[SourceFrame]:
    """Yield a frame with the same problem for each number."""
    for number in numbers:
        yield SourceFrame(number, problem=(reason, detail))
