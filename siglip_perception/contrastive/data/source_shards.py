"""WebDataset tar shards: the files of a sample follow each other, as 0017.jpg, 0017.txt.

All headers are read once, when a shard is opened; after that any pair can be read by offset. So
shards have to be uncompressed files on a local or mounted disk (JPEGs would not shrink anyway).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from siglip_perception.contrastive.data.sources import (
    BrokenPairError,
    Pair,
    clean_caption,
    decode,
    make_pair,
    read_captions,
)
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.datasets.tar_shards import Place, read_samples
from siglip_perception.images.formats import SUFFIXES

_IMAGES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
_TEXTS = ("txt", "caption", "json")  # the first that a sample has; json holds one of _FIELDS
_FIELDS = ("caption", "text", "captions", "txt")


class ShardSource:
    """Pairs of tar shards, in shard order and file order."""

    def __init__(self, shards: Iterable[Path], captioned: bool, strict: bool = False) -> None:
        self.report = SkipReport(strict)
        self._paths = list(shards)
        self._captioned = captioned
        rows = [
            (shard, *image, *text, kind)
            for shard, path in enumerate(self._paths)
            for image, text, kind in self._pairs(path)
        ]
        self._rows: npt.NDArray[np.int64] = np.array(rows, dtype=np.int64).reshape(-1, 6)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int, epoch: int = 0) -> Pair:
        shard, image_at, image_size, text_at, text_size, kind = self._rows[index].tolist()
        name = f"{self._paths[shard]}@{image_at}"
        captions: list[str] = []
        if self._captioned:
            captions = _captions(name, self._bytes(shard, text_at, text_size), _TEXTS[kind])
        return make_pair(
            name, decode(name, self._bytes(shard, image_at, image_size)), captions, epoch
        )

    def _pairs(self, path: Path) -> Iterator[tuple[Place, Place, int]]:
        for sample in read_samples(path, self.report):
            image = next((sample.files[ext] for ext in _IMAGES if ext in sample.files), None)
            kind = next((n for n, ext in enumerate(_TEXTS) if ext in sample.files), None)
            name = f"{path}: {sample.key}"
            if sample.problem is not None:
                reason, member = sample.problem
                self.report.skip(reason, name, member)
            elif image is None:
                self.report.skip(*_missing("image", name, sample.files, _IMAGES))
            elif not self._captioned:
                yield image, (0, 0), 0
            elif kind is None:
                self.report.skip(*_missing("caption", name, sample.files, _TEXTS))
            else:
                yield image, sample.files[_TEXTS[kind]], kind

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        path = self._paths[shard]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise BrokenPairError(
                f"{path}@{offset}", "shard unreadable", error.strerror or ""
            ) from error


def _missing(
    kind: str, name: str, files: Iterable[str], extensions: tuple[str, ...]
) -> tuple[str, str, str]:
    """Describe a sample without image or caption: reason, name and detail."""
    multi_dot = [e for e in files if "." in e and e.rsplit(".", 1)[1] in extensions]
    if multi_dot:
        reason = f"sample whose {kind} has a second dot (the key ends at the first)"
        return reason, name, ", ".join(multi_dot[:3])
    return f"sample without {kind}", name, f"only {', '.join(sorted(files))}" if files else ""


def _captions(name: str, data: bytes, kind: str) -> list[str]:
    if kind != "json":
        return read_captions(name, data)
    try:
        fields = json.loads(data)
        value: object = next(fields[field] for field in _FIELDS if field in fields)
    except (ValueError, RecursionError, TypeError, KeyError, StopIteration) as error:
        raise BrokenPairError(name, "caption not in its JSON") from error
    texts = value if isinstance(value, list) else [value]
    captions = [clean_caption(name, text) for text in texts if isinstance(text, str)]
    if not captions or len(captions) < len(texts):
        raise BrokenPairError(name, "caption not in its JSON")
    return captions
