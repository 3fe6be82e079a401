"""The ROS 2 that is sourced: which parts of it this Python can use, and what to do about the rest.

Imports no ROS: another process does, see siglip_perception.util.ros_probe.
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
# Debian's Python looks in dist-packages, others in site-packages; ROS has both.
_PYTHON_FOLDER = re.compile(r"/python(3\.\d+)/(?:site|dist)-packages")


class RosError(PerceptionError):
    """ROS 2, or the messages of this package, cannot be used here."""


def look() -> dict[str, dict[str, str]]:
    """Each part of ROS 2 -> {} where it is not there, else `folder` and `error` ("": it works)."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RosError(f"ROS 2 cannot be looked for ({error}): try again.") from error
    parts: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        try:
            said = json.loads(line)
        except ValueError:  # a library's own talk
            continue
        if isinstance(said, dict):
            parts.update(said)
    return parts


def require(use: str) -> None:
    """Raise RosError, in one sentence, where the node could not run; `use` is its subject."""
    from siglip_perception.util.ros_probe import NEEDED

    parts = look()
    for part in NEEDED:
        if reason := trouble(part, parts.get(part, {})):
            raise RosError(f"{use} needs {reason}.")


def trouble(part: str, state: Mapping[str, str]) -> str:
    """What is wrong with a part of ROS 2 and what to do, without a stop; "" where it works."""
    if not state:
        return f"{part}, {_absence(part)}"
    if not state["error"]:
        return ""
    other = _PYTHON_FOLDER.search(state["folder"])
    if other is not None and other[1] != _python():
        return f"{part}, {_mismatch(state['folder'], other[1])}"
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


def _absence(part: str) -> str:
    """Why a part is not there, and what to do."""
    if part == _MESSAGES:
        return (
            "which is not built, or not sourced: build it with colcon (README, On a robot) and"
            f" source install/setup.bash, or {_FETCH}"
        )
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in prefixes:
        for found in sorted(Path(prefix).glob(f"**/python3*/*-packages/{part}")):
            other = _PYTHON_FOLDER.search(str(found))
            if other is not None and other[1] != _python():
                return _mismatch(str(found), other[1])
    distribution = os.environ.get("ROS_DISTRO", "")
    if part != "rclpy" and distribution:
        package = f"ros-{distribution}-{part.replace('_', '-')}"
        return f"which the sourced ROS 2 {distribution} lacks: sudo apt install {package}"
    if part != "rclpy":
        return "which ROS 2's wheels do not have: source an installed ROS 2"
    setups = sorted(Path("/opt/ros").glob("*/setup.bash"))
    source = f"source {setups[-1]}" if setups else "source the setup.bash of one (Jazzy or newer)"
    return f"which is part of ROS 2, and none is sourced here: {source}, or {_FETCH}"


def _mismatch(folder: str, other: str) -> str:
    return (
        f"which {folder} has for Python {other}, and this is Python {_python()}"
        f" ({sys.executable}): use python{other}, or source no ROS 2 or one for this Python"
    )


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
