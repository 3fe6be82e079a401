"""Caption tables: CSV with any common separator, JSON lines, or a JSON list."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception.contrastive.data.source_files import Captions, FileSource, ImageFile
from siglip_perception.contrastive.data.sources import (
    BrokenPairError,
    SourceError,
    clean_caption,
)
from siglip_perception.datasets.file_names import FileFinder, FileNameError
from siglip_perception.datasets.skips import SkipReport, printable
from siglip_perception.datasets.texts import text_encoding
from siglip_perception.images.formats import SUFFIXES

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Suffixes that mark a caption table in a folder."""

NAMED_TABLE_SUFFIXES = (*TABLE_SUFFIXES, ".json", ".txt")
"""Suffixes that are read as a table if the user names the file."""

# Column names of Hugging Face image folders, open_clip tables and common data sets.
IMAGE_COLUMNS = (
    *("file_name", "image", "image_path", "filepath", "filename", "path"),
    *("image_name", "img", "img_path"),
)
CAPTION_COLUMNS = ("caption", "text", "title", "sentence", "captions", "sentences", "comment")
_SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_CHECKED_NOW = 100_000
"""Rows whose images are looked up when the table is opened; later rows are checked when read."""


@dataclass(frozen=True)
class _Row:
    """One row. name: table and line. values: by column name in lower case."""

    name: str
    values: dict[str, Any]


def open_table(table: Path, captioned: bool, strict: bool = False) -> FileSource:
    """Open a table with one pair per row: CSV with a header, JSON lines, or a JSON list.

    Image names are relative to the table's folder. Raises SourceError for an unknown format, an
    unclosed quote, or a table without a usable row.
    """
    report = SkipReport(strict)
    finder = FileFinder(table.parent, outside=True)
    images: list[ImageFile] = []
    captions: list[Captions] = []
    contents: set[int] = set()
    for row in _rows(table, captioned, report):
        image = _first(row.values, IMAGE_COLUMNS)
        caption = _first(row.values, CAPTION_COLUMNS) if captioned else ""
        if not isinstance(image, str):
            report.skip("row without an image", row.name)
            continue
        try:
            texts = _captions(row.name, caption) if captioned else ()
            content = hash((image, texts))
            if content in contents:
                report.skip("row listed twice", row.name, image)
                continue
            contents.add(content)
            location: ImageFile = finder.find(image) if len(images) < _CHECKED_NOW else image
        except BrokenPairError as error:
            report.skip(error.reason, error.name, error.detail)
        except FileNameError as error:
            report.skip(error.reason, row.name, image)
        else:
            images.append(location)
            captions.append(texts)
    if not images and report.total:
        raise SourceError(
            f"No row of {table} can be used ({report.first()}): call the columns"
            f" {' or '.join(IMAGE_COLUMNS)}, and {' or '.join(CAPTION_COLUMNS)}, and name pictures"
            f" relative to {table.parent}."
        )
    return FileSource(images, captions, finder, report)


def _first(values: dict[str, Any], columns: Iterable[str]) -> Any:
    return next((values[name] for name in columns if values.get(name)), None)


def _captions(name: str, value: Any) -> tuple[str, ...]:
    """Return one or more captions; raise BrokenPairError for anything else."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BrokenPairError(name, "row without a caption")
    return tuple(clean_caption(name, text) for text in texts)


def _rows(table: Path, captioned: bool, report: SkipReport) -> Iterator[_Row]:
    try:
        with table.open("rb") as file:
            encoding = text_encoding(file.read(4096))
        # surrogateescape does not work for UTF-16: broken text becomes U+FFFD there.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        with table.open(encoding=encoding, newline="", errors=errors) as lines:
            if table.suffix.lower() == ".json":
                yield from _json_list(table, lines.read(), report)
            elif table.suffix.lower() in (".jsonl", ".ndjson"):
                yield from _json_lines(table, lines, report)
            else:
                yield from _csv_rows(table, lines, captioned, report)
    except OSError as error:
        raise SourceError(f"The table {table} cannot be read ({error.strerror}).") from error


def _json_lines(table: Path, lines: Iterable[str], report: SkipReport) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name = f"{table.name}, line {number}"
            if not _is_utf8(line):
                report.skip("row not UTF-8", name, _latin(line))
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                report.skip("row is no JSON", name, str(error))
                continue
            yield from _json_row(name, row, report)


def _json_list(table: Path, text: str, report: SkipReport) -> Iterator[_Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"The table {table} is not JSON ({error}); JSON lines end in .jsonl."
        ) from error
    if not isinstance(rows, list):
        coco = isinstance(rows, dict) and "annotations" in rows
        kind = "COCO's annotations" if coco else "no list"
        raise SourceError(
            f"The table {table} is {kind}: give a list of objects with"
            f" {IMAGE_COLUMNS[0]} and {CAPTION_COLUMNS[0]}."
        )
    for number, row in enumerate(rows):
        yield from _json_row(f"{table.name}, row {number}", row, report)


def _json_row(name: str, row: Any, report: SkipReport) -> Iterator[_Row]:
    if isinstance(row, dict):
        yield _Row(name, {key.strip().lower(): value for key, value in row.items()})
    else:
        report.skip("row is no object", name)


class _Record:
    """Feeds lines to the CSV reader and remembers those of the current record."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.lines: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.lines.append(line)
        return line


def _csv_rows(
    table: Path, lines: Iterable[str], captioned: bool, report: SkipReport
) -> Iterator[_Row]:
    record = _Record(lines)
    first = next(record, "")
    separator, header = _header(table, first, captioned)
    # Without strict mode a stray quote silently swallows the rows that follow.
    reader = csv.reader(record, delimiter=separator, strict=True)
    image_column = next(header.index(name) for name in IMAGE_COLUMNS if name in header)
    while True:
        record.lines.clear()
        line = reader.line_num + 2  # the reader did not see the header
        name = f"{table.name}, line {line}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if len(record.lines) > 1 or "end of data" in str(error):
                raise SourceError(
                    f"{table}, line {line}: a quote opens here and is not closed where its field"
                    ' ends; double it ("") or take it out.'
                ) from error
            report.skip("row that is no CSV", name, str(error))
            continue
        if not any(row):
            continue
        if len(record.lines) > 1 and _takes_in_rows(record.lines, separator, image_column, header):
            raise SourceError(
                f"{table}, line {line}: a quote opens here and its text takes in other rows; close"
                ' it, double it ("") or take it out.'
            )
        text = separator.join(row)
        if not _is_utf8(text):
            report.skip("row not UTF-8", name, _latin(text))
        elif len(row) < len(header) or any(row[len(header) :]):
            detail = f"{len(row)}, and the header has {len(header)}"
            report.skip("row with another number of columns", name, detail)
        else:
            yield _Row(name, dict(zip(header, row, strict=False)))


def _header(table: Path, line: str, captioned: bool) -> tuple[str, list[str]]:
    """Detect the separator and the lower-case column names from the first line."""
    columns: list[str] = []
    for separator in _SEPARATORS:
        columns = [name.strip().lower() for name in _split(line, separator)]
        has_image = any(name in IMAGE_COLUMNS for name in columns)
        if has_image and (not captioned or any(name in CAPTION_COLUMNS for name in columns)):
            return separator, columns
    excerpt = printable(line.strip()[:80])
    for separator, word in _SEPARATORS.items():
        columns = _split(line, separator)
        if any(name.strip().lower().endswith(SUFFIXES) for name in columns):
            header = {",": "file_name,text", ";": "file_name;text", "|": "file_name|text"}
            raise SourceError(
                f"The table {table} has no header, its first line is data ({excerpt!r}): put the"
                f" columns' names before it, such as {header.get(separator, 'file_name<tab>text')}"
                f" ({word} between them)."
            )
    raise SourceError(
        f"The first line of {table} ({excerpt!r}) names no columns of images and captions: call"
        f" the columns {' or '.join(IMAGE_COLUMNS)}, and {' or '.join(CAPTION_COLUMNS)}."
    )


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _takes_in_rows(lines: list[str], separator: str, image_column: int, header: list[str]) -> bool:
    """Tell whether a line inside a multi-line record looks like a separate row."""
    for line in lines[1:]:
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) >= len(header):
            name = fields[image_column].strip().strip('"').lower()
            if name.endswith(SUFFIXES):
                return True
    return False


def _is_utf8(text: str) -> bool:
    """Tell whether the text was decoded without escaped or replaced bytes."""
    return not any("\udc80" <= c <= "\udcff" or c == "\ufffd" for c in text)


def _latin(text: str) -> str:
    """Show a row that is not UTF-8 as Latin-1, with advice."""
    data = text.encode("utf-8", "surrogateescape")
    return f"in Latin-1: {printable(data.decode('latin-1').strip()[:60])}; save it as UTF-8"
