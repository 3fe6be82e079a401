"""Folders of pictures: each folder is an episode, its pictures are the frames by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from siglip_perception.datasets.texts import decode_text
from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.features.sources.frames import MAX_PIXELS, SourceFrame
from siglip_perception.images.files import read_image

_LONGEST_TEXT = 64 * 1024


@dataclass(frozen=True)
class PictureStream:
    """Pictures of one folder. names: relative to `folder`, in order."""

    source: str
    episode: str
    number: int
    folder: Path
    names: tuple[str, ...]
    state: str
    camera: str = ""
    kind: str = "pictures"

    @property
    def count(self) -> int:
        return len(self.names)

    def frames(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        for number in range(start, stop, step):
            name = self.names[number]
            path = self.folder / name
            try:
                picture = read_image(path, max_pixels=MAX_PIXELS)
            except PerceptionError as error:
                reason = error.reason if isinstance(error, ImageError) else "unreadable"
                detail = str(error).removeprefix(f"{path}: ")
                yield SourceFrame(number, key=name, problem=(f"image {reason}", detail))
                continue
            yield SourceFrame(
                number,
                picture.pixels,
                key=name,
                text=_caption(path),
                remarks=picture.repairs,
            )


def _caption(picture: Path) -> str:
    """Read the first line of cup.txt beside cup.jpg; "" without one that can be read."""
    path = picture.with_suffix(".txt")
    try:
        lines = decode_text(path.read_bytes()[:_LONGEST_TEXT]).splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    return next((" ".join(line.split()) for line in lines if line.strip()), "")


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort frame_2 before frame_10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
