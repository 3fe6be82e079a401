"""Publisher of /diagnostics: every status once a second, and at once when one changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from siglip_perception.node.diagnostic_status import Status
from siglip_perception.stream.accounting import Level

PERIOD = 1.0
# Seconds between two looks for changes, and so the longest delay before one is published.
WATCH_PERIOD = 0.1
LOG_PERIOD = 10.0


class Diagnostics:
    """Publishes what `statuses` returns. Thread-safe."""

    def __init__(self, node: Node, statuses: Callable[[], Sequence[Status]]) -> None:
        self._node = node
        self._statuses = statuses
        self.publisher: Any = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._lock = threading.Lock()
        self._state: list[tuple[str, Level, tuple[str, ...]]] = []
        self._published_at = 0.0
        self._log_times: dict[tuple[str, tuple[str, ...]], float] = {}
        self._final = False

    def watch(self) -> None:
        """Publish if a second has passed or a status has changed; call it every WATCH_PERIOD."""
        statuses = self._statuses()
        state = [(status.name, status.level, status.reasons) for status in statuses]
        with self._lock:
            due = time.monotonic() - self._published_at >= PERIOD - WATCH_PERIOD / 2
            if due or state != self._state:
                self._log(statuses)
                self._publish(statuses, state)

    def finish(self) -> None:
        """Publish every status as STALE for the last time: the node ends."""
        statuses = [
            Status(status.name, Level.STALE, ("ended",), "the node has ended", status.values)
            for status in self._statuses()
        ]
        with self._lock:
            self._publish(statuses, [])
            self._final = True

    def _log(self, statuses: Sequence[Status]) -> None:
        """Log new problems, each at most once every LOG_PERIOD.

        The node's own problems are logged where they happen.
        """
        now = time.monotonic()
        logger = self._node.get_logger()
        for status in statuses:
            key = (status.name, status.reasons)
            is_repetition = now - self._log_times.get(key, -LOG_PERIOD) < LOG_PERIOD
            if status.level < Level.WARN or status.name == "node" or is_repetition:
                continue
            self._log_times[key] = now
            text = f"{status.name}: {status.message}"
            if status.level == Level.WARN:
                logger.warning(text)
            else:
                logger.error(text)

    def _publish(
        self, statuses: Sequence[Status], state: list[tuple[str, Level, tuple[str, ...]]]
    ) -> None:
        if self._final:
            return
        self._state = state
        self._published_at = time.monotonic()
        message = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=bytes([status.level]),
                    name=f"{self._node.get_name()}: {status.name}",
                    message=status.message,
                    hardware_id=self._node.get_fully_qualified_name(),
                    values=[KeyValue(key=key, value=value) for key, value in status.values],
                )
                for status in statuses
            ]
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self.publisher.publish(message)
