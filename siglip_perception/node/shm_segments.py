"""Removal of the shared memory that a killed node leaves behind.

Fast DDS removes a participant's segment (64 MiB with config/fastdds.xml) when the process ends,
but not when it is killed. Each node writes down which segments it has mapped, in a file that it
holds locked; at the next start a file without a holder is a dead node's. What it names is removed
only if it is this user's and nobody holds its own lock, which Fast DDS takes for as long as the
segment's owner lives.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from siglip_perception.util.own_files import is_own, lock_own

FOLDER = Path("/dev/shm")
_SEGMENT = re.compile(r"(?:fastrtps|fastdds)_[0-9a-f]{16}")
_MAX_RECORD_BYTES = 4096


class SegmentRecord:
    """The file that names this process' segments, locked until the process ends or close()."""

    def __init__(self, folder: Path = FOLDER, maps: Path = Path("/proc/self/maps")) -> None:
        """Write the record; OSError if that fails."""
        names = sorted(set(_SEGMENT.findall(maps.read_text(errors="replace"))))
        self._path = folder / f"siglip_perception_{os.geteuid()}_{os.getpid()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._path, flags, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._handle, "\n".join(names).encode()[:_MAX_RECORD_BYTES])

    def close(self) -> None:
        """Remove the record: the segments are removed in good order."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def remove_leftovers(folder: Path = FOLDER) -> list[str]:
    """Remove the segments of this user's dead nodes and return their names; never raise."""
    removed = []
    with suppress(OSError):
        for record in folder.glob(f"siglip_perception_{os.geteuid()}_*"):
            removed += _remove_recorded(record, folder)
    return removed


def _remove_recorded(record: Path, folder: Path) -> list[str]:
    handle = lock_own(record)
    if handle is None:
        return []
    try:
        names = os.read(handle, _MAX_RECORD_BYTES).decode(errors="replace").splitlines()
        removed = [
            name for name in names if _SEGMENT.fullmatch(name) and _remove_segment(folder / name)
        ]
        record.unlink(missing_ok=True)
        return removed
    except OSError:
        return []
    finally:
        os.close(handle)


def _remove_segment(path: Path) -> bool:
    """Remove a segment and its lock unless somebody holds the lock; return True if removed."""
    lock = path.with_name(f"{path.name}_el")
    handle = lock_own(lock)
    if handle is None:
        return False
    try:
        if not is_own(path.lstat()):
            return False
        path.unlink()
        lock.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
