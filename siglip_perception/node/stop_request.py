"""Stop request of the node's process, by a signal or from any thread."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopRequest:
    """Makes wait() return after SIGINT, SIGTERM or request().

    rclpy's own handlers would shut the context down at once, before the last messages are
    published; a handler that sets an Event can deadlock with the wait() that it interrupts. A pipe
    does neither, whichever thread gets the signal. Create it on the main thread.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ignore)

    def request(self) -> None:
        """Request the end, from any thread."""
        os.write(self._write, b"\0")

    def wait(self) -> None:
        """Wait for the first signal or request."""
        os.read(self._read, 1)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python has already written the signal's number to the pipe."""
