"""The launch file, run for real where `launch_ros` is: it comes with a ROS 2, not from PyPI."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2, not from PyPI")

from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import PythonLaunchDescriptionSource
from models import write_random_model
from watching import Process, isolated, running, watching

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "perception.launch.py"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
REMAPPED = ["image:=/camera/color/image_raw", "instruction:=spoken"]
RUNNER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
included = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path),
    launch_arguments=[tuple(argument.split(":=", 1)) for argument in arguments],
)
service = LaunchService()
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def launch(environment: dict[str, str], folder: Path, *arguments: str) -> Any:
    environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    command = [sys.executable, "-c", RUNNER, str(LAUNCH_FILE), *arguments]
    return running(command, environment, folder)


def model(folder: Path) -> Path:
    """A small model with random weights."""
    model = folder / "model"
    model.mkdir()
    write_random_model(model)
    return model


def started_node(process: Process) -> int:
    """Process id of the node that launch starts next."""
    return int(
        process.wait_for_line(r"perception_node-1\]: process started with pid \[(\d+)\]")[1]
    )


def test_each_argument_is_described() -> None:
    description = PythonLaunchDescriptionSource(
        str(LAUNCH_FILE)
    ).try_get_launch_description_without_context()
    arguments = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == {
        *("params_file", "namespace", "image", "instruction"),
        *("use_sim_time", "autostart", "log_level", "model"),
    }
    assert all(len(argument.description) > 20 for argument in arguments)


def test_a_killed_node_comes_back_active_and_sigint_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = isolated(tmp_path)
    for name in PROFILE_VARIABLES:
        environment.pop(name, None)
    with (
        watching(environment, monkeypatch) as watcher,
        launch(environment, tmp_path) as process,
    ):
        first = started_node(process)
        watcher.wait_for("active")
        profile = environment_of(first)["FASTRTPS_DEFAULT_PROFILES_FILE"]
        assert Path(profile).samefile(ROOT / "config" / "fastdds.xml")

        os.kill(first, signal.SIGKILL)
        second = started_node(process)
        assert second != first
        watcher.wait_for("active")

        assert process.interrupt() == 0
        process.wait_for_line(rf"process has finished cleanly \[pid {second}\]")


def test_arguments_reach_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = isolated(tmp_path)
    own_profile = str(ROOT / "config" / "fastdds.xml")
    environment.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
    environment["FASTDDS_DEFAULT_PROFILES_FILE"] = own_profile
    arguments = ["namespace:=arm", "autostart:=false"]
    with (
        watching(environment, monkeypatch, "/arm/siglip_perception") as watcher,
        launch(environment, tmp_path, *arguments) as process,
    ):
        node = started_node(process)
        watcher.wait_for("unconfigured")
        assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in environment_of(node)
        assert environment_of(node)["FASTDDS_DEFAULT_PROFILES_FILE"] == own_profile
        assert process.interrupt() == 0


@pytest.mark.parametrize(
    ("transport", "arguments", "image", "instruction"),
    [
        ("raw", [], "/arm/image", "/arm/instruction"),
        ("raw", REMAPPED, "/camera/color/image_raw", "/arm/spoken"),
        ("compressed", REMAPPED, "/camera/color/image_raw/compressed", "/arm/spoken"),
    ],
)
def test_the_inputs_are_those_of_the_launch_call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    arguments: list[str],
    image: str,
    instruction: str,
) -> None:
    environment = isolated(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(
        f"/**:\n  ros__parameters:\n    model: {model(tmp_path)}\n"
        f"    image_transport: {transport}\n"
    )
    with (
        watching(environment, monkeypatch, "/arm/siglip_perception") as watcher,
        launch(
            environment, tmp_path, "namespace:=arm", f"params_file:={params}", *arguments
        ) as process,
    ):
        watcher.wait_for("active")
        message = {
            name
            for name, _ in watcher.node.get_subscriber_names_and_types_by_node(
                "siglip_perception", "/arm"
            )
        }
        assert {image, instruction} <= message
        assert not {name for name in message - {image} if "image" in name}
        assert process.interrupt() == 0
