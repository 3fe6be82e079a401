"""Find image files by the names that a data set gives them, even if the files were moved."""

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
"""Maximum number of files to search: the table may lie in a home folder with everything else."""

_DRIVE = re.compile(r"[A-Za-z]:(?=/)")


class FileNameError(Exception):
    """A name that matches no file, or more than one; it is counted under `reason`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason = reason
        self.detail = detail


class FileFinder:
    """Finds files in and below a folder by the names that a data set gives them.

    Tries the name as it is, then with / for \\, then without URL encoding (%20). If there is no
    such file, searches all files below the folder, in any Unicode form and finally in any case,
    for a path that ends with the name (images lie a folder deeper, in images/) or a path that the
    name ends with (the name has another machine's folders, or is a URL). A file that shares only
    the base name is a different image and does not match.
    outside: names may lead out of the folder, through .. or as absolute paths.
    """

    def __init__(self, folder: Path, outside: bool = False) -> None:
        self.folder = folder
        self._outside = outside

    def find(self, name: str) -> Path:
        """Return the file of that name; raise FileNameError for none or several."""
        if not name.strip():
            raise FileNameError("picture without a name")
        if "\0" in name:
            raise FileNameError("picture with a NUL in its name")
        leads_out = False
        for spelling in _spellings(name):
            is_absolute = spelling.startswith("/")
            path = Path(spelling) if is_absolute else self.folder / spelling
            may_lead_out = is_absolute or ".." in spelling.split("/")
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
        """List paths below the folder, as spelled on disk, that the name may refer to."""
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
        """Index of all files below the folder: relative paths by case-folded base name."""
        index: dict[str, list[str]] = {}
        for path in islice(files_below(self.folder), _MOST_FILES):
            relative = os.path.relpath(path, self.folder)
            index.setdefault(_parts(path.name, True)[0], []).append(relative)
        return index


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file in and below the folder, sorted; follows each linked folder once."""
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
    """Normalize a name to Unicode NFC: macOS writes file names in NFD."""
    return unicodedata.normalize("NFC", name)


def _spellings(name: str) -> list[str]:
    """List possible spellings of the name as a path with /, most likely first."""
    slashes = name.replace("\\", "/")
    spellings = [name, slashes, unquote(slashes)]
    if "://" in slashes:
        with suppress(ValueError):  # a malformed IPv6 address
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
