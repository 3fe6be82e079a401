"""Shared memory ports of killed nodes, kept from being used again.

A Fast DDS participant receives at a port, a file of shared memory whose number the next one takes
again. Who sends to it keeps the file mapped; where its owner was killed in the middle of
receiving, it goes on writing there, and the node that was started anew hears nothing until the
sender is restarted, too (eProsima/Fast-DDS#4737). While this process holds the port's lock, Fast
DDS takes another number for it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from siglip_perception.util.own_files import lock_own

FOLDER = Path("/dev/shm")
_PORT = re.compile(r"/((?:fastrtps|fastdds)_port\d+)( \(deleted\))?$", re.M)
# Fast DDS tries a hundred numbers (mutation_tries) for each of a participant's ports.
_MAX_PORTS = 64


class DeadPorts:
    """Locks of the dead ports that living processes still write to, held until close().

    Make it before the process' first participant. processes: a folder as /proc is. held: names of
    the ports.
    """

    def __init__(self, folder: Path = FOLDER, processes: Path = Path("/proc")) -> None:
        self.held: list[str] = []
        self._handles: list[int] = []
        for name, is_deleted in sorted(_mapped_ports(processes)):
            if len(self._handles) == _MAX_PORTS:
                break
            # A port without the file of its lock is nobody's alone, or was removed after its end.
            handle = lock_own(folder / f"{name}_el", may_create=is_deleted)
            if handle is not None:
                self.held.append(name)
                self._handles.append(handle)

    def close(self) -> None:
        """Let go of the locks; the ports are used again once nobody else holds them."""
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()


def _mapped_ports(processes: Path) -> set[tuple[str, bool]]:
    """Names of all ports that processes have mapped, each with whether its file is gone."""
    ports: set[tuple[str, bool]] = set()
    for maps in processes.glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended, or is another user's
            text = maps.read_text(errors="replace")
            ports |= {(match[1], bool(match[2])) for match in _PORT.finditer(text)}
    return ports
