"""Skip reports: items are counted once and named, and merging loses nothing."""

from __future__ import annotations

import json

import pytest

from siglip_perception.datasets.skips import MAX_NAMES, SkipReport
from siglip_perception.errors import DatasetError


def test_an_item_counts_once_for_each_reason() -> None:
    report = SkipReport()
    assert report.lines() == []
    for _ in range(2):
        report.skip("too dark", "a.jpg", "mean 3")
        report.skip("too small", "a.jpg")
    for name in "bcde":
        report.skip("too dark", f"{name}.jpg")
    report.count("frame without words", 4)
    report.note("mended", "f.jpg")
    assert report.skip_counts == {"too dark": 5, "too small": 1, "frame without words": 4}
    assert (report.total, report.note_counts) == (10, {"mended": 1})
    assert report.first() == "a.jpg: too dark (mean 3)"
    assert report.lines() == [
        "left out: 10",
        "  too dark: 5",
        "    a.jpg (mean 3)",
        "    b.jpg",
        "    c.jpg",
        "    and 2 more",
        "  too small: 1",
        "    a.jpg",
        "  frame without words: 4",
        "remarks: 1",
        "  mended: 1",
        "    f.jpg",
    ]


def test_reports_merge_by_way_of_json() -> None:
    first, second = SkipReport(), SkipReport()
    first.skip("broken", "a")
    first.count("empty", 2)
    second.skip("broken", "a")
    second.skip("broken", "b", "why")
    second.count("empty", 3)
    first.merge(json.loads(json.dumps(second.as_json())))
    assert first.skip_counts == {"broken": 2, "empty": 5}
    assert first.names("broken") == ["a", "b"]


def test_names_end_and_counts_do_not() -> None:
    report = SkipReport()
    for number in range(MAX_NAMES + 5):
        report.skip("broken", str(number))
    assert report.total == MAX_NAMES + 5
    assert len(report.names("broken")) == MAX_NAMES


def test_strict_stops_at_the_first_in_one_printable_line() -> None:
    report = SkipReport(strict=True)
    report.note("mended", "a")
    with pytest.raises(DatasetError) as excinfo:
        report.skip("broken", "a\n\ud800\u202e.jpg", "x" * 1000)
    assert str(excinfo.value).isprintable()
    assert len(str(excinfo.value)) < 500
