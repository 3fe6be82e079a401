"""Errors for a ROS 2 that is missing, for another Python, too old, or without the messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from siglip_perception import programs
from siglip_perception.commands import main
from siglip_perception.util import ros, ros_probe

ROOT = Path(__file__).resolve().parents[2]
NEW_NODE = "class Node:\n    def add_post_set_parameters_callback(self): ...\n"


RCLPY = {
    "rclpy/__init__.py": "",
    "rclpy/node.py": NEW_NODE,
    "rclpy/_rclpy_pybind11.py": "",
    "rclpy/type_support.py": "def check_for_type_support(kind): ...\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide ROS 2 from child processes: neither sourced nor in site-packages."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("ROS_DISTRO", "AMENT_PREFIX_PATH"):
        monkeypatch.delenv(name, raising=False)
    real = subprocess.run

    def without_site(command: list[str], **options: Any) -> Any:
        return real([command[0], "-S", *command[1:]], **options)

    monkeypatch.setattr(subprocess, "run", without_site)


def source(monkeypatch: pytest.MonkeyPatch, folder: Path, distribution: str = "") -> None:
    """Source a fake ROS 2 whose Python packages are in that folder."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{folder}")
    if distribution:
        monkeypatch.setenv("ROS_DISTRO", distribution)


def refusal() -> str:
    with pytest.raises(ros.RosError) as excinfo:
        ros.require("The demo")
    return str(excinfo.value)


def test_no_ros_at_all(bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clone's folder of message sources does not count as the package."""
    assert main.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    text = capsys.readouterr()
    assert text.out == ""
    assert text.err.startswith("siglip-perception: The demo needs rclpy, which is part of ROS 2")
    assert "or run `make demo`" in text.err
    assert text.err.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_a_ros_for_another_python_is_told(
    bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "lib" / "python3.9" / "site-packages"
    write(folder, {"rclpy/__init__.py": ""})
    source(monkeypatch, folder)
    text = refusal()
    assert f"{folder}/rclpy has for Python 3.9, and this is Python 3." in text
    assert f"({sys.executable}): use python3.9, or source" in text
    # Sourced, but not on PYTHONPATH: as in a shell that has set it anew.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert f"{folder}/rclpy has for Python 3.9" in refusal()


def test_humble_is_too_old(bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, {**RCLPY, "rclpy/node.py": "class Node: ..."})
    source(monkeypatch, tmp_path, "humble")
    assert refusal().startswith(
        "The demo needs ROS 2 Jazzy or newer, and the rclpy of humble is older: source a newer one"
    )


def test_messages_that_are_not_built_or_do_not_load(
    bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path, RCLPY)
    source(monkeypatch, tmp_path, "jazzy")
    assert refusal().endswith(
        "needs builtin_interfaces, which the sourced ROS 2 jazzy lacks:"
        " sudo apt install ros-jazzy-builtin-interfaces."
    )
    other_parts = [part for part in ros_probe.PARTS[1:] if part != "siglip_perception_msgs"]
    write(tmp_path, {f"{part}/__init__.py": "" for part in other_parts})
    assert "siglip_perception_msgs, which is not built, or not sourced: build it" in refusal()
    messages_package = {"__init__.py": "", "msg.py": "TokenSequence = None"}
    write(
        tmp_path,
        {f"siglip_perception_msgs/{name}": text for name, text in messages_package.items()},
    )
    failing_check = "def check_for_type_support(kind): raise RuntimeError('no C part.')"
    write(tmp_path, {"rclpy/type_support.py": failing_check})
    assert "(RuntimeError: no C part): build it again with colcon" in refusal()
    write(tmp_path, RCLPY)
    ros.require("The demo")


def test_a_part_that_ends_python_is_told(
    bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path, {"rclpy/__init__.py": "import os; os.abort()"})
    source(monkeypatch, tmp_path)
    assert "cannot import (it ends Python)" in refusal()


@pytest.mark.parametrize("program", ["perception_node", "example_policy"])
def test_programs_without_ros_say_so(
    program: str,
    bare: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raise_missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")

    monkeypatch.setattr("importlib.import_module", raise_missing)
    assert getattr(programs, program)() == 2
    text = capsys.readouterr().err
    assert text.startswith(f"{program}: The {program.replace('_', ' ')} needs rclpy, which is")
    assert text.count("\n") == 1


def test_a_fault_of_a_program_is_not_taken_for_a_missing_ros(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raise_missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'siglip_perception.x'", name="x")

    monkeypatch.setattr("importlib.import_module", raise_missing)
    monkeypatch.setattr(ros, "require", lambda use: None)
    with pytest.raises(ModuleNotFoundError):
        programs.perception_node()
