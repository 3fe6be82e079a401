"""Where image-caption pairs come from: every source has a length and gives pair i, in any order.

That a pair has a number, in tar shards and bags too, makes the order of training a function of the
seed, and a resumed run the same as one that was never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.images import formats
from siglip_perception.images.files import decode_file
from siglip_perception.types import UInt8Array

IMAGE_SUFFIXES = formats.SUFFIXES
_LONGEST_CAPTION = 64 * 1024


class SourceError(PerceptionError):
    """A source of training data that cannot be used at all."""


class BrokenPairError(Exception):
    """One pair that cannot be used: it is counted under `reason` and another takes its place."""

    def __init__(self, name: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{name}: {reason}{f' ({detail})' if detail else ''}")
        self.name = name
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BrokenPairError], tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.detail)


@dataclass(frozen=True)
class Pair:
    """image: uint8 [H, W, 3] RGB. caption: one line; empty where the source was asked for none."""

    image: UInt8Array
    caption: str


class PairSource(Protocol):
    """Pairs 0 to len - 1; `skipped` counts by reason what was left out when it was opened."""

    @property
    def skipped(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Pair:
        """The pair of that number; BrokenPairError where it cannot be used."""


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
    def skipped(self) -> Mapping[str, int]:
        return sum((Counter(source.skipped) for source in self.sources), Counter())

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Pair:
        number = next(n for n, start in enumerate(self._starts[1:]) if index < start)
        return self.sources[number].read(index - self._starts[number])


@dataclass(frozen=True)
class Subset:
    """Some pairs of a source, by their numbers."""

    source: PairSource
    numbers: Sequence[int] | npt.NDArray[np.int64]

    @property
    def skipped(self) -> Mapping[str, int]:
        return self.source.skipped

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int) -> Pair:
        return self.source.read(int(self.numbers[index]))


def decode(name: str, data: bytes) -> UInt8Array:
    """A JPEG or PNG file's bytes as uint8 [H, W, 3], by the node's own checked decoders."""
    try:
        return decode_file(data, name).pixels
    except ImageError as error:
        detail = str(error).removeprefix(f"{name}: ")
        raise BrokenPairError(name, f"image {error.reason}", detail) from error


def clean_caption(name: str, data: bytes | str) -> str:
    """A caption as one line; BrokenPairError where it is no text, empty or out of all bounds."""
    if len(data) > _LONGEST_CAPTION:
        raise BrokenPairError(name, "caption too long")
    if isinstance(data, bytes):
        try:
            data = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BrokenPairError(name, "caption not UTF-8") from error
    text = " ".join(data.split())
    if not text:
        raise BrokenPairError(name, "caption empty")
    return text
