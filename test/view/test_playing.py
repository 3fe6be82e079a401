"""The pace of a recording: what is a little late is shown, what is too late is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from siglip_perception.bags.recorder import ReplayOptions
from siglip_perception.view.open_source import open_source
from siglip_perception.view.playing import frame_to_show
from siglip_perception.view.source import RecordedSource


@pytest.mark.parametrize(
    ("due_s", "index"),
    [(0.3, 3), (0.44, 3), (0.46, 4), (60.0, 11)],
    ids=["in time", "late", "too late", "past the end"],
)
def test_of_ten_frames_a_second_the_first_in_time_is_shown(
    tmp_path: Path, due_s: float, index: int
) -> None:
    for number in range(12):
        (tmp_path / f"{number}.png").touch()
    source = open_source(str(tmp_path), ReplayOptions(), 10)
    assert isinstance(source, RecordedSource)
    assert frame_to_show(source, 3, due_s) == index
