"""QoS of every topic, and reports of incompatible peers, which would otherwise be silent."""

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

# Queue depth of each of the two subscriptions to the instruction.
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
    """Return rclpy's sensor-data profile, reliable on request."""
    return _profile(5, reliable=reliability == "reliable")


def depth_qos() -> QoSProfile:
    """Return a best-effort profile of depth 1, for depth images and camera_info."""
    return _profile(1, reliable=False)


def output_qos() -> QoSProfile:
    """Return a reliable profile of depth 1: a slow subscriber misses frames but blocks nobody."""
    return _profile(1, reliable=True)


def instruction_qos(latched: bool) -> QoSProfile:
    """Return the profile of one of the two subscriptions; instruction_topic.py needs both.

    A volatile subscription gets no stored sample; a transient-local one does not match a volatile
    publisher.
    """
    return _profile(INSTRUCTION_DEPTH, reliable=True, latched=latched)


def overridable() -> QoSOverridingOptions:
    """Let users set history, depth and reliability by the parameters `qos_overrides...`."""
    return QoSOverridingOptions.with_default_policies()


@dataclass(frozen=True)
class Mismatch:
    """A peer with incompatible QoS. policy: such as RELIABILITY. peer: publisher, subscription."""

    topic: str
    policy: str
    peer: str

    def __str__(self) -> str:
        return (
            f"a {self.peer} on {self.topic} has an incompatible {self.policy}: no message passes "
            "between it and this node"
        )


class QosWatch:
    """Keeps incompatible peers by topic. Thread-safe.

    The middleware reports a peer that comes; the ROS graph shows when it has gone.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._mismatches: dict[str, Mismatch] = {}

    def mismatches(self) -> dict[str, Mismatch]:
        """Return the incompatible peers that still exist, one per topic."""
        with self._lock:
            mismatches = dict(self._mismatches)
        obsolete = [topic for topic, item in mismatches.items() if not self._persists(item)]
        for topic in obsolete:
            self.clear(topic)
            del mismatches[topic]
        return mismatches

    def _persists(self, mismatch: Mismatch) -> bool:
        """Return True if some peer matches none of this node's endpoints on the topic."""
        publishers = self._node.get_publishers_info_by_topic(mismatch.topic)
        subscriptions = self._node.get_subscriptions_info_by_topic(mismatch.topic)
        # Both sides' profiles come from the graph: in a profile made here "no deadline" is 0,
        # which does not match the graph's infinity.
        if mismatch.peer == "publisher":
            local = [info.qos_profile for info in subscriptions if self._is_local(info)]
            return any(
                all(_clash(peer.qos_profile, profile) for profile in local) for peer in publishers
            )
        local = [info.qos_profile for info in publishers if self._is_local(info)]
        return any(
            all(_clash(profile, peer.qos_profile) for profile in local) for peer in subscriptions
        )

    def _is_local(self, endpoint: Any) -> bool:
        node = (self._node.get_name(), self._node.get_namespace())
        return (endpoint.node_name, endpoint.node_namespace) == node

    def clear(self, topic: str) -> None:
        with self._lock:
            self._mismatches.pop(topic, None)

    def subscription(
        self,
        topic: str,
        on_loss: Callable[[int], None] | None = None,
        intended_mismatch: QoSPolicyKind | None = None,
    ) -> SubscriptionEventCallbacks:
        """Return the event callbacks of a subscription to this resolved topic.

        on_loss: called with the number of messages that the middleware lost.
        intended_mismatch: a policy that differs from some publishers' on purpose.
        """

        def on_incompatible_qos(event: Any) -> None:
            if event.last_policy_kind != intended_mismatch:
                self._note(topic, event.last_policy_kind, "publisher")

        def on_message_lost(event: Any) -> None:
            if on_loss is not None:
                on_loss(event.total_count_change)

        return SubscriptionEventCallbacks(
            incompatible_qos=on_incompatible_qos,
            message_lost=None if on_loss is None else on_message_lost,
        )

    def publisher(self, topic: str) -> PublisherEventCallbacks:
        """Return the event callbacks of a publisher on this resolved topic."""
        return PublisherEventCallbacks(
            incompatible_qos=lambda event: self._note(
                topic, event.last_policy_kind, "subscription"
            )
        )

    def _note(self, topic: str, kind: Any, peer: str) -> None:
        mismatch = Mismatch(topic, qos_policy_name_from_kind(kind), peer)
        with self._lock:
            self._mismatches[topic] = mismatch


def _clash(publisher: QoSProfile, subscription: QoSProfile) -> bool:
    return bool(qos_check_compatible(publisher, subscription)[0] == QoSCompatibility.ERROR)
