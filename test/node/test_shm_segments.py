"""Shared memory of killed nodes: removed if it is provably ours and dead, and nothing else."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from siglip_perception.node.shm_segments import SegmentRecord, remove_leftovers

OURS, LIVE = "fastrtps_0123456789abcdef", "fastrtps_1111111111111111"


def segment(folder: Path, name: str) -> None:
    (folder / name).write_bytes(bytes(64))
    (folder / f"{name}_el").touch()


def dead_record(folder: Path, *names: str) -> Path:
    record = folder / f"siglip_perception_{os.geteuid()}_999999"
    record.write_text("\n".join(names))
    return record


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_dead_nodes_segments_are_removed(tmp_path: Path) -> None:
    segment(tmp_path, OURS)
    dead_record(tmp_path, OURS)
    assert remove_leftovers(tmp_path) == [OURS]
    assert names_in(tmp_path) == set()


def test_segments_that_nobody_recorded_are_left(tmp_path: Path) -> None:
    segment(tmp_path, OURS)
    assert remove_leftovers(tmp_path) == []
    assert names_in(tmp_path) == {OURS, f"{OURS}_el"}


def test_a_segment_in_use_is_left(tmp_path: Path) -> None:
    segment(tmp_path, LIVE)
    dead_record(tmp_path, LIVE)
    with (tmp_path / f"{LIVE}_el").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_leftovers(tmp_path) == []
    assert LIVE in names_in(tmp_path)


@pytest.mark.parametrize("name", ["../precious", "/etc/passwd", "precious", f"{OURS}/../precious"])
def test_a_record_cannot_name_anything_else(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shm"
    folder.mkdir()
    for place in (tmp_path, folder):
        segment(place, "precious")
    dead_record(folder, name)
    assert remove_leftovers(folder) == []
    assert "precious" in names_in(folder) & names_in(tmp_path)


def test_links_are_left_and_never_followed(tmp_path: Path) -> None:
    folder = tmp_path / "shm"
    folder.mkdir()
    segment(tmp_path, OURS)
    (folder / OURS).symlink_to(tmp_path / OURS)
    (folder / f"{OURS}_el").touch()
    dead_record(folder, OURS)
    assert remove_leftovers(folder) == []
    assert (tmp_path / OURS).exists()
    (folder / f"siglip_perception_{os.geteuid()}_1").symlink_to(tmp_path / OURS)
    assert remove_leftovers(folder) == []


def test_another_users_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment(tmp_path, OURS)
    record = dead_record(tmp_path, OURS)
    user = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: user + 1)
    record.rename(tmp_path / f"siglip_perception_{user + 1}_999999")
    assert remove_leftovers(tmp_path) == []
    assert OURS in names_in(tmp_path)


def test_a_living_nodes_record_is_held_and_its_own_end_removes_it(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 rw-s 0 00:18 1 /dev/shm/{OURS}\n7f02 r-xp 0 /usr/lib/x.so\n")
    segment(tmp_path, OURS)
    record = SegmentRecord(tmp_path, maps)
    assert remove_leftovers(tmp_path) == []
    file = tmp_path / f"siglip_perception_{os.geteuid()}_{os.getpid()}"
    assert file.read_text() == OURS
    record.close()
    assert not file.exists()
    assert OURS in names_in(tmp_path)
