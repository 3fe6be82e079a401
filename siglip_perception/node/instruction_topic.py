"""The topic `instruction`: from volatile and latched publishers alike, the newest that came."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSPolicyKind
from std_msgs.msg import String

from siglip_perception.node.qos import INSTRUCTION_DEPTH, QosWatch, instruction_qos

RATE_HZ = 10.0


class InstructionTopic:
    """The newest instruction that waits to be encoded; a source of work for the Worker.

    One volatile subscription, and a transient-local one while a latched publisher is there. A
    volatile reader never gets the sample that a latched publisher stored before it came. A
    transient-local one does not match volatile publishers, and makes each of them warn that
    nobody will hear it: so it is there only where it is of use.

    A latched publisher is heard twice then: both deliveries bear the same source timestamp, and
    the second one is left out. What only the transient-local subscription hears was stored before
    the node came, and may be older than what was spoken since: it is left out if a newer one was
    taken. That goes by the wall clocks of the publishers' machines, simulated time or not; what is
    spoken now is taken whatever they show.

    accept: called with the newest text, on the worker's thread, at most RATE_HZ times a second.
    notify: tells the worker that there may be work. clock: monotonic seconds.
    """

    def __init__(
        self,
        node: Node,
        watch: QosWatch,
        accept: Callable[[str], None],
        notify: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._qos = watch
        self._accept = accept
        self._notify = notify
        self._clock = clock
        self._lock = threading.Lock()
        self._text: str | None = None
        self._open = False
        self._due = 0.0
        self._superseded = 0
        self._newest = 0
        # A double is never further away than what both subscriptions queue.
        self._seen: deque[tuple[int, int]] = deque(maxlen=8 * INSTRUCTION_DEPTH)
        self._name = node.resolve_topic_name("instruction")
        self._latched: Any = None
        self._subscribe(latched=False)

    @property
    def superseded(self) -> int:
        """Instructions that a newer one replaced before they were looked at."""
        with self._lock:
            return self._superseded

    def watch(self) -> None:
        """Looks for latched publishers; call it a few times a second."""
        stored = any(
            info.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            for info in self._node.get_publishers_info_by_topic(self._name)
        )
        if stored and self._latched is None:
            self._latched = self._subscribe(latched=True)
        elif not stored and self._latched is not None:
            self._node.destroy_subscription(self._latched)
            self._latched = None

    def offer(self, text: str, source_timestamp: int = 0, latched: bool = False) -> None:
        """Keeps the text as the newest.

        source_timestamp: the publisher's, in nanoseconds, 0 for none. latched: heard by the
        transient-local subscription, so that it may be a stored one.
        """
        with self._lock:
            mark = (source_timestamp, hash(text))
            if source_timestamp:
                # The mark of one that is too old is not kept: of a publisher whose clock lags, the
                # volatile subscription is still to deliver it.
                if mark in self._seen or (latched and source_timestamp < self._newest):
                    return
                self._seen.append(mark)
                self._newest = max(self._newest, source_timestamp)
            if self._text is not None:
                self._superseded += 1
            self._text = text
        self._notify()

    def open(self) -> None:
        """From now on texts are handed on: there is a model that can encode them."""
        with self._lock:
            self._open = True
        self._notify()

    def close(self) -> None:
        """Keeps texts until open()."""
        with self._lock:
            self._open = False

    def delay(self) -> float | None:
        """Seconds until the text may be looked at; None without one."""
        with self._lock:
            if self._text is None or not self._open:
                return None
            return max(0.0, self._due - self._clock())

    def run(self) -> None:
        """Hands the newest text on, on the worker's thread."""
        with self._lock:
            text, self._text = self._text, None
            self._due = self._clock() + 1.0 / RATE_HZ
        if text is not None:
            self._accept(text)

    def _subscribe(self, latched: bool) -> Any:
        # Volatile publishers are not meant to match the latched one: the other has them.
        expected = QoSPolicyKind.DURABILITY if latched else None

        def receive(message: String, info: Mapping[str, int]) -> None:
            self.offer(message.data, info["source_timestamp"], latched)

        return self._node.create_subscription(
            String,
            self._name,
            receive,
            instruction_qos(latched),
            event_callbacks=self._qos.subscription(self._name, expected=expected),
        )
