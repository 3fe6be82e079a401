"""On-disk cache of engines and graphs: an entry is whole and verified, or absent.

An entry is a folder named by the hash of everything that it depends on; change any of that and it
is another entry. It is built in a temporary folder and renamed into place, so that a kill leaves
no half entry, and its files are checked against their SHA-256 before use. Only the owner may read
the
folder: engines are code.
"""

from __future__ import annotations

import fcntl
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

from siglip_perception.errors import BackendError

_LOGGER = logging.getLogger(__name__)
_DIGESTS = "digests.json"
_FACTS = "facts.json"
_QUARANTINE = ".bad"
_REFUSAL = "refused.txt"


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
    """Entries below a folder, which is created with the first one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or root()

    def path_of(self, facts: Mapping[str, str]) -> Path:
        """Return the path of the entry of these facts, whether it exists or not."""
        content = json.dumps(dict(facts), sort_keys=True).encode()
        return self.folder / hashlib.sha256(content).hexdigest()[:32]

    def get(self, facts: Mapping[str, str]) -> Path | None:
        """Return the entry's folder, its files verified; None if there is no entry.

        A damaged entry is quarantined and the log says why. Raises BackendError if others may
        write to the cache.
        """
        entry = self.path_of(facts)
        try:
            if not entry.is_dir():
                return None
            self._check_owner()
        except OSError as error:
            raise BackendError(
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
        BackendError if the folder cannot be written. Errors of `make` pass through, and its files
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
        BackendError if the folder cannot be written or the disk is full.
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
            shutil.rmtree(quarantined, ignore_errors=True)
            entry.rename(quarantined)
            if is_refused:
                (quarantined / _REFUSAL).write_text(reason)
        except OSError as error:
            _LOGGER.warning("It cannot be moved (%s).", error.strerror)

    def refusal(self, facts: Mapping[str, str]) -> str:
        """Return why the entry of these facts was refused when last built; empty if it was not."""
        entry = self.path_of(facts)
        try:
            return entry.with_name(entry.name + _QUARANTINE).joinpath(_REFUSAL).read_text()
        except (OSError, ValueError):
            return ""

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold an entry's lock among all processes; it ends with the process that holds it."""
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._check_owner()
            with (self.folder / f".{name}.lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise BackendError(
                f"The engine cache {self.folder} cannot be written ({error.strerror or error}):"
                " make room or set XDG_CACHE_HOME to a writable folder."
            ) from error

    @contextmanager
    def _work(self, name: str) -> Iterator[Path]:
        """Yield a temporary folder to the holder of the lock; removed in the end."""
        prefix = f".{name}.work."
        for stale in self.folder.glob(f"{prefix}*"):  # of killed processes
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _check_owner(self) -> None:
        """Refuse a folder that another user can write to: engines are code."""
        state = self.folder.stat()
        if state.st_uid != os.geteuid():
            raise BackendError(
                f"The engine cache {self.folder} belongs to another user, who could put code into"
                " it: set XDG_CACHE_HOME to a folder of your own."
            )
        if stat.S_IMODE(state.st_mode) & 0o077:
            self.folder.chmod(0o700)


def _seal(folder: Path) -> None:
    """Write the files' digests and flush everything to the disk."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digests[str(path.relative_to(folder))] = _digest(path)
            _sync(path)
    (folder / _DIGESTS).write_text(json.dumps(digests, indent=2))
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
        digests = json.loads((folder / _DIGESTS).read_text())
        if not isinstance(digests, dict) or not digests:
            return f"{_DIGESTS} names no files"
        for name, digest in digests.items():
            if _digest(folder / str(name)) != digest:
                return f"{name} is not what was built"
    except (OSError, ValueError) as error:
        return f"{error}"
    return ""


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
