"""ROS 2 in a process of the demo's or the robot's own: up, spinning until SIGINT, and down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node


@contextmanager
def ros_running() -> Iterator[None]:
    """Initialize rclpy for the block, and shut it down after it."""
    try:
        rclpy.init()
        yield
    finally:
        # On SIGINT rclpy shuts down by itself, sometimes at this very moment.
        with suppress(rclpy_implementation.RCLError):
            rclpy.try_shutdown()


def spin_until_interrupted(new_node: Callable[[], Node]) -> int:
    """Spin the node that new_node makes until SIGINT; returns the process's exit code."""
    with suppress(KeyboardInterrupt, ExternalShutdownException), ros_running():
        node = new_node()
        try:
            rclpy.spin(node)
        except rclpy_implementation.RCLError:
            if rclpy.ok():  # else SIGINT has shut rclpy down while a wait began
                raise
    return 0
