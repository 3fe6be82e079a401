"""Files in a folder that all users share, such as /dev/shm: only one's own are touched."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path


def is_own(state: os.stat_result) -> bool:
    """True for a plain file of this user."""
    return stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid()


def lock_own(path: Path, *, may_create: bool = False) -> int | None:
    """Open a file of this user and lock it; None if there is none, or somebody holds it.

    may_create: make the file where there is none. The lock ends with the handle.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags | (os.O_CREAT if may_create else 0), 0o666)
    except OSError:
        return None
    try:
        if not is_own(os.fstat(handle)):
            raise PermissionError
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
