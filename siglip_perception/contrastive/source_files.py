"""Image files with a caption each: a text file beside the image, or a table of captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception.contrastive.sources import (
    IMAGE_SUFFIXES,
    BrokenPairError,
    Pair,
    SourceError,
    clean_caption,
    decode,
)

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
# Names that Hugging Face's image folders, open_clip's tables and common data sets use.
IMAGE_COLUMNS = ("file_name", "image", "image_path", "filepath", "filename", "path")
CAPTION_COLUMNS = ("caption", "text", "title", "sentence")


@dataclass(frozen=True)
class FileSource:
    """images: each image's path. captions: for each, its text, or the file that holds it."""

    images: tuple[Path, ...]
    captions: tuple[Path | str, ...]
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Pair:
        path, caption = self.images[index], self.captions[index]
        name = str(path)
        if isinstance(caption, Path):
            text = clean_caption(name, _bytes(name, caption, "caption unreadable"))
        else:
            text = clean_caption(name, caption) if caption else ""
        return Pair(decode(name, _bytes(name, path, "image unreadable")), text)


def _bytes(name: str, path: Path, reason: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenPairError(name, reason, error.strerror or "") from error


def open_folder(folder: Path, captioned: bool) -> FileSource:
    """Every JPEG and PNG at or below the folder with its .txt, cup.jpg with cup.txt, by name.

    captioned: whether an image needs its text; without one it is counted, not taken.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not captioned:
        return FileSource(tuple(found), ("",) * len(found), {})
    beside = [(path, path.with_suffix(".txt")) for path in found]
    paired = [(path, text) for path, text in beside if text.is_file()]
    if found and not paired:
        raise SourceError(
            f"No image in {folder} has a caption: put cup.txt beside cup.jpg, or name a table of"
            " captions (.csv, .tsv or .jsonl)."
        )
    missing = len(found) - len(paired)
    return FileSource(
        tuple(path for path, _ in paired),
        tuple(text for _, text in paired),
        {"without caption": missing} if missing else {},
    )


def open_table(table: Path, captioned: bool) -> FileSource:
    """A row a pair: CSV or TSV with a header, or JSON lines; paths relative to the table."""
    images: list[Path] = []
    captions: list[Path | str] = []
    broken = 0
    for row in _rows(table):
        image, caption = (
            next((row[name] for name in names if row.get(name)), None)
            for names in (IMAGE_COLUMNS, CAPTION_COLUMNS)
        )
        if not isinstance(image, str) or (captioned and not isinstance(caption, str)):
            broken += 1
            continue
        images.append(table.parent / image)
        captions.append(str(caption) if captioned else "")
    if broken and not images:
        raise SourceError(
            f"No row of {table} names an image and a caption: call the columns"
            f" {' or '.join(IMAGE_COLUMNS)}, and {' or '.join(CAPTION_COLUMNS)}."
        )
    return FileSource(tuple(images), tuple(captions), {"broken row": broken} if broken else {})


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    """The rows as dictionaries; {} for one that is none."""
    try:
        with table.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            if table.suffix.lower() == ".jsonl":
                for line in file:
                    if line.strip():
                        yield _json_row(line)
                return
            dialect = "excel-tab" if table.suffix.lower() == ".tsv" else "excel"
            yield from csv.DictReader(file, dialect=dialect)
    except (OSError, csv.Error) as error:
        raise SourceError(f"The table {table} cannot be read ({error}).") from error


def _json_row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}
