"""Sources of image-caption pairs: each has a length and reads pair i, in any order.

Random access, for tar shards and bags too, makes the training order a function of the seed, so a
resumed run equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from siglip_perception.datasets.skips import SkipReport, describe
from siglip_perception.datasets.texts import decode_text
from siglip_perception.errors import DatasetError, ImageError
from siglip_perception.images.files import Picture, decode_file
from siglip_perception.types import FloatArray, UInt8Array

SEVERAL_CAPTIONS = "several captions of one image, one an epoch"
_LONGEST_CAPTION = 64 * 1024


class SourceError(DatasetError):
    """A source of training data that is unusable as a whole."""


class BrokenPairError(Exception):
    """An unusable pair: it is counted under `reason`, and another takes its place."""

    def __init__(self, name: str, reason: str, detail: str = "") -> None:
        super().__init__(describe(name, reason, detail))
        self.name = name
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BrokenPairError], tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.detail)


@dataclass(frozen=True)
class Pair:
    """An image with a caption.

    image: uint8 [H, W, 3] RGB; None where there is its embedding alone.
    caption: one line; "" if captions are not needed.
    name: for reports. remarks: notes for the report, such as "jpeg_repaired".
    embedding: the image tower's, float32 [D] of unit length, in place of an image.
    """

    image: UInt8Array | None
    caption: str
    name: str = ""
    remarks: tuple[str, ...] = ()
    embedding: FloatArray | None = None


class PairSource(Protocol):
    """Pairs 0 to len - 1; `report` lists what was skipped when the source was opened."""

    @property
    def report(self) -> SkipReport: ...

    def __len__(self) -> int: ...

    def read(self, index: int, epoch: int = 0) -> Pair:
        """Read one pair; raise BrokenPairError if it is unusable.

        epoch: selects one of the image's captions if it has several.
        """


@dataclass(frozen=True)
class ConcatSource:
    """Several sources, concatenated."""

    sources: Sequence[PairSource]
    _starts: list[int] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        total = 0
        for source in self.sources:
            self._starts.append(total)
            total += len(source)
        self._starts.append(total)

    @property
    def report(self) -> SkipReport:
        report = SkipReport()
        for source in self.sources:
            report.merge(source.report)
        return report

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int, epoch: int = 0) -> Pair:
        number = next(n for n, start in enumerate(self._starts[1:]) if index < start)
        return self.sources[number].read(index - self._starts[number], epoch)


@dataclass(frozen=True)
class Subset:
    """A subset of a source, by pair numbers."""

    source: PairSource
    numbers: Sequence[int] | npt.NDArray[np.int64]

    @property
    def report(self) -> SkipReport:
        return self.source.report

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int, epoch: int = 0) -> Pair:
        return self.source.read(int(self.numbers[index]), epoch)


def decode(name: str, data: bytes) -> Picture:
    """Decode an image file's bytes; raise BrokenPairError if that fails."""
    try:
        return decode_file(data, name)
    except ImageError as error:
        detail = str(error).removeprefix(f"{name}: ")
        raise BrokenPairError(name, f"image {error.reason}", detail) from error


def make_pair(name: str, picture: Picture, captions: Sequence[str], epoch: int) -> Pair:
    """Pair an image with the epoch's caption; "" if it has none."""
    remarks = (SEVERAL_CAPTIONS,) if len(captions) > 1 else ()
    caption = captions[epoch % len(captions)] if captions else ""
    return Pair(picture.pixels, caption, name, (*picture.repairs, *remarks))


def read_captions(name: str, data: bytes | str) -> list[str]:
    """Parse captions, one per line; raise BrokenPairError for an empty or undecodable text."""
    if len(data) > _LONGEST_CAPTION:
        raise BrokenPairError(name, "caption too long", f"{len(data)} bytes")
    if isinstance(data, bytes):
        try:
            data = decode_text(data)
        except UnicodeDecodeError as error:
            detail = f"byte {error.start}: save it as UTF-8"
            raise BrokenPairError(name, "caption not UTF-8", detail) from error
    lines = [" ".join(line.split()) for line in data.splitlines()]
    captions = [line for line in lines if line]
    if not captions:
        raise BrokenPairError(name, "caption empty")
    return captions


def clean_caption(name: str, text: str) -> str:
    """Join a caption into one line; raise BrokenPairError if it is empty or far too long."""
    return " ".join(read_captions(name, text))
