"""QoS of every topic, and a mismatch named instead of silence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

# Instructions that each of their two subscriptions queues at most.
INSTRUCTION_DEPTH = 10


def _profile(depth: int, reliable: bool, latched: bool = False) -> QoSProfile:
    reliability, durability = QoSReliabilityPolicy, QoSDurabilityPolicy
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability.RELIABLE if reliable else reliability.BEST_EFFORT,
        durability=durability.TRANSIENT_LOCAL if latched else durability.VOLATILE,
    )


def image_qos(reliability: str) -> QoSProfile:
    """rclpy's sensor-data profile, reliable where that is asked for."""
    return _profile(5, reliable=reliability == "reliable")


def output_qos() -> QoSProfile:
    """Reliable, the newest only: a slow subscriber misses frames and holds nobody up."""
    return _profile(1, reliable=True)


def instruction_qos(latched: bool) -> QoSProfile:
    """One of the two subscriptions: a volatile reader gets no stored sample, and a transient-local
    one does not match a volatile writer."""
    return _profile(INSTRUCTION_DEPTH, reliable=True, latched=latched)


def overridable() -> QoSOverridingOptions:
    """Lets users set history, depth and reliability as parameters `qos_overrides...`."""
    return QoSOverridingOptions.with_default_policies()


@dataclass(frozen=True)
class Mismatch:
    """A peer whose QoS does not fit. policy: as in RELIABILITY; peer: publisher, subscription."""

    topic: str
    policy: str
    peer: str

    def __str__(self) -> str:
        return (
            f"a {self.peer} on {self.topic} has an incompatible {self.policy}: no message passes "
            "between it and this node"
        )


class QosWatch:
    """Incompatible peers by topic: the middleware reports when one comes, the graph when it is
    gone. Any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._found: dict[str, Mismatch] = {}

    def mismatches(self) -> dict[str, Mismatch]:
        """The incompatible peers that are still there, one a topic."""
        with self._lock:
            found = dict(self._found)
        gone = [topic for topic, mismatch in found.items() if not self._still_there(mismatch)]
        for topic in gone:
            self.clear(topic)
        return {topic: mismatch for topic, mismatch in found.items() if topic not in gone}

    def _still_there(self, mismatch: Mismatch) -> bool:
        """Whether some peer fits none of this node's own endpoints on the topic."""
        publishers = self._node.get_publishers_info_by_topic(mismatch.topic)
        subscriptions = self._node.get_subscriptions_info_by_topic(mismatch.topic)
        # Both sides as the graph tells them: in a profile of one's own "no deadline" is a 0,
        # which does not fit the graph's infinity.
        if mismatch.peer == "publisher":
            own = [mine.qos_profile for mine in subscriptions if self._is_own(mine)]
            return any(
                all(_clash(theirs.qos_profile, mine) for mine in own) for theirs in publishers
            )
        own = [mine.qos_profile for mine in publishers if self._is_own(mine)]
        return any(
            all(_clash(mine, theirs.qos_profile) for mine in own) for theirs in subscriptions
        )

    def _is_own(self, endpoint: Any) -> bool:
        node = (self._node.get_name(), self._node.get_namespace())
        return (endpoint.node_name, endpoint.node_namespace) == node

    def clear(self, topic: str) -> None:
        with self._lock:
            self._found.pop(topic, None)

    def subscription(
        self,
        topic: str,
        lost: Callable[[int], None] | None = None,
        expected: QoSPolicyKind | None = None,
    ) -> SubscriptionEventCallbacks:
        """Events of a subscription on this resolved topic.

        lost: gets the number of messages that the middleware lost.
        expected: a policy that is meant not to fit some publishers.
        """

        def incompatible(event: Any) -> None:
            if event.last_policy_kind != expected:
                self._note(topic, event.last_policy_kind, "publisher")

        def message_lost(event: Any) -> None:
            if lost is not None:
                lost(event.total_count_change)

        return SubscriptionEventCallbacks(
            incompatible_qos=incompatible, message_lost=None if lost is None else message_lost
        )

    def publisher(self, topic: str) -> PublisherEventCallbacks:
        """Events of a publisher on this resolved topic."""
        return PublisherEventCallbacks(
            incompatible_qos=lambda event: self._note(
                topic, event.last_policy_kind, "subscription"
            )
        )

    def _note(self, topic: str, kind: Any, peer: str) -> None:
        mismatch = Mismatch(topic, qos_policy_name_from_kind(kind), peer)
        with self._lock:
            self._found[topic] = mismatch


def _clash(publisher: QoSProfile, subscription: QoSProfile) -> bool:
    return bool(qos_check_compatible(publisher, subscription)[0] == QoSCompatibility.ERROR)
