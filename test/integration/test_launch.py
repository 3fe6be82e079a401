"""The launch file, run for real where `launch_ros` is: it comes with a ROS 2, not from PyPI."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2, not from PyPI")

from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launching import launch, started_node
from models import write_random_model
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from watching import isolated, watching

from siglip_perception.config import launch_arguments

ROOT = Path(__file__).resolve().parents[2]
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
REMAPPED = ["image:=/camera/color/image_raw", "instruction:=spoken"]


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def model(folder: Path) -> Path:
    """A small model with random weights."""
    model = folder / "model"
    model.mkdir()
    write_random_model(model)
    return model


def declared(name: str) -> dict[str, DeclareLaunchArgument]:
    """Arguments that `ros2 launch siglip_perception NAME --show-args` lists."""
    source = PythonLaunchDescriptionSource(str(ROOT / "launch" / name))
    description = source.try_get_launch_description_without_context()
    return {argument.name: argument for argument in description.get_launch_arguments()}


def test_each_parameter_of_the_node_is_an_argument_and_described() -> None:
    arguments = declared("perception.launch.py")
    assert arguments.keys() == {
        *("params_file", "namespace", "image", "instruction", "depth", "camera_info"),
        *("use_sim_time", "autostart", "log_level"),
        *launch_arguments(),
    }
    assert all(len(argument.description) > 20 for argument in arguments.values())
    for name, parameter in launch_arguments().items():
        assert parameter.description in arguments[name].description
        assert arguments[name].choices == (["", *parameter.choices] if parameter.choices else None)


def test_the_webcam_takes_every_argument_of_the_node() -> None:
    arguments = declared("webcam.launch.py")
    own = {"video_device", "width", "height", "fps"}
    assert arguments.keys() == own | declared("perception.launch.py").keys()


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


def test_parameters_come_from_the_launch_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = isolated(tmp_path)
    arguments = {
        "autostart": "false",
        "threshold": "0.25",
        "max_objects": "7",
        "cameras": "[front,wrist]",
        "tracking_enabled": "true",
        "initial_instruction": "123",
        "image_reliability": "reliable",
    }
    with (
        watching(environment, monkeypatch) as watcher,
        launch(environment, tmp_path, *(f"{k}:={v}" for k, v in arguments.items())) as process,
    ):
        watcher.wait_for("unconfigured")
        client = watcher.node.create_client(GetParameters, "/siglip_perception/get_parameters")
        assert client.wait_for_service(timeout_sec=60.0)
        names = ["threshold", "max_objects", "cameras", "tracking.enabled", "instruction"]
        request = GetParameters.Request(names=[*names, "image_reliability", "device"])
        future = client.call_async(request)
        watcher.executor.spin_until_future_complete(future, timeout_sec=60.0)
        values = [parameter_value_to_python(value) for value in future.result().values]
        assert values == [0.25, 7, ["front", "wrist"], True, "123", "reliable", "auto"]
        assert process.interrupt() == 0


def test_a_value_out_of_range_ends_the_launch_with_a_sentence(tmp_path: Path) -> None:
    environment = isolated(tmp_path)
    with launch(environment, tmp_path, "threshold:=2") as process:
        process.wait_for_line("threshold is 2.0; it must be 0 to 1")
        assert process.popen.wait(timeout=60) == 1
