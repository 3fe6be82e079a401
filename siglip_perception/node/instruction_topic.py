"""The topic `instruction`: the newest text of volatile and latched publishers alike."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSPolicyKind
from std_msgs.msg import String

from siglip_perception.node.paced_group import PacedGroup
from siglip_perception.node.qos import INSTRUCTION_DEPTH, QosWatch, instruction_qos

RATE_HZ = 10.0


class InstructionTopic:
    """Holds the newest instruction until it is encoded; a source of work for the Worker.

    There is one volatile subscription, and a transient-local one while there is a latched
    publisher. A volatile subscription never gets the sample that a latched publisher stored before
    the node started. A transient-local one does not match volatile publishers and makes each of
    them warn of incompatible QoS, so it exists only while it is useful.

    Both subscriptions then deliver a latched publisher's messages. Both deliveries have the same
    source timestamp, and the second is ignored. A sample that only the transient-local
    subscription delivers was stored before the node started and may be older than a later
    instruction: it is ignored if a newer one was accepted. Newer is decided by the wall clocks of
    the publishers' machines, even in simulated time; a live message is accepted whatever they
    show.

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
        # A duplicate is at most as far behind as both subscriptions can queue.
        self._message_keys: deque[tuple[int, int]] = deque(maxlen=8 * INSTRUCTION_DEPTH)
        self._name = node.resolve_topic_name("instruction")
        self._latched_subscription: Any = None
        self._subscribe(latched=False)

    @property
    def superseded(self) -> int:
        """Number of instructions that a newer one replaced before they were read.

        Those that the middleware replaced are counted while there is one publisher.
        """
        with self._lock:
            return self._superseded

    def watch(self) -> None:
        """Look for latched publishers; call it a few times a second."""
        has_latched_publisher = any(
            info.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            for info in self._node.get_publishers_info_by_topic(self._name)
        )
        if has_latched_publisher and self._latched_subscription is None:
            self._latched_subscription = self._subscribe(latched=True)
        elif not has_latched_publisher and self._latched_subscription is not None:
            self._node.destroy_subscription(self._latched_subscription)
            self._latched_subscription = None

    def offer(
        self, text: str, source_timestamp: int = 0, latched: bool = False, replaced: int = 0
    ) -> None:
        """Keep the text as the newest.

        replaced: number of texts before it that the middleware did not keep.
        source_timestamp: the publisher's, in nanoseconds; 0 for none. latched: delivered by the
            transient-local subscription, so possibly stored long ago.
        """
        with self._lock:
            key = (source_timestamp, hash(text))
            if source_timestamp:
                # The key of a message that is too old is not kept: if its publisher's clock lags,
                # the volatile subscription will still deliver it, and then it counts.
                if key in self._message_keys or (latched and source_timestamp < self._newest):
                    return
                self._message_keys.append(key)
                self._newest = max(self._newest, source_timestamp)
            self._superseded += replaced
            if self._text is not None:
                self._superseded += 1
            self._text = text
        self._notify()

    def open(self) -> None:
        """Start to hand texts on: there is a model that can encode them."""
        with self._lock:
            self._open = True
        self._notify()

    def close(self) -> None:
        """Hold texts back until open()."""
        with self._lock:
            self._open = False

    def delay(self) -> float | None:
        """Return the seconds until a text may be handed on; None if there is none."""
        with self._lock:
            if self._text is None or not self._open:
                return None
            return max(0.0, self._due - self._clock())

    def run(self) -> None:
        """Hand the newest text on, on the worker's thread."""
        with self._lock:
            text, self._text = self._text, None
            self._due = self._clock() + 1.0 / RATE_HZ
        if text is not None:
            self._accept(text)

    def _subscribe(self, latched: bool) -> Any:
        # Volatile publishers must not match the latched subscription: the other one has them.
        intended_mismatch = QoSPolicyKind.DURABILITY if latched else None

        sequence = 0

        def receive(message: String, info: Mapping[str, Any]) -> None:
            nonlocal sequence
            number = info.get("publication_sequence_number") or 0
            gap = number - sequence - 1 if 0 < sequence < number else 0
            sequence = number
            if gap and self._node.count_publishers(self._name) > 1:
                gap = 0  # each publisher counts its own messages
            self.offer(message.data, info["source_timestamp"], latched, gap)

        def receive_all(message: String, info: Mapping[str, Any]) -> None:
            """Take what else has queued, so that the newest is not left for the next turn."""
            receive(message, info)
            for _ in range(INSTRUCTION_DEPTH - 1):
                with subscription.handle:
                    sample = subscription.handle.take_message(String, False)
                if sample is None:
                    break
                receive(*sample)

        subscription = self._node.create_subscription(
            String,
            self._name,
            receive_all,
            instruction_qos(latched),
            callback_group=PacedGroup(1.0 / RATE_HZ),
            event_callbacks=self._qos.subscription(
                self._name, intended_mismatch=intended_mismatch
            ),
        )
        return subscription
