"""How the node's process ends: cleanly, and soon, whatever it is in the middle of."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopRequest:
    """SIGINT, SIGTERM or request() -> wait() returns.

    rclpy's own handlers would shut the context down at once, and nothing could be said any more;
    a handler that sets an Event can deadlock with the wait() that it interrupts. A pipe does
    neither, whichever thread the signal comes to. Make it in the main thread.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _noted)

    def request(self) -> None:
        """Asks for the end, from any thread."""
        os.write(self._write, b"\0")

    def wait(self) -> None:
        """Waits for the first signal or request."""
        os.read(self._read, 1)


def _noted(number: int, frame: FrameType | None) -> None:
    """Does nothing: the signal's number is in the pipe already."""
