"""Where image-caption pairs come from: every source has a length and gives pair i, in any order.

That a pair has a number, in tar shards and bags too, makes the order of training a function of the
seed, and a resumed run the same as one that was never stopped.
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
from siglip_perception.types import UInt8Array

SEVERAL_CAPTIONS = "several captions of one image, one an epoch"
_LONGEST_CAPTION = 64 * 1024


class SourceError(DatasetError):
    """A source of training data that cannot be used at all."""


class BrokenPairError(Exception):
    """One pair that cannot be used: it is counted under `reason` and another takes its place."""

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

    image: uint8 [H, W, 3] RGB. caption: one line; empty where the source was asked for none.
    name: what reports call it. remarks: what there is to report of it, such as "jpeg_repaired".
    """

    image: UInt8Array
    caption: str
    name: str = ""
    remarks: tuple[str, ...] = ()


class PairSource(Protocol):
    """Pairs 0 to len - 1; `report` has what was left out when the source was opened."""

    @property
    def report(self) -> SkipReport: ...

    def __len__(self) -> int: ...

    def read(self, index: int, epoch: int = 0) -> Pair:
        """The pair of that number; BrokenPairError where it cannot be used.

        epoch: chooses one of an image's captions where it has several.
        """


@dataclass(frozen=True)
class Joined:
    """Several sources, one after the other."""

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
    """Some pairs of a source, by their numbers."""

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
    """The picture of an image file's bytes; BrokenPairError where it cannot be used."""
    try:
        return decode_file(data, name)
    except ImageError as error:
        detail = str(error).removeprefix(f"{name}: ")
        raise BrokenPairError(name, f"image {error.reason}", detail) from error


def pair_of(name: str, picture: Picture, captions: Sequence[str], epoch: int) -> Pair:
    """A picture with one of its captions, of which there may be none."""
    several = (SEVERAL_CAPTIONS,) if len(captions) > 1 else ()
    caption = captions[epoch % len(captions)] if captions else ""
    return Pair(picture.pixels, caption, name, (*picture.repairs, *several))


def captions_of(name: str, data: bytes | str) -> list[str]:
    """The captions of a text, one a line; BrokenPairError where it is no text, or empty."""
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
    """A caption as one line; BrokenPairError where it is empty or out of all bounds."""
    return " ".join(captions_of(name, text))
