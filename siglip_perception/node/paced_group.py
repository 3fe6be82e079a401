"""A callback group that leaves a flood of messages in the middleware."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup


class PacedGroup(CallbackGroup):  # type: ignore[misc]
    """Lets its one entity run at most once in `period` seconds, and once after each allow().

    Until then the executor does not wait for the entity at all, so messages that come meanwhile
    cost no work: the middleware keeps the newest ones. A NodeExecutor runs the callback on its own
    thread, as those of the default group. What has become due is noticed when the executor wakes
    next, for which the node has timers. clock: monotonic seconds.
    """

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._period = period
        self._clock = clock
        self._due = 0.0

    def allow(self) -> None:
        """Let the entity run once now: another frame has come."""
        self._due = 0.0

    def can_execute(self, entity: Any) -> bool:
        return self._clock() >= self._due

    def beginning_execution(self, entity: Any) -> bool:
        if not self.can_execute(entity):
            return False
        self._due = self._clock() + self._period
        return True

    def ending_execution(self, entity: Any) -> None:
        """Do nothing: the pause counts from the beginning."""
