"""Settings of all tests, and the choice of the tests to run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from siglip_perception.util.threads import spin_briefly

# Fast DDS can wait for ever when it closes a shared-memory port that a killed process has left,
# and tests kill processes. Before rclpy is imported; a profile, as the demo's, overrides it.
os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
# A shell's background jobs ignore SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before any test module imports PyTorch.
spin_briefly()

# Whether examples are made or tested quickly says more of what else the machine does.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

HERE = Path(__file__).parent
ROS_FOLDERS = ("integration", "node")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def _needs_ros(path: Path) -> bool:
    return any(path.is_relative_to(HERE / folder) for folder in ROS_FOLDERS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing of ROS 2 for -m "not ros", so that it runs without one."""
    if "not ros" in config.option.markexpr and _needs_ros(collection_path):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs ROS 2, and leave out what is slow unless it was asked for.

    --slow, a -m that speaks of slow, or the name of a file or a test on the command line do.
    """
    for item in items:
        if _needs_ros(item.path):
            item.add_marker("ros")
    if "soak" not in config.option.markexpr:
        soak = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    names_file = any(".py" in argument for argument in config.args)
    if config.getoption("--slow") or "slow" in config.option.markexpr or names_file:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
