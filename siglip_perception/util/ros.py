"""The sourced ROS 2: which parts this Python can use, and what to do about the others.

Imports nothing of ROS: siglip_perception.util.ros_probe does, in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from siglip_perception.errors import PerceptionError

_PROBE = "siglip_perception.util.ros_probe"
_TIMEOUT_S = 60.0
_MESSAGES = "siglip_perception_msgs"
_FETCH = "run `make demo` in a clone of this package, which fetches one"
# Debian's Python uses dist-packages, others site-packages; ROS has both.
_PYTHON_FOLDER = re.compile(r"/python(3\.\d+)/(?:site|dist)-packages")


class RosError(PerceptionError):
    """ROS 2 or the messages of this package cannot be used here."""


def probe_parts() -> dict[str, dict[str, str]]:
    """Map each part of ROS 2 to {} if absent, else `folder` and `error` ("" if it works)."""
    try:
        process = subprocess.run(
            [sys.executable, "-m", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RosError(f"The search for ROS 2 failed ({error}): try again.") from error
    parts: dict[str, dict[str, str]] = {}
    for line in process.stdout.splitlines():
        try:
            report = json.loads(line)
        except ValueError:  # output of a library
            continue
        if isinstance(report, dict):
            parts.update(report)
    return parts


def require(use: str) -> None:
    """Raise RosError, one sentence with the subject `use`, if the node could not run."""
    from siglip_perception.util.ros_probe import PARTS

    parts = probe_parts()
    for part in PARTS:
        if reason := trouble(part, parts.get(part, {})):
            raise RosError(f"{use} needs {reason}.")


def trouble(part: str, state: Mapping[str, str]) -> str:
    """Say what is wrong with a part of ROS 2 and what to do, without a period; "" if it works."""
    if not state:
        return f"{part}, {_why_absent(part)}"
    if not state["error"]:
        return ""
    version = _PYTHON_FOLDER.search(state["folder"])
    if version is not None and version[1] != _python():
        return f"{part}, {_mismatch(state['folder'], version[1])}"
    if state["error"] == "too old":
        distribution = os.environ.get("ROS_DISTRO", "")
        return (
            f"ROS 2 Jazzy or newer, and the rclpy of {distribution or state['folder']} is older:"
            f" source a newer one, or, in a shell where none is sourced, {_FETCH}"
        )
    if part == _MESSAGES:
        return (
            f"{part} as it is built for this ROS 2 and Python, which cannot use it"
            f" ({state['error']}): build it again with colcon, and source install/setup.bash"
        )
    return (
        f"{part}, which {state['folder']} has and this Python cannot import ({state['error']}):"
        " source one ROS 2 only, and the numpy that it was built with"
    )


def _why_absent(part: str) -> str:
    """Say why a part is absent, and what to do."""
    if part == _MESSAGES:
        return (
            "which is not built, or not sourced: build it with colcon (README, On a robot) and"
            f" source install/setup.bash, or {_FETCH}"
        )
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in prefixes:
        for folder in sorted(Path(prefix).glob(f"**/python3*/*-packages/{part}")):
            version = _PYTHON_FOLDER.search(str(folder))
            if version is not None and version[1] != _python():
                return _mismatch(str(folder), version[1])
    distribution = os.environ.get("ROS_DISTRO", "")
    if part != "rclpy" and distribution:
        package = f"ros-{distribution}-{part.replace('_', '-')}"
        return f"which the sourced ROS 2 {distribution} lacks: sudo apt install {package}"
    if part != "rclpy":
        return "which ROS 2's wheels do not have: source an installed ROS 2"
    setups = sorted(Path("/opt/ros").glob("*/setup.bash"))
    source = f"source {setups[-1]}" if setups else "source the setup.bash of one (Jazzy or newer)"
    return f"which is part of ROS 2, and none is sourced here: {source}, or {_FETCH}"


def _mismatch(folder: str, version: str) -> str:
    return (
        f"which {folder} has for Python {version}, and this is Python {_python()}"
        f" ({sys.executable}): use python{version}, or source no ROS 2 or one for this Python"
    )


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
