"""WebDataset: tar shards in which the files of one sample follow each other, 0017.jpg, 0017.txt.

The headers of a shard are read once when it is opened; after that any pair is read at its place.
So shards have to be files here, on a disk or a mounted store, and not compressed: JPEG is already.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from siglip_perception.contrastive.sources import (
    IMAGE_SUFFIXES,
    BrokenPairError,
    Pair,
    SourceError,
    clean_caption,
    decode,
)

# WebDataset's rule: the key ends at the first dot of the file's own name.
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
_IMAGES = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
_TEXTS = ("txt", "json")  # the first that a sample has; json holds a field caption or text
_FIELDS = ("caption", "text")

Place = tuple[int, int]
"""Offset and size of a file in its shard, in bytes."""


class ShardSource:
    """The pairs of tar shards, in the order of the shards and of the files in them."""

    def __init__(self, shards: Iterable[Path], captioned: bool) -> None:
        self.skipped: Counter[str] = Counter()
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

    def read(self, index: int) -> Pair:
        shard, image_at, image_size, text_at, text_size, kind = self._rows[index].tolist()
        name = f"{self._paths[shard]}@{image_at}"
        text = ""
        if self._captioned:
            text = _caption(name, self._bytes(shard, text_at, text_size), _TEXTS[kind])
        return Pair(decode(name, self._bytes(shard, image_at, image_size)), text)

    def _pairs(self, path: Path) -> Iterator[tuple[Place, Place, int]]:
        for files in self._samples(path):
            image = next((files[ext] for ext in _IMAGES if ext in files), None)
            kind = next((n for n, ext in enumerate(_TEXTS) if ext in files), None)
            if image is None:
                self.skipped["without image"] += 1
            elif not self._captioned:
                yield image, (0, 0), 0
            elif kind is None:
                self.skipped["without caption"] += 1
            else:
                yield image, files[_TEXTS[kind]], kind

    def _samples(self, path: Path) -> Iterator[dict[str, Place]]:
        """For each run of files with one key, the place of each extension."""
        key, files = "", dict[str, Place]()
        size = path.stat().st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    found = _NAME.fullmatch(member.name)
                    if not member.isreg() or found is None:
                        continue
                    if found[1] != key:
                        if files:
                            yield files
                        key, files = found[1], {}
                    if member.offset_data + member.size > size:
                        self.skipped["cut off with its shard"] += 1
                        continue
                    files[found[2].lower()] = member.offset_data, member.size
        except (tarfile.TarError, OSError) as error:
            if not key:
                raise SourceError(
                    f"The shard {path} is not a tar file that can be read ({error}); compressed"
                    " ones have to be unpacked first."
                ) from error
            self.skipped["shard that breaks off"] += 1
        if files:
            yield files

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


def _caption(name: str, data: bytes, kind: str) -> str:
    if kind == "txt":
        return clean_caption(name, data)
    try:
        fields = json.loads(data)
        text: object = next(fields[field] for field in _FIELDS if field in fields)
    except (ValueError, RecursionError, TypeError, StopIteration) as error:
        raise BrokenPairError(name, "caption not in its JSON") from error
    if not isinstance(text, str):
        raise BrokenPairError(name, "caption not in its JSON")
    return clean_caption(name, text)
