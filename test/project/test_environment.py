"""Decisions of `make env` before it installs anything."""

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


@pytest.mark.parametrize("is_active", [True, False])
def test_an_environment_that_is_active_is_not_made_by_its_own_python(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_active: bool
) -> None:
    """`make` runs the first python3 on the PATH, which `venv --clear` then deleted."""
    base, own = tmp_path / "usr" / "python3.11", tmp_path / ".venv" / "bin" / "python3"
    for path in (base, own):
        path.parent.mkdir(parents=True)
    base.touch()
    own.symlink_to(base)
    calls: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(environment.os, "execv", lambda *call: calls.append(call))
    monkeypatch.setattr(sys, "executable", str(own if is_active else base))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / (".venv" if is_active else "usr")))
    monkeypatch.setattr(sys, "argv", ["environment.py", "--pip-args="])
    environment.leave(tmp_path / ".venv")
    assert calls == [(str(base), [str(base), *sys.argv])] * is_active


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
    monkeypatch.setattr(environment, "_fails", lambda code: not importable)
    if importable:
        assert environment.find_ros() == (str(tmp_path),)
    else:
        with pytest.raises(environment.SetupError, match="make PYTHON="):
            environment.find_ros()


def test_a_sourced_ros_that_is_older_than_jazzy_is_refused(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").touch()
    (tmp_path / "rclpy" / "node.py").write_text("class Node: ...\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(environment.SetupError, match="older than Jazzy"):
        environment.find_ros()


def test_wheels_are_for_x86_64(
    environment: ModuleType, place: Any, on_ros: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    environment.check_machine(on_ros)
    with pytest.raises(environment.SetupError, match=r"source its setup\.bash"):
        environment.check_machine(place)


@pytest.mark.parametrize("sourced", [True, False])
def test_a_compiler_is_asked_for(
    environment: ModuleType,
    place: Any,
    on_ros: Any,
    monkeypatch: pytest.MonkeyPatch,
    sourced: bool,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(environment.SetupError, match=r"apt install g\+\+"):
        environment.check_machine(on_ros if sourced else place)


def test_a_sourced_ros_needs_a_cmake(
    environment: ModuleType, place: Any, on_ros: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take cmake from PyPI without a ROS 2."""
    monkeypatch.setattr(
        shutil, "which", lambda name, **_: None if name == "cmake" else f"/usr/bin/{name}"
    )
    environment.check_machine(place)
    with pytest.raises(environment.SetupError, match="apt install cmake"):
        environment.check_machine(on_ros)


def test_the_python_fits_or_is_refused_in_a_sentence(
    environment: ModuleType, place: Any, on_ros: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROS 2 Lyrical has Python 3.14, for which there are no wheels."""
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    environment.check_machine(on_ros)
    with pytest.raises(environment.SetupError, match=r"PyPI for Python 3\.10 to 3\.13, and this"):
        environment.check_machine(place)
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    for either in (place, on_ros):
        with pytest.raises(environment.SetupError, match=r"too old: name one of 3\.10 or newer"):
            environment.check_machine(either)


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_which_package_has_it(
    environment: ModuleType, place: Any, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """Debian's Python has venv, and lacks what it needs."""
    monkeypatch.setitem(sys.modules, module, None)
    version = ".".join(map(str, sys.version_info[:2]))
    with pytest.raises(environment.SetupError, match=f"sudo apt install python{version}-venv"):
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
