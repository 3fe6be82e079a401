"""Image files with captions, and folders where a text file lies beside each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siglip_perception.contrastive.data.sources import (
    BrokenPairError,
    Pair,
    SourceError,
    make_pair,
    read_captions,
)
from siglip_perception.datasets.file_names import (
    FileFinder,
    FileNameError,
    files_below,
    same_form,
)
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.images.files import read_image
from siglip_perception.images.formats import SUFFIXES

CAPTION_SUFFIXES = (".txt", ".caption")
_UNREAD_IMAGES = frozenset(
    (
        *(
            ".avif",
            ".heic",
            ".heif",
            ".jxl",
            ".jp2",
            ".j2k",
            ".exr",
            ".hdr",
            ".svg",
            ".eps",
            ".psd",
        ),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"),
    )
)
_OTHER_DATA = frozenset((".csv", ".tsv", ".jsonl", ".ndjson", ".tar"))
_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))

ImageFile = Path | str
"""An image's path, or a name for the source's finder to resolve."""

Captions = tuple[str, ...] | Path
"""An image's captions, or the file that holds them; () if captions are not needed."""


@dataclass(frozen=True)
class FileSource:
    """Pairs in image files. images, captions: one each per pair. finder: resolves image names."""

    images: Sequence[ImageFile]
    captions: Sequence[Captions]
    finder: FileFinder
    report: SkipReport

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, epoch: int = 0) -> Pair:
        image, captions = self.images[index], self.captions[index]
        name = str(image)
        try:
            path = image if isinstance(image, Path) else self.finder.find(image)
        except FileNameError as error:
            raise BrokenPairError(name, error.reason, error.detail) from error
        if isinstance(captions, Path):
            captions = tuple(read_captions(str(captions), _text(captions)))
        try:
            picture = read_image(path)
        except PerceptionError as error:
            reason = error.reason if isinstance(error, ImageError) else "unreadable"
            detail = str(error).removeprefix(f"{path}: ")
            raise BrokenPairError(name, f"image {reason}", detail) from error
        return make_pair(name, picture, captions, epoch)


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenPairError(str(path), "caption unreadable", error.strerror or "") from error


def open_folder(folder: Path, captioned: bool, strict: bool = False) -> FileSource:
    """Pair every image in or below the folder with its caption file, as cup.jpg with cup.txt.

    A caption file holds one caption per line. captioned: skip images without captions.
    Raises SourceError if no image has captions.
    """
    report = SkipReport(strict)
    images: list[Path] = []
    tables: list[Path] = []
    texts: dict[str, Path] = {}
    for path in sorted(files_below(folder)):
        kind = path.suffix.lower()
        relative = path.relative_to(folder)
        if path.name.lower() in _SYSTEM_FILES or any(p.startswith(".") for p in relative.parts):
            report.note("hidden or a system's file", str(path))
        elif kind in SUFFIXES or kind in CAPTION_SUFFIXES:
            if not os.path.isfile(path):  # noqa: PTH113 - as FileFinder does it
                reason = "a link to nothing" if path.is_symlink() else "neither file nor folder"
                report.skip("file unreadable", str(path), reason)
            elif kind in SUFFIXES:
                images.append(path)
            else:
                _take_first(texts, path)
        elif kind in _UNREAD_IMAGES:
            report.skip(f"image of a kind that is not read ({kind})", str(path))
        else:
            if kind in _OTHER_DATA:
                tables.append(path)
            report.note("neither an image nor a caption", str(path))
    if not captioned:
        return FileSource(images, [()] * len(images), FileFinder(folder), report)
    pairs: list[tuple[Path, Path]] = []
    for image in images:
        # Most tools write cup.txt, some cup.jpg.txt.
        keys = (same_form(str(image.with_suffix(""))), same_form(str(image)))
        text = next((texts[key] for key in keys if key in texts), None)
        if text is None:
            report.skip("image without a caption", str(image))
        else:
            pairs.append((image, text))
    if not pairs and (images or tables):
        example = f", such as {tables[0]}" if tables else ""
        raise SourceError(
            f"No image in {folder} has a caption: put cup.txt beside cup.jpg, or name a table of"
            f" captions (.csv, .tsv or .jsonl), or shards{example}."
        )
    used_texts = {text for _, text in pairs}
    for text in texts.values():
        if text not in used_texts:
            report.note("text without an image", str(text))
    return FileSource(
        [image for image, _ in pairs], [text for _, text in pairs], FileFinder(folder), report
    )


def _take_first(texts: dict[str, Path], path: Path) -> None:
    """Store a caption file by its stem; .txt wins over .caption."""
    key = same_form(str(path.with_suffix("")))
    current = texts.get(key)
    if current is None or _rank(path) < _rank(current):
        texts[key] = path


def _rank(path: Path) -> int:
    return CAPTION_SUFFIXES.index(path.suffix.lower())
