"""Bounded reading of regular files, their digests, and atomic writing."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tempfile
from pathlib import Path

# Kinds of files whose opening or reading may block for ever, or never end.
_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnsuitableFileError(OSError):
    """A file is no regular file, or larger than its use allows; `strerror` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(None, reason, str(path))


def special_kind(mode: int) -> str:
    """Name the kind of a file that is neither regular nor a folder, from st_mode; else ""."""
    return next((name for is_kind, name in _SPECIAL if is_kind(mode)), "")


def open_regular(path: Path, max_bytes: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading, without ever waiting for a pipe's or a device's other end.

    Raises OSError if it cannot be opened: IsADirectoryError for a folder, UnsuitableFileError for
    a special file or one of more than max_bytes.
    """
    # Before the opening, too, because opening some devices has effects.
    _check_kind(path, path.stat().st_mode)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        state = os.fstat(file.fileno())
        _check_kind(path, state.st_mode)
        if max_bytes is not None and state.st_size > max_bytes:
            raise UnsuitableFileError(path, _too_large(max_bytes))
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most max_bytes; OSError as in open_regular()."""
    with open_regular(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew, or the system does not know its size, as under /proc
        raise UnsuitableFileError(path, _too_large(max_bytes))
    return data


def _check_kind(path: Path, mode: int) -> None:
    kind = special_kind(mode)
    if kind:
        raise UnsuitableFileError(path, f"it is {kind}, not a regular file")


def _too_large(max_bytes: int) -> str:
    size = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes >> 10} KiB"
    return f"it is larger than {size}"


def sha256(*paths: Path) -> str:
    """Compute the hex SHA-256 of files of any size, one after the other; OSError as above."""
    total = hashlib.sha256()
    for path in paths:
        with open_regular(path) as file:
            while chunk := file.read(1 << 22):
                total.update(chunk)
    return total.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, then rename it; OSError if that fails."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
