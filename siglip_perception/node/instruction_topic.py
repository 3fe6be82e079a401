"""The topic `instruction`, heard from volatile and from latched publishers alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSPolicyKind
from std_msgs.msg import String

from siglip_perception.node.qos import QosWatch, instruction_qos


class InstructionTopic:
    """One volatile subscription, and a transient-local one while a latched publisher is there.

    A volatile reader never gets the sample that a latched publisher stored before it came. A
    transient-local one does not match volatile publishers, and makes each of them warn that
    nobody will hear it: so it is there only where it is of use.

    heard: gets the text, the publisher's source timestamp, and whether it was the transient-local
    one that heard it; twice, where both hear it.
    """

    def __init__(
        self, node: Node, watch: QosWatch, heard: Callable[[str, int, bool], None]
    ) -> None:
        self._node = node
        self._qos = watch
        self._heard = heard
        self._name = node.resolve_topic_name("instruction")
        self._latched: Any = None
        self._subscribe(latched=False)

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

    def _subscribe(self, latched: bool) -> Any:
        # Volatile publishers are not meant to match the latched one: the other has them.
        expected = QoSPolicyKind.DURABILITY if latched else None

        def receive(message: String, info: Mapping[str, int]) -> None:
            self._heard(message.data, info["source_timestamp"], latched)

        return self._node.create_subscription(
            String,
            self._name,
            receive,
            instruction_qos(latched),
            event_callbacks=self._qos.subscription(self._name, expected=expected),
        )
