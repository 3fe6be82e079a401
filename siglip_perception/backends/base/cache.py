"""Disk cache of engines and graphs: an entry is whole and verified, or absent.

An entry is a folder named by the hash of everything that it depends on; change any of that and it
is another entry. It is built in a temporary folder and renamed into place, so that a kill leaves
no half entry, and its files are checked against their SHA-256 before use. Engines are code, so
nothing is taken from a folder or a file that another user could have written, and nothing that the
entry does not list.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from siglip_perception.errors import BackendError, CacheError
from siglip_perception.util.files import read_regular, sha256, write_atomically

_LOGGER = logging.getLogger(__name__)
_DIGESTS = "digests.json"
_FACTS = "facts.json"
_QUARANTINE = ".bad"
_REFUSAL = "refused.txt"
_MAX_TEXT_BYTES = 1 << 20


def root() -> Path:
    """Return the engines' folder in $XDG_CACHE_HOME or ~/.cache; BackendError without either."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise BackendError(
            "There is no home folder to keep engines in: set XDG_CACHE_HOME to a folder."
        ) from error
    return base / "siglip_perception" / "engines"


class EngineCache:
    """Entries below a folder, which is created with the first one.

    warnings: what /diagnostics is to say of it, by the names `cache_off` and `engine_rebuilt`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or root()
        self.warnings: dict[str, str] = {}

    @classmethod
    def usable(cls) -> EngineCache:
        """Return the user's cache or, if it cannot be used, an empty one of this process alone."""
        try:
            cache = cls()
            with cache._lock("usable"):
                Path(tempfile.mkdtemp(prefix=".usable.", dir=cache.folder)).rmdir()
            return cache
        except BackendError as error:
            return cls.private(str(error))

    @classmethod
    def private(cls, reason: str) -> EngineCache:
        """Return a cache of this process alone; reason: why not the user's, a sentence."""
        _LOGGER.warning("Engines are kept for this process alone: %s", reason)
        cache = cls(_private_folder())
        cache.warnings["cache_off"] = f"engines are not kept: {reason}"
        return cache

    def path_of(self, facts: Mapping[str, str]) -> Path:
        """Return the path of the entry of these facts, whether it exists or not."""
        content = json.dumps(dict(facts), sort_keys=True).encode()
        return self.folder / hashlib.sha256(content).hexdigest()[:32]

    def get(self, facts: Mapping[str, str]) -> Path | None:
        """Return the entry's folder, its files verified; None if there is no entry.

        A damaged entry is quarantined and the log says why. Raises CacheError if others may
        write to the cache.
        """
        entry = self.path_of(facts)
        try:
            if not os.path.lexists(entry):
                return None
            self.check_owner()
        except OSError as error:
            raise CacheError(
                f"The engine cache {self.folder} cannot be read ({error.strerror}): set"
                " XDG_CACHE_HOME to a readable folder."
            ) from error
        trouble = _find_damage(entry)
        if trouble:
            self.quarantine(facts, trouble)
            return None
        return entry

    def build(self, facts: Mapping[str, str], make: Callable[[Path], None]) -> Path:
        """Return the entry's folder; if there is none yet, `make` fills it, in a temporary folder.

        Of several processes that need the same entry one builds and the others wait. Raises
        CacheError if the folder cannot be written. Errors of `make` pass through, and its files
        are removed.
        """
        entry = self.path_of(facts)
        with self._lock(entry.name):
            existing = self.get(facts)
            if existing is not None:
                return existing
            with self._work(entry.name) as work:
                make(work)
                (work / _FACTS).write_text(json.dumps(dict(facts), indent=2))
                _seal(work)
                work.rename(entry)
                _sync(self.folder)
        return entry

    @contextmanager
    def scratch(self, facts: Mapping[str, str]) -> Iterator[Path]:
        """Yield a folder to work in, removed afterwards; after a kill the next caller removes it.

        One process at a time holds the folder of the same facts, which no entry may use. Raises
        CacheError if the folder cannot be written or the disk is full.
        """
        name = self.path_of(facts).name
        with self._lock(name), self._work(name) as work:
            yield work

    def discard(self, facts: Mapping[str, str]) -> None:
        """Remove an entry if it exists."""
        shutil.rmtree(self.path_of(facts), ignore_errors=True)

    def quarantine(
        self, facts: Mapping[str, str], reason: str, *, is_refused: bool = False
    ) -> None:
        """Move an entry aside so that it is built again; it stays there for inspection.

        is_refused: the entry is whole but wrong, and so will be the next one: see refusal.
        """
        entry = self.path_of(facts)
        quarantined = entry.with_name(entry.name + _QUARANTINE)
        _LOGGER.warning("The engine %s is put aside as %s: %s.", entry, quarantined.name, reason)
        try:
            _remove(quarantined)
            entry.rename(quarantined)
            self.warnings["engine_rebuilt"] = f"{entry.name} was put aside: {reason}"
            if is_refused:
                write_atomically(quarantined / _REFUSAL, reason.encode())
        except OSError as error:
            _LOGGER.warning("It cannot be moved (%s).", error.strerror)

    def refusal(self, facts: Mapping[str, str]) -> str:
        """Return why the entry of these facts was refused when last built; empty if it was not."""
        entry = self.path_of(facts)
        try:
            quarantined = entry.with_name(entry.name + _QUARANTINE)
            return read_regular(quarantined / _REFUSAL, _MAX_TEXT_BYTES).decode()
        except (OSError, ValueError):
            return ""

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold an entry's lock among all processes; it ends with the process that holds it."""
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            self.check_owner()
            # Neither through a link nor with truncation: the lock may lead to any file.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(self.folder / f".{name}.lock", flags, 0o600)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise CacheError(
                f"The engine cache {self.folder} cannot be written ({error.strerror or error}):"
                " make room or set XDG_CACHE_HOME to a writable folder."
            ) from error

    @contextmanager
    def _work(self, name: str) -> Iterator[Path]:
        """Yield a temporary folder to the holder of the lock; removed in the end."""
        prefix = f".{name}.work."
        for stale in self.folder.glob(f"{prefix}*"):  # of killed processes
            _remove(stale)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def check_owner(self) -> None:
        """Raise CacheError for a folder in which another user may have put something.

        Such a folder is not repaired: what is in it already would be trusted then. OSError if it
        cannot be looked at.
        """
        state = self.folder.lstat()
        trouble = ""
        if stat.S_ISLNK(state.st_mode):
            trouble = f"is a link to {self.folder.resolve()}"
        elif state.st_uid != os.geteuid():
            trouble = "belongs to another user"
        elif state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            trouble = f"may be written by others (mode {stat.S_IMODE(state.st_mode):o})"
        if trouble:
            raise CacheError(
                f"The engine cache {self.folder} {trouble}, so others could have put code into"
                " it: remove it, or set XDG_CACHE_HOME to a folder of your own."
            )
        if stat.S_IMODE(state.st_mode) & 0o077:
            self.folder.chmod(0o700)  # others could read it: no harm is done yet


@functools.cache
def _private_folder() -> Path:
    """Make a folder for this process alone, removed at its end, for use when the cache cannot be.

    OSError if there is no room for it either.
    """
    folder = Path(tempfile.mkdtemp(prefix="siglip_perception_engines_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link, itself and not what it leads to, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Write the files' digests and flush everything to the disk."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
        if path.is_file():
            digests[path.relative_to(folder).as_posix()] = sha256(path)
            _sync(path)
    (folder / _DIGESTS).write_text(json.dumps(digests, indent=2))
    (folder / _DIGESTS).chmod(0o600)
    _sync(folder / _DIGESTS)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _find_damage(folder: Path) -> str:
    """Describe what is wrong with an entry; empty if nothing is."""
    try:
        paths = {".": folder} | {
            path.relative_to(folder).as_posix(): path for path in folder.rglob("*")
        }
        for name, path in paths.items():
            if trouble := _find_intrusion(path):
                return f"{path if name == '.' else name} {trouble}"
        digests = json.loads(read_regular(folder / _DIGESTS, _MAX_TEXT_BYTES))
        if not isinstance(digests, dict) or not digests:
            return f"{_DIGESTS} names no files"
        for name, path in paths.items():
            if not path.is_dir() and name not in (*digests, _DIGESTS):
                return f"{name} was put there, for {_DIGESTS} does not name it"
        for name, digest in digests.items():
            if name not in paths:
                return f"{name} is missing"
            if sha256(paths[name]) != digest:
                return f"{name} is not what was built"
    except (OSError, ValueError, RecursionError) as error:
        return f"{error}"
    return ""


def _find_intrusion(path: Path) -> str:
    """Say why a file or folder of an entry cannot be this user's own; empty if it can."""
    state = path.lstat()
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        return "is neither a file nor a folder"
    if state.st_uid != os.geteuid():
        return "belongs to another user"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "may be written by others"
    return ""
