"""Engines and graphs that were built once, kept on disk: whole, verified, or not at all.

An entry is a folder named by the hash of everything that it depends on; a change of any of these
is another entry. It is built beside its place and renamed, so that a kill leaves none half made,
and its files are held against their SHA-256 before they are used. Only its owner may read the
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
_REFUSED = "refused.txt"


def root() -> Path:
    """Where engines lie: below $XDG_CACHE_HOME, or ~/.cache; BackendError where there is none."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise BackendError(
            "There is no home folder to keep engines in: set XDG_CACHE_HOME to a folder."
        ) from error
    return base / "siglip_perception" / "engines"


class EngineCache:
    """Entries below a folder, which is made when the first is built."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or root()

    def place(self, facts: Mapping[str, str]) -> Path:
        """Where the entry of these facts lies, be it there or not."""
        content = json.dumps(dict(facts), sort_keys=True).encode()
        return self.folder / hashlib.sha256(content).hexdigest()[:32]

    def get(self, facts: Mapping[str, str]) -> Path | None:
        """The entry's folder, its files verified; None where there is none.

        One that is broken is put aside and the log says why. Raises BackendError where others
        may write to the cache.
        """
        place = self.place(facts)
        try:
            if not place.is_dir():
                return None
            self._guard()
        except OSError as error:
            raise BackendError(
                f"The engine cache {self.folder} cannot be read ({error.strerror}): set"
                " XDG_CACHE_HOME to a folder that can."
            ) from error
        trouble = _trouble(place)
        if trouble:
            self.quarantine(facts, trouble)
            return None
        return place

    def build(self, facts: Mapping[str, str], make: Callable[[Path], None]) -> Path:
        """The entry's folder; `make` fills it, in a temporary folder, where there is none yet.

        Of several processes that want the same entry one builds and the others wait. Raises
        BackendError where the folder cannot be written; what `make` raises comes through, and
        nothing is left of its work.
        """
        place = self.place(facts)
        with self._alone(place.name):
            found = self.get(facts)
            if found is not None:
                return found
            with self._work(place.name) as work:
                make(work)
                (work / _FACTS).write_text(json.dumps(dict(facts), indent=2))
                _seal(work)
                work.rename(place)
                _sync(self.folder)
        return place

    @contextmanager
    def scratch(self, facts: Mapping[str, str]) -> Iterator[Path]:
        """A folder to work in, gone afterwards: what a kill leaves of it the next caller removes.

        One process at a time has that of the same facts, which are to be no entry's. Raises
        BackendError where the folder cannot be written, or the disk is full.
        """
        name = self.place(facts).name
        with self._alone(name), self._work(name) as work:
            yield work

    def discard(self, facts: Mapping[str, str]) -> None:
        """Remove an entry, if it is there."""
        shutil.rmtree(self.place(facts), ignore_errors=True)

    def quarantine(self, facts: Mapping[str, str], why: str, *, refused: bool = False) -> None:
        """Put an entry aside, so that it is built anew; it stays to be looked at.

        refused: it is whole and does what it should not, as will the next: see refusal.
        """
        place = self.place(facts)
        bad = place.with_name(place.name + _QUARANTINE)
        _LOGGER.warning("The engine %s is put aside as %s: %s.", place, bad.name, why)
        try:
            shutil.rmtree(bad, ignore_errors=True)
            place.rename(bad)
            if refused:
                (bad / _REFUSED).write_text(why)
        except OSError as error:
            _LOGGER.warning("It cannot be moved (%s).", error.strerror)

    def refusal(self, facts: Mapping[str, str]) -> str:
        """Why the entry of these facts was refused, as last built; empty where it was not."""
        place = self.place(facts)
        try:
            return place.with_name(place.name + _QUARANTINE).joinpath(_REFUSED).read_text()
        except (OSError, ValueError):
            return ""

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Alone with the entry of that name, among all processes; the lock ends with its owner."""
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._guard()
            with (self.folder / f".{name}.lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise BackendError(
                f"The engine cache {self.folder} cannot be written ({error.strerror or error}):"
                " make room or set XDG_CACHE_HOME to a folder that can."
            ) from error

    @contextmanager
    def _work(self, name: str) -> Iterator[Path]:
        """A temporary folder of the one that is alone with that name, removed in the end."""
        prefix = f".{name}.work."
        for left in self.folder.glob(f"{prefix}*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _guard(self) -> None:
        """Engines are code: none is taken from a folder that another user can write to."""
        state = self.folder.stat()
        if state.st_uid != os.geteuid():
            raise BackendError(
                f"The engine cache {self.folder} belongs to another user, who could put code into"
                " it: set XDG_CACHE_HOME to a folder of your own."
            )
        if stat.S_IMODE(state.st_mode) & 0o077:
            self.folder.chmod(0o700)


def _seal(folder: Path) -> None:
    """Write the files' digests, and everything to the disk."""
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


def _trouble(folder: Path) -> str:
    """What is wrong with an entry, in words; empty where nothing is."""
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
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
