"""The demo's processes: what they print is heard as it comes, and none outlives the demo."""

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
from pathlib import Path
from types import TracebackType

from siglip_perception.errors import PerceptionError

GRACE_S = 5.0
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_PACKAGE = "siglip_perception"


class DemoError(PerceptionError):
    """The demo could not run to its end."""


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[str]
    listener: threading.Thread


class Processes:
    """Child processes in one environment; leaving the `with` ends those that are left."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._children: dict[str, _Child] = {}
        self._ended: queue.Queue[str] = queue.Queue()

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

    def start(self, name: str, heard: Callable[[str], None], module: str, *arguments: str) -> None:
        """Run a module of this package with this Python; `heard` gets its lines, in a thread."""
        # A session of its own: Ctrl-C reaches the demo alone, which ends the others in order.
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
        listener = threading.Thread(target=self._listen, args=(name, process, heard), daemon=True)
        self._children[name] = _Child(process, listener)
        listener.start()

    def _listen(
        self, name: str, process: subprocess.Popen[str], heard: Callable[[str], None]
    ) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                heard(line.rstrip())
        self._ended.put(name)

    def first_to_end(self, timeout_s: float) -> str:
        """Name of the next process that ends; DemoError when none does in time."""
        try:
            return self._ended.get(timeout=timeout_s)
        except queue.Empty:
            raise DemoError(f"The demo was not over after {timeout_s:.0f} s.") from None

    def interrupt(self, name: str) -> None:
        """Send SIGINT."""
        self._children[name].process.send_signal(signal.SIGINT)

    def wait(self, name: str) -> int:
        """The exit code; a process that does not end in time is killed, which is a DemoError."""
        child = self._children[name]
        try:
            code = child.process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
            raise DemoError(f"The {name} did not end within {GRACE_S:.0f} s of SIGINT.") from None
        child.listener.join(timeout=GRACE_S)
        return code


def environment(log_folder: Path) -> dict[str, str]:
    """Variables for processes that talk to each other over ROS 2, and to nobody else."""
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
    """A ROS domain in which nobody on this machine takes part."""
    # Above 101 the ports of a domain can fall among those that Linux hands out.
    domains = random.SystemRandom().sample(range(1, 102), 101)
    for domain in domains:
        # Where DDS's first participant of a domain listens.
        port = 7400 + 250 * domain + 10
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind(("", port))
            return domain
    raise DemoError("Each ROS domain from 1 to 101 is in use on this machine: end some nodes.")


def profile() -> Path:
    """The Fast DDS profile for large messages, of a source tree or of an install."""
    name = Path("config", "fastdds.xml")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates = [Path(__file__).parents[3] / name]
    candidates += [Path(p, "share", _PACKAGE) / name for p in [*prefixes, sys.prefix] if p]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise DemoError(f"{name} of {_PACKAGE} is not installed: build the package again.")
