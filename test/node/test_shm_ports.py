"""Ports of killed nodes: held while somebody writes to them, so that nobody receives there."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from siglip_perception.node.shm_ports import DeadPorts

PORT = "fastrtps_port7411"


@contextmanager
def holding(folder: Path, maps: str) -> Iterator[DeadPorts]:
    """Dead ports of a machine with one process, which has this mapped."""
    process = folder / "proc" / "17"
    process.mkdir(parents=True)
    (process / "maps").write_text(f"7f00-7f01 rw-s 00000000 00:18 1      {maps}\n")
    ports = DeadPorts(folder, folder / "proc")
    try:
        yield ports
    finally:
        ports.close()


def is_locked(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@pytest.mark.parametrize("name", [PORT, "fastdds_port7411"])
def test_a_dead_port_that_somebody_writes_to_is_held_until_the_end(
    tmp_path: Path, name: str
) -> None:
    lock = tmp_path / f"{name}_el"
    lock.touch()
    with holding(tmp_path, f"/dev/shm/{name}") as ports:
        assert ports.held == [name]
        assert is_locked(lock)
    assert not is_locked(lock)


def test_a_removed_port_that_somebody_writes_to_is_held(tmp_path: Path) -> None:
    with holding(tmp_path, f"/dev/shm/{PORT} (deleted)") as ports:
        assert ports.held == [PORT]
        assert is_locked(tmp_path / f"{PORT}_el")


def test_a_port_in_use_and_one_that_nobody_writes_to_are_left(tmp_path: Path) -> None:
    (tmp_path / "fastrtps_port7413_el").touch()
    with (tmp_path / f"{PORT}_el").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with holding(tmp_path, f"/dev/shm/{PORT}") as ports:
            assert ports.held == []


def test_a_port_of_many_readers_is_left(tmp_path: Path) -> None:
    with holding(tmp_path, f"/dev/shm/{PORT}") as ports:
        assert ports.held == []
        assert not (tmp_path / f"{PORT}_el").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / f"{PORT}_el").symlink_to(tmp_path / "precious")
    with holding(tmp_path, f"/dev/shm/{PORT}") as ports:
        assert ports.held == []
        assert not is_locked(tmp_path / "precious")
