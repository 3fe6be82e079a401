"""From the name that a data set has for a picture to the file, however people moved it about."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

_MOST_FILES = 1_000_000
"""Files that are looked at for a name: the table may lie in somebody's home, with all else."""

_DRIVE = re.compile(r"[A-Za-z]:(?=/)")


class FileNameError(Exception):
    """A name for which there is no file, or more than one; `reason` is what to count it under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason = reason
        self.detail = detail


class FileFinder:
    """Finds files in and below a folder by the names that a data set has for them.

    A name is tried as it is; with / for \\; without its URL coding (%20). Where there is no such
    file, all files below the folder are looked at, in any Unicode form and, last, in any case: one
    whose path ends as the name does (the pictures lie a folder deeper, in images/), or whose whole
    path ends the name (the name has the folders of another machine, or is a URL). A file that
    only shares its last part with the name is another picture, and is not taken.
    outside: names may lead out of the folder, by .. or as absolute paths.
    """

    def __init__(self, folder: Path, outside: bool = False) -> None:
        self.folder = folder
        self._outside = outside

    def find(self, name: str) -> Path:
        """The file of that name; FileNameError where there is none, or more than one."""
        if not name.strip():
            raise FileNameError("picture without a name")
        if "\0" in name:
            raise FileNameError("picture with a NUL in its name")
        leads_out = False
        for spelling in _spellings(name):
            rooted = spelling.startswith("/")
            path = Path(spelling) if rooted else self.folder / spelling
            may_lead_out = rooted or ".." in spelling.split("/")
            if may_lead_out and not self._outside and not _lies_in(path, self.folder):
                leads_out = True
                continue
            if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for names that are too long
                return path
        matches = self._matches(name)
        if len(matches) == 1:
            return self.folder / matches[0]
        if matches:
            raise FileNameError("picture found more than once", f"{matches[0]} and {matches[1]}")
        if leads_out:
            raise FileNameError("picture outside of its folder", f"not in {self.folder}")
        raise FileNameError("picture missing", f"not in {self.folder}")

    def _matches(self, name: str) -> list[str]:
        """Paths below the folder, as spelled there, that the name may mean."""
        for fold in (False, True):
            matches = {
                path: None
                for spelling in _spellings(name)
                for path in self._of_parts(_parts(spelling, fold), fold)
            }
            if matches:
                return list(matches)
        return []

    def _of_parts(self, name: tuple[str, ...], fold: bool) -> list[str]:
        if not name:
            return []
        matches = []
        for path in self._by_last_part.get(_parts(name[-1], True)[0], ()):
            parts = _parts(path, fold)
            common = min(len(parts), len(name))
            if parts[-common:] == name[-common:]:
                matches.append(path)
        return matches

    @cached_property
    def _by_last_part(self) -> dict[str, list[str]]:
        """Every file below the folder, as a relative path, by the folded last part of it."""
        index: dict[str, list[str]] = {}
        for path in islice(files_below(self.folder), _MOST_FILES):
            relative = os.path.relpath(path, self.folder)
            index.setdefault(_parts(path.name, True)[0], []).append(relative)
        return index


def files_below(folder: Path) -> Iterator[Path]:
    """Every file in and below the folder, by name; links to folders are followed, once each."""
    real_folders: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in real_folders:
            folders.clear()
            continue
        real_folders.add(real)
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def same_form(name: str) -> str:
    """The name in Unicode's form NFC: a Mac writes its files' names in NFD."""
    return unicodedata.normalize("NFC", name)


def _spellings(name: str) -> list[str]:
    """What the name may be as a path with /, the likeliest first."""
    slashes = name.replace("\\", "/")
    spellings = [name, slashes, unquote(slashes)]
    if "://" in slashes:
        with suppress(ValueError):  # of an IPv6 address that is none
            spellings.append(unquote(urlsplit(slashes).path))
    bare = [_DRIVE.sub("", spelling, count=1) for spelling in spellings]
    return [spelling for spelling in dict.fromkeys(bare) if spelling and "\0" not in spelling]


def _parts(path: str, fold: bool) -> tuple[str, ...]:
    form = same_form(path)
    parts = (form.casefold() if fold else form).split("/")
    return tuple(part for part in parts if part not in ("", ".", ".."))


def _lies_in(path: Path, folder: Path) -> bool:
    real = os.path.realpath(folder)
    return os.path.commonpath([real, os.path.realpath(path)]) == real
