"""`make demo`, as its user runs it: real processes that talk over ROS 2."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from watching import isolated, running

pytestmark = pytest.mark.slow


def demo(out: Path) -> list[str]:
    return [sys.executable, "-m", "siglip_perception.commands.main", "demo", "--out", str(out)]


def family(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_demo_finds_the_objects_and_accounts_for_every_frame(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with running(demo(out), isolated(tmp_path), tmp_path) as process:
        process.wait_for_line(r"policy \| .*324 x \d+ tabletop tokens; \"", timeout_s=120)
        match = process.wait_for_line(r"(\d+) played, (\d+) lost .* (\d+) received", timeout_s=120)
        frame_count, lost_count, received_count = map(int, match.groups())
        assert frame_count == lost_count + received_count == 320
        process.wait_for_line(r"p50 [\d.]+ ms, p99 [\d.]+ ms")
        assert process.popen.wait(timeout=60) == 0
    assert json.loads((out / "results.json").read_text())["tokens"]
    with Image.open(out / "sheet.png") as sheet, Image.open(out / "overlay.webp") as moving:
        assert sheet.width > 1000
        assert getattr(moving, "n_frames", 1) > 10


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    with running(demo(tmp_path / "demo"), isolated(tmp_path), tmp_path) as process:
        process.wait_for_line(r"the node is active; playing", timeout_s=120)
        children = family(process.popen.pid)
        assert len(children) == 3
        assert process.interrupt() == 130
        for child in children:
            assert not Path(f"/proc/{child}").exists()


def test_a_model_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    command = [*demo(tmp_path / "demo"), "--model", str(tmp_path / "none")]
    with running(command, isolated(tmp_path), tmp_path) as process:
        process.wait_for_line(
            rf"siglip-perception: There is no model folder "
            rf"'{re.escape(os.fspath(tmp_path / 'none'))}': give a folder",
            timeout_s=120,
        )
        assert process.popen.wait(timeout=30) == 2
    assert not (tmp_path / "demo").exists()
