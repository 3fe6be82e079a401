"""What `make env` decides before it installs anything."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by its name.
    sys.modules["environment"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(environment: ModuleType, tmp_path: Path) -> Any:
    return environment.Place(tmp_path / ".venv", ())


@pytest.fixture
def on_ros(environment: ModuleType, tmp_path: Path) -> Any:
    return environment.Place(tmp_path / ".venv", ("/opt/ros/jazzy",))


def test_without_a_sourced_ros_the_wheels_are_used(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    assert environment.find_ros() == ()


def test_an_environment_of_our_own_is_no_sourced_ros(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pyvenv.cfg").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert environment.find_ros() == ()


@pytest.mark.parametrize("importable", [True, False])
def test_a_sourced_ros_is_used_if_this_python_is_its_own(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, importable: bool
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    done = subprocess.CompletedProcess([], 0 if importable else 1)
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: done)
    if importable:
        assert environment.find_ros() == (str(tmp_path),)
    else:
        with pytest.raises(environment.SetupError, match="make PYTHON="):
            environment.find_ros()


def test_wheels_are_for_x86_64(
    environment: ModuleType, place: Any, on_ros: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    environment.check_machine(on_ros)
    with pytest.raises(environment.SetupError, match=r"source its setup\.bash"):
        environment.check_machine(place)


def test_a_compiler_is_asked_for(
    environment: ModuleType, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(environment.SetupError, match=r"apt install g\+\+"):
        environment.check_machine(place)


def test_on_a_sourced_ros_numpy_and_what_is_there_stay(
    environment: ModuleType, on_ros: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout='["1.26.4", ["Pillow", "ros_rclpy"]]')
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: answer)
    names = [line.partition("==")[0] for line in environment.constraints(on_ros).splitlines()]
    assert {"pillow", "ros-rclpy", "opencv-python-headless"}.isdisjoint(names)
    assert names.count("numpy") == 1
    assert "numpy==1.26.4" in environment.constraints(on_ros)
    assert "torch==2.13.0" in environment.constraints(on_ros)


def test_everything_pinned_without_a_ros(environment: ModuleType, place: Any) -> None:
    assert environment.constraints(place) == (ROOT / "constraints.txt").read_text()


def test_a_failed_step_shows_the_end_of_its_log(
    environment: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(environment.SetupError, match="exit code 3"):
        environment.run(command, tmp_path / "log" / "x.log", {})
    assert "the reason" in capsys.readouterr().out
