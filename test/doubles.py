"""Stand-ins for the model and the publishers, in tests of the node's parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from siglip_perception.config import Settings
from siglip_perception.images.fingerprint import pixel_fingerprint
from siglip_perception.node.conversions import decode_message
from siglip_perception.pipeline import Result
from siglip_perception.stream.camera_stream import CameraStream, PendingFrame
from siglip_perception.types import Frame, GroundedObject, Grounding, Task, TokenGrid


class ManualClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def image_message(stamp: float = 5.0, height: int = 4, width: int = 6, **changes: Any) -> Image:
    """An rgb8 image of zeros; stamp in seconds."""
    header = Header(stamp=Time(sec=int(stamp), nanosec=round(stamp % 1 * 1e9)), frame_id="optical")
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(bytes(height * width * 3))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def camera_stream(name: str = "") -> CameraStream:
    """A camera's stream at second 10."""
    return CameraStream(name, "/image", decode_message, Settings, lambda: 10_000_000_000)


def pending_frame(stream: CameraStream, message: Any = None) -> PendingFrame:
    """A message of the stream that is counted and on its way, whatever its stamp."""
    message = image_message() if message is None else message
    return stream.admit(message, stream.ledger.receive())


class FakePipeline:
    """Follows pipeline.Pipeline. `fail` is called with each frame and may raise, and so may
    `fail_text` with each instruction."""

    def __init__(self) -> None:
        self.contract = SimpleNamespace(name="fake", join_cameras=False, history=1)
        self.grounding_status = "by a stand-in"
        self.fingerprint = "f00d"
        self.backend = "none"
        self.backend_warnings: dict[str, str] = {}
        self.threshold: float | None = 0.0
        self.max_objects = 0
        self.encoded: list[tuple[str, int]] = []
        self.truncate: tuple[str, ...] = ()
        self.calls: list[dict[str, Any]] = []
        self.objects: Callable[[Frame], tuple[GroundedObject, ...]] = lambda frame: ()
        self.batches: list[int] = []
        self.fail: Callable[[Frame], None] = lambda frame: None
        self.fail_text: Callable[[Any], None] = lambda instruction: None

    def query(self, instruction: Any, instruction_id: int = 0) -> Any:
        self.fail_text(instruction)
        self.encoded.append((instruction.text, instruction_id))
        return SimpleNamespace(
            instruction=instruction.text,
            instruction_id=instruction_id,
            phrases=instruction.phrases,
            truncated=tuple(phrase in self.truncate for phrase in instruction.phrases),
        )

    def process(
        self, frame: Frame, query: Any, *, with_tokens: bool = True, with_mask: bool = False
    ) -> Any:
        self.fail(frame)
        self.calls.append(
            {"frame": frame, "query": query, "with_tokens": with_tokens, "with_mask": with_mask}
        )
        grounding = None
        if query is not None:
            grounding = Grounding(
                query.instruction,
                query.instruction_id,
                query.phrases,
                (0.5,) * len(query.phrases),
                self.objects(frame),
                "fake",
            )
        # Whose tokens they are can be told: they hold the frame's stamp in seconds.
        data = np.full((4, 3), frame.stamp_ns / 1e9, np.float32)
        pixels = tuple(pixel_fingerprint(frame.image).tolist())
        tokens = TokenGrid(data, "float32", 2, 2, "fake", "f00d", pixels)
        return Result(tokens if with_tokens else None, grounding, {"encode": 0.01})

    def process_batch(self, tasks: Sequence[Task]) -> list[Any]:
        results: list[Any] = []
        self.batches.append(len(tasks))
        for task in tasks:
            try:
                results.append(self.process(task.frame, task.query, with_mask=task.with_mask))
            except FloatingPointError as error:
                results.append(error.with_traceback(None))  # the real ones were never raised
        return results


@dataclass
class FakeOutputs:
    """Follows frame_processor.Outputs; `fail` and `fail_overlay` are raised where they are set."""

    is_open: bool = True
    overlay: bool = False
    listened: bool = True
    joined: list[Any] = field(default_factory=list)
    published: list[Any] = field(default_factory=list)
    overlays: int = 0
    fail: Exception | None = None
    fail_overlay: Exception | None = None

    def wants_mask(self, camera: str) -> bool:
        return self.overlay

    def wants_objects(self, camera: str) -> bool:
        return self.listened

    def publish_joined(self, tokens: Any) -> bool:
        if self.fail is not None:
            raise self.fail
        if self.is_open:
            self.joined.append(tokens)
        return self.is_open

    def publish(self, item: Any, result: Any, publish_mask: bool) -> bool:
        if self.fail is not None:
            raise self.fail
        if self.is_open:
            self.published.append((item, result, publish_mask))
        return self.is_open

    def publish_views(self, item: Any, frame: Frame, result: Any, quality: int) -> None:
        if self.fail_overlay is not None:
            raise self.fail_overlay
        self.overlays += self.overlay
