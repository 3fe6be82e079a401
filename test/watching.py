"""Watch processes from outside: what they print, and the lifecycle of the node in them."""

from __future__ import annotations

import itertools
import os
import queue
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rclpy
from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor


def _domains() -> Iterator[int]:
    """Domains, each again after all others only: a killed node stays in its own for 20 s."""
    # 1 to 100: free of the ports that Linux hands out to others. Two workers of pytest-xdist,
    # named gw0 and gw1, have no domain in common.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    domains = random.SystemRandom().sample(range(2 - worker % 2, 101, 2), 50)
    return itertools.cycle(domains)


_DOMAINS = _domains()


def isolated(folder: Path) -> dict[str, str]:
    """Environment for processes that talk to each other and to nobody else."""
    environment = dict(os.environ)
    environment.update(
        ROS_DOMAIN_ID=str(next(_DOMAINS)),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(folder / "ros_log"),
    )
    return environment


class Process:
    """A running process whose lines of output can be waited for."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], cwd: Path) -> None:
        self.popen = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            print(line, end="")
            self._lines.put(line)
        self._lines.put(None)

    def wait_for_line(self, pattern: str, timeout_s: float = 90.0) -> re.Match[str]:
        """The next line that matches; fails after the timeout, or when there are no more lines."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line like {pattern!r} in {timeout_s} s")
            if line is None:
                pytest.fail(f"the process ended without a line like {pattern!r}")
            if match := re.search(pattern, line):
                return match

    def rest(self) -> str:
        """All lines of an ended process that nobody has waited for."""
        self._reader.join(timeout=10)
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get() or "")
        return "".join(lines)

    def interrupt(self, timeout_s: float = 90.0) -> int:
        """Send SIGINT to the process alone, as `kill -INT` does; its exit code."""
        self.popen.send_signal(signal.SIGINT)
        return self.popen.wait(timeout=timeout_s)


@contextmanager
def running(command: Sequence[str], environment: dict[str, str], cwd: Path) -> Iterator[Process]:
    """A process that, with all that it started, is gone afterwards."""
    process = Process(command, environment, cwd)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.wait()


@dataclass(frozen=True)
class Watcher:
    node: Any
    executor: Any
    client: Any

    def wait_for(self, label: str, timeout_s: float = 90.0) -> None:
        """Return as soon as the watched node is in this state; fail after the timeout."""
        deadline = time.monotonic() + timeout_s
        seen = "nothing"
        while time.monotonic() < deadline:
            future = self.client.call_async(GetState.Request())
            self.executor.spin_until_future_complete(future, timeout_sec=1.0)
            if future.done():
                seen = future.result().current_state.label
                if seen == label:
                    return
                # A transition's event ends this early.
                self.executor.spin_once(timeout_sec=0.5)
            else:
                self.client.remove_pending_request(future)
        pytest.fail(f"{self.client.srv_name} answered {seen}, not {label}, in {timeout_s} s")


@contextmanager
def watching(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str = "/siglip_perception"
) -> Iterator[Watcher]:
    """Watch the lifecycle node of this name in the domain of this environment."""
    range_variable = "ROS_AUTOMATIC_DISCOVERY_RANGE"
    monkeypatch.setenv(range_variable, environment[range_variable])
    context = Context()
    rclpy.init(context=context, domain_id=int(environment["ROS_DOMAIN_ID"]))
    node = rclpy.create_node("watcher", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.create_subscription(TransitionEvent, f"{name}/transition_event", lambda _: None, 10)
    try:
        yield Watcher(node, executor, node.create_client(GetState, f"{name}/get_state"))
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
