"""~/ground: phrases found in an image, apart from the running instruction and its counts."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from siglip_perception.errors import PerceptionError
from siglip_perception.messages.wire import objects_message
from siglip_perception.node.conversions import rclpy_types
from siglip_perception.node.frame_processor import Perceiver
from siglip_perception.node.lifecycle import ACTIVE, ManagedNode
from siglip_perception.node.worker import Worker, WorkerStoppedError


class GroundService:
    """The service's callback; it waits for the worker, so give it a callback group of its own.

    newest: a camera's name, or an empty one -> its newest message and its name; raises
    PerceptionError.
    """

    def __init__(
        self,
        node: ManagedNode,
        worker: Worker,
        perceiver: Perceiver,
        newest: Callable[[str], tuple[Any, str]],
    ) -> None:
        self._node = node
        self._worker = worker
        self._perceiver = perceiver
        self._newest = newest
        self._types = rclpy_types()

    def __call__(self, request: Any, response: Any) -> Any:
        try:
            self._answer(request, response)
            response.success = True
        except PerceptionError as error:
            response.message = str(error)
        except WorkerStoppedError:
            response.message = "the node is ending."
        except Exception:  # noqa: BLE001 - a question must not end the node
            self._node.get_logger().error(f"~/ground failed:\n{traceback.format_exc()}")
            response.message = "the model failed on this image; the node's log says why."
        return response

    def _answer(self, request: Any, response: Any) -> None:
        if self._node.state_id != ACTIVE:
            raise PerceptionError(f"the node is {self._node.state_label}; activate it first.")
        message, camera = request.image, request.camera
        own = message.width == 0 and len(message.data) == 0
        if own:
            message, camera = self._newest(camera)
        grounding = self._worker.call(
            lambda: self._perceiver.ground(
                list(request.phrases), message, camera, request.with_mask, with_depth=own
            )
        )
        response.result = objects_message(self._types, message.header, grounding)
