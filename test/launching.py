"""The launch file in a process of its own, as `ros2 launch` runs it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from watching import Process, running

LAUNCH_FILE = Path(__file__).resolve().parents[1] / "launch" / "perception.launch.py"
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


def launch(
    environment: dict[str, str], folder: Path, *arguments: str
) -> AbstractContextManager[Process]:
    environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    command = [sys.executable, "-c", RUNNER, str(LAUNCH_FILE), *arguments]
    return running(command, environment, folder)


def started_node(process: Process) -> int:
    """Process id of the node that launch starts next."""
    return int(
        process.wait_for_line(r"perception_node-1\]: process started with pid \[(\d+)\]")[1]
    )
