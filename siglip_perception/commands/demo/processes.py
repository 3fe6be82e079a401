"""Child processes of the demo: their output is read as it comes, and none outlives the demo."""

from __future__ import annotations

import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from siglip_perception.errors import PerceptionError

GRACE_S = 20.0
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_PACKAGE = "siglip_perception"


class DemoError(PerceptionError):
    """The demo cannot run to its end."""


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[str]
    reader: threading.Thread


class Processes:
    """Child processes in one environment; leaving the `with` block ends those still running."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._children: dict[str, _Child] = {}
        self._exits: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, child in self._children.items():
            if child.process.poll() is None:
                self.interrupt(name)
        for name in self._children:
            with suppress(DemoError):
                self.wait(name)

    def start(
        self,
        name: str,
        on_line: Callable[[str], None],
        module: str,
        *arguments: str,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """Run a module of this package; call on_line, on a thread, with each line of output.

        on_end is called there after the last line, instead of first_to_end()'s return. A name is
        free again once its process has ended.
        """
        # A new session: Ctrl-C reaches only the demo, which ends the others in order.
        process = subprocess.Popen(
            [sys.executable, "-m", f"{_PACKAGE}.{module}", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        reader = threading.Thread(
            target=self._read_lines,
            args=(process, on_line, on_end or partial(self._exits.put, name)),
            daemon=True,
        )
        self._children[name] = _Child(process, reader)
        reader.start()

    def _read_lines(
        self,
        process: subprocess.Popen[str],
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                on_line(line.rstrip())
        on_end()

    def first_to_end(self, timeout_s: float) -> str:
        """Return the name of the next process that ends; raises DemoError after the timeout."""
        try:
            return self._exits.get(timeout=timeout_s)
        except queue.Empty:
            raise DemoError(f"The demo did not end within {timeout_s:.0f} s.") from None

    def processor_s(self) -> dict[str, float]:
        """Return the processor time of each process so far, in seconds; until it is waited for."""
        return {name: _processor_s(child.process.pid) for name, child in self._children.items()}

    def interrupt(self, name: str) -> None:
        """Send SIGINT."""
        self.send(name, signal.SIGINT)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal; nothing to a process that has ended."""
        self._children[name].process.send_signal(number)

    def wait(self, name: str) -> int:
        """Return the exit code; kill a process that does not end and raise DemoError."""
        child = self._children[name]
        try:
            code = child.process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
            raise DemoError(f"The {name} did not end within {GRACE_S:.0f} s of SIGINT.") from None
        child.reader.join(timeout=GRACE_S)
        return code


def _processor_s(pid: int) -> float:
    """Read user and system time, all threads, from /proc; 0 for a process that is gone."""
    try:
        # The name before may hold spaces and parentheses; then utime and stime are 12th and 13th.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def environment(log_folder: Path) -> dict[str, str]:
    """Return variables for processes that communicate over ROS 2 only with each other."""
    variables = dict(os.environ)
    variables.update(
        ROS_DOMAIN_ID=str(free_domain()),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(log_folder),
        PYTHONUNBUFFERED="1",
    )
    variables.pop("ROS_STATIC_PEERS", None)
    if not any(variables.get(name) for name in PROFILE_VARIABLES):
        variables.update(dict.fromkeys(PROFILE_VARIABLES, str(profile())))
    return variables


def free_domain() -> int:
    """Return a ROS domain that no process on this machine uses."""
    # Above 101 a domain's ports can collide with Linux's ephemeral ports.
    domains = random.SystemRandom().sample(range(1, 102), 101)
    for domain in domains:
        # The port of a domain's first DDS participant.
        port = 7400 + 250 * domain + 10
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind(("", port))
            return domain
    raise DemoError("All ROS domains from 1 to 101 are in use on this machine: end some nodes.")


def profile() -> Path:
    """Find the Fast DDS profile for large messages, in a source tree or an installation."""
    name = Path("config", "fastdds.xml")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates = [Path(__file__).parents[3] / name]
    candidates += [Path(p, "share", _PACKAGE) / name for p in [*prefixes, sys.prefix] if p]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise DemoError(f"{name} of {_PACKAGE} is not installed: build the package again.")
