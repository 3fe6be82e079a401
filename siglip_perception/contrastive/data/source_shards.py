"""WebDataset tar shards: the files of a sample follow each other, as 0017.jpg, 0017.txt.

All headers are read once, when a shard is opened; after that any pair can be read by offset. So
shards have to be uncompressed files on a local or mounted disk (JPEGs would not shrink anyway).
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
from siglip_perception.images.formats import SUFFIXES

_IMAGES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
_TEXTS = ("txt", "caption", "json")  # the first that a sample has; json holds one of _FIELDS
_FIELDS = ("caption", "text", "captions", "txt")
_BLOCK = tarfile.BLOCKSIZE
_COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"PK\x03\x04": ("zip", "unzip, and tar the files by name"),
}
_CUT_OFF = "sample cut off with its shard"

Place = tuple[int, int]
"""Offset and size of a file in its shard, in bytes."""


@dataclass
class _TarSample:
    """Consecutive files with the same key.

    files: place of each file by extension (everything after the first dot, in lower case).
    problem: reason why the sample is unusable, and the file at fault.
    """

    key: str
    files: dict[str, Place] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


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
        for sample in self._samples(path):
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

    def _samples(self, path: Path) -> Iterator[_TarSample]:
        """Group consecutive files with the same key; report everything else."""
        sample = _TarSample("")
        for key, extension, place, problem in self._files(path):
            if key != sample.key:
                if sample.key:
                    yield sample
                sample = _TarSample(key)
            if problem is None and extension in sample.files:
                problem = "sample with a file twice", f"{key}.{extension}"
            if place is not None:
                sample.files[extension] = place
            sample.problem = sample.problem or problem
        if sample.key:
            yield sample

    def _files(
        self, path: Path
    ) -> Iterator[tuple[str, str, Place | None, tuple[str, str] | None]]:
        """Yield key, extension and place of each file, and the problem that spoils its sample."""
        places: dict[str, Place] = {}
        last_offset, cut_off = -1, False
        try:
            size = path.stat().st_size
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if tar.offset <= last_offset:  # a negative size would loop forever
                        raise tarfile.ReadError("its headers lead back")
                    last_offset = tar.offset
                    place, problem = _place(member, size, places)
                    cut_off = problem is not None and problem[0] == _CUT_OFF
                    if place is not None:
                        places[posixpath.normpath(member.name)] = place
                    key, extension = _split(member.name)
                    if key and not member.isdir():
                        yield key, extension, place, problem
                    elif not member.isdir():
                        name = f"{path}: {member.name}"
                        self.report.note("hidden or a system's file, or without an ending", name)
                end = tar.offset
            self._check_end(path, end, bool(places))
        except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
            if last_offset >= 0 and not cut_off:
                self.report.skip("shard that breaks off", str(path), str(error))
            elif last_offset < 0:
                self.report.skip(*_no_tar(path, error))

    def _check_end(self, path: Path, end: int, has_files: bool) -> None:
        """Report data after the end of the archive: tarfile stops silently at a bad header."""
        with path.open("rb") as file:
            file.seek(end)
            block = file.read(_BLOCK)
            if any(block):
                detail = f"no header at byte {end}"
                self.report.skip("shard that breaks off", str(path), detail)
                return
            while chunk := file.read(1 << 20):
                if any(chunk):
                    detail = "tars that were joined with cat: keep them as shards of their own"
                    self.report.skip("shard with more after its end", str(path), detail)
                    return
        if not has_files:
            self.report.skip("shard without files", str(path))

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


def _split(name: str) -> tuple[str, str]:
    """Split a name by WebDataset's rule: the key ends at the first dot of the base name.

    Key and extension are "" for a name without an extension or with a leading dot, such as the
    ._0017.jpg that macOS writes.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and extension else ("", "")


def _place(
    member: tarfile.TarInfo, size: int, places: dict[str, Place]
) -> tuple[Place | None, tuple[str, str] | None]:
    """Return the member's place in a shard of that size, or the problem that makes it unusable."""
    if member.isdir():
        return None, None
    if "\0" in member.name:
        return None, ("sample with a NUL in a name", member.name)
    if member.issym() or member.islnk():
        beside = posixpath.dirname(member.name) if member.issym() else ""
        target = places.get(posixpath.normpath(posixpath.join(beside, member.linkname)))
        if target is None:
            return None, ("sample with a link to nothing before it", member.name)
        return target, None
    if not member.isreg():
        return None, ("sample with a device or a pipe", member.name)
    if member.issparse():
        return None, ("sample with a sparse file (tar it without --sparse)", member.name)
    if member.offset_data + member.size > size:
        return None, (_CUT_OFF, member.name)
    return (member.offset_data, member.size), None


def _missing(
    kind: str, name: str, files: Iterable[str], extensions: tuple[str, ...]
) -> tuple[str, str, str]:
    """Describe a sample without image or caption: reason, name and detail."""
    multi_dot = [e for e in files if "." in e and e.rsplit(".", 1)[1] in extensions]
    if multi_dot:
        reason = f"sample whose {kind} has a second dot (the key ends at the first)"
        return reason, name, ", ".join(multi_dot[:3])
    return f"sample without {kind}", name, f"only {', '.join(sorted(files))}" if files else ""


def _no_tar(path: Path, error: Exception) -> tuple[str, str, str]:
    """Describe a shard that is not a tar file: reason, name and detail."""
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as unreadable:
        return "shard unreadable", str(path), unreadable.strerror or ""
    if not start:
        return "shard is empty", str(path), ""
    for magic, (kind, command) in _COMPRESSIONS.items():
        if start.startswith(magic):
            return f"shard is compressed ({kind})", str(path), f"unpack it: {command}"
    return "shard is not a tar file", str(path), str(error)


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
