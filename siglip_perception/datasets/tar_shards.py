"""Samples of WebDataset's tar shards: files that follow each other, as 0017.jpg, 0017.txt.

The headers of a shard are read once; after that any file can be read by its offset. So shards have
to be uncompressed files on a local or mounted disk (JPEGs would not shrink anyway).
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from siglip_perception.datasets.skips import SkipReport

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
class TarSample:
    """Consecutive files with the same key.

    files: place of each file by extension (everything after the first dot, in lower case).
    problem: reason why the sample is unusable, and the file at fault.
    """

    key: str
    files: dict[str, Place] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


def read_samples(path: Path, report: SkipReport) -> Iterator[TarSample]:
    """Yield a shard's samples in file order; report everything else.

    Reads the headers of the whole shard, and none of its data.
    """
    sample = TarSample("")
    for key, extension, place, problem in _files(path, report):
        if key != sample.key:
            if sample.key:
                yield sample
            sample = TarSample(key)
        if problem is None and extension in sample.files:
            problem = "sample with a file twice", f"{key}.{extension}"
        if place is not None:
            sample.files[extension] = place
        sample.problem = sample.problem or problem
    if sample.key:
        yield sample


def _files(
    path: Path, report: SkipReport
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
                    report.note("hidden or a system's file, or without an ending", name)
            end = tar.offset
        _check_end(path, end, bool(places), report)
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        if last_offset >= 0 and not cut_off:
            report.skip("shard that breaks off", str(path), str(error))
        elif last_offset < 0:
            report.skip(*_no_tar(path, error))


def _check_end(path: Path, end: int, has_files: bool, report: SkipReport) -> None:
    """Report data after the end of the archive: tarfile stops silently at a bad header."""
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(_BLOCK)
        if any(block):
            detail = f"no header at byte {end}"
            report.skip("shard that breaks off", str(path), detail)
            return
        while chunk := file.read(1 << 20):
            if any(chunk):
                detail = "tars that were joined with cat: keep them as shards of their own"
                report.skip("shard with more after its end", str(path), detail)
                return
    if not has_files:
        report.skip("shard without files", str(path))


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
