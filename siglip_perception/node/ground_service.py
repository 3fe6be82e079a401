"""The service ~/ground: grounds phrases in an image, beside the instruction and the counts."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from siglip_perception.config import Settings
from siglip_perception.errors import PerceptionError
from siglip_perception.messages.wire import objects_message
from siglip_perception.node.conversions import rclpy_types, to_frame
from siglip_perception.node.frame_processor import FrameProcessor
from siglip_perception.node.lifecycle import ACTIVE, ManagedNode
from siglip_perception.node.worker import Worker, WorkerStoppedError
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.types import Frame


class GroundService:
    """Callback of the service; it waits for the worker, so give it its own callback group.

    newest: returns the newest frame of the camera with this name, or of the first camera for an
        empty name; raises PerceptionError.
    """

    def __init__(
        self,
        node: ManagedNode,
        worker: Worker,
        processor: FrameProcessor,
        newest: Callable[[str], PendingFrame],
    ) -> None:
        self._node = node
        self._worker = worker
        self._processor = processor
        self._newest = newest
        self._types = rclpy_types()

    def __call__(self, request: Any, response: Any) -> Any:
        try:
            self._answer(request, response)
            response.success = True
        except PerceptionError as error:
            response.message = str(error)
        except WorkerStoppedError:
            response.message = "the node is shutting down."
        except Exception:  # noqa: BLE001 - a request must not end the node
            self._node.get_logger().error(f"~/ground failed:\n{traceback.format_exc()}")
            response.message = "the model failed on this image; the node's log says why."
        return response

    def _answer(self, request: Any, response: Any) -> None:
        if self._node.state_id != ACTIVE:
            raise PerceptionError(f"the node is {self._node.state_label}; activate it first.")
        message = request.image
        decode: Callable[[Settings], Frame] = partial(to_frame, message, request.camera)
        if message.width == 0 and len(message.data) == 0:
            pending = self._newest(request.camera)
            message, decode = pending.message, partial(pending.stream.frame, pending)
        grounding = self._worker.call(
            lambda: self._processor.ground(
                list(request.phrases), decode, with_mask=request.with_mask
            )
        )
        response.result = objects_message(self._types, message.header, grounding)
