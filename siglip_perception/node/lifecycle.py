"""A LifecycleNode that answers while a transition takes its time, and says why one failed."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from siglip_perception.errors import PerceptionError
from siglip_perception.node.worker import WorkerStoppedError

__all__ = ["LifecycleState", "ManagedNode", "TransitionCallbackReturn"]


class ManagedNode(LifecycleNodeMixin, Node):  # type: ignore[misc]
    """Overcomes three traps of rclpy's LifecycleNode.

    - Its services share one callback group with everything else, so that loading a model would
      block the node: here they have a group of their own (spin it with a NodeExecutor).
    - A transition that the state does not allow raises out of the executor and ends the process:
      here it is refused.
    - An exception in a transition vanishes without a word: here it is logged.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.lifecycle_group = ReentrantCallbackGroup()
        self._transition = threading.Lock()
        Node.__init__(self, name, **options)
        LifecycleNodeMixin.__init__(self, callback_group=self.lifecycle_group)
        service = self._service_change_state
        inner = service.callback
        service.callback = lambda request, response: self._change(inner, request, response)

    @property
    def state_label(self) -> str:
        """unconfigured, inactive, active, finalized, or a transition's such as configuring."""
        return str(self._state_machine.current_state[1])

    @property
    def state_id(self) -> int:
        return int(self._state_machine.current_state[0])

    def transition(self, trigger: Callable[[], Any], allowed_in: int) -> bool:
        """Runs trigger_configure() and the like; whether it was allowed and succeeded."""
        with self._transition:
            if self.state_id != allowed_in:
                return False
            return bool(trigger() == TransitionCallbackReturn.SUCCESS)

    def _change(self, inner: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        if not self._transition.acquire(blocking=False):
            self.get_logger().error("refused a transition: another one is under way")
            response.success = False
            return response
        try:
            wanted = request.transition
            possible = self._state_machine.available_transitions
            if not any(wanted.label == item[1] or wanted.id == item[0] for item in possible):
                self.get_logger().error(
                    f"refused the transition {wanted.label!a} ({wanted.id}), which is not "
                    f"possible while {self.state_label}"
                )
                response.success = False
                return response
            return inner(request, response)
        finally:
            self._transition.release()

    def guarded(self, what: str, step: Callable[[], None]) -> tuple[TransitionCallbackReturn, str]:
        """Runs a transition's work; what rclpy is to be told, and a sentence where it failed.

        A user's error is a FAILURE and one line in the log, any other an ERROR and a traceback.
        """
        try:
            step()
        except WorkerStoppedError:
            return TransitionCallbackReturn.FAILURE, "the node is ending"
        except PerceptionError as error:
            self.get_logger().error(f"{what} failed: {error}")
            return TransitionCallbackReturn.FAILURE, f"{what} failed: {error}"
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it
            self.get_logger().error(f"{what} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR, f"{what} failed: {type(error).__name__}"
        return TransitionCallbackReturn.SUCCESS, ""


UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED
INACTIVE = State.PRIMARY_STATE_INACTIVE
ACTIVE = State.PRIMARY_STATE_ACTIVE
