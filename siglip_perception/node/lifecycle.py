"""A lifecycle node that stays responsive during transitions and logs why one failed."""

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
    """Avoids three traps of rclpy's LifecycleNode.

    - Its services share one callback group with everything else, so loading a model would block
      the node: here they have their own group (spin the node with a NodeExecutor).
    - A transition that the state does not allow raises out of the executor and ends the process:
      here it is refused.
    - An exception in a transition is swallowed: here it is logged.
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
        """The state's label: unconfigured, inactive, active, finalized, configuring and so on."""
        return str(self._state_machine.current_state[1])

    @property
    def state_id(self) -> int:
        return int(self._state_machine.current_state[0])

    def transition(self, trigger: Callable[[], Any], allowed_in: int) -> bool:
        """Run trigger_configure() or the like; return True if it was allowed and succeeded."""
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
            transition = request.transition
            possible = self._state_machine.available_transitions
            if not any(
                transition.label == item[1] or transition.id == item[0] for item in possible
            ):
                self.get_logger().error(
                    f"refused the transition {transition.label!a} ({transition.id}), which is not "
                    f"possible while {self.state_label}"
                )
                response.success = False
                return response
            return inner(request, response)
        finally:
            self._transition.release()

    def run_step(
        self, name: str, step: Callable[[], None]
    ) -> tuple[TransitionCallbackReturn, str]:
        """Run a transition's work; return rclpy's result and, if it failed, a sentence.

        An error of the user is a FAILURE and one line in the log, any other error an ERROR and a
        traceback.
        """
        try:
            step()
        except WorkerStoppedError:
            return TransitionCallbackReturn.FAILURE, "the node is shutting down"
        except PerceptionError as error:
            self.get_logger().error(f"{name} failed: {error}")
            return TransitionCallbackReturn.FAILURE, f"{name} failed: {error}"
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it
            self.get_logger().error(f"{name} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR, f"{name} failed: {type(error).__name__}"
        return TransitionCallbackReturn.SUCCESS, ""


UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED
INACTIVE = State.PRIMARY_STATE_INACTIVE
ACTIVE = State.PRIMARY_STATE_ACTIVE
