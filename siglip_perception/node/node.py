"""The node's wiring: topics, services and timers -> streams -> mailbox -> worker -> outputs."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from siglip_perception_msgs.srv import Ground

from siglip_perception.config import Settings
from siglip_perception.errors import PerceptionError
from siglip_perception.node.conversions import decode_message
from siglip_perception.node.diagnostic_status import (
    NodeView,
    Status,
    camera_status,
    instruction_status,
    node_status,
    topics_status,
)
from siglip_perception.node.diagnostics import WATCH_PERIOD, Diagnostics
from siglip_perception.node.frame_processor import FrameProcessor
from siglip_perception.node.ground_service import GroundService
from siglip_perception.node.instruction_topic import InstructionTopic
from siglip_perception.node.lifecycle import (
    INACTIVE,
    UNCONFIGURED,
    LifecycleState,
    ManagedNode,
    TransitionCallbackReturn,
)
from siglip_perception.node.mailbox import Mailbox
from siglip_perception.node.outputs import NodeOutputs
from siglip_perception.node.parameters import LiveSettings, tell_overrides
from siglip_perception.node.pipeline_loader import Loader, load_pipeline
from siglip_perception.node.qos import QosWatch, image_qos, overridable
from siglip_perception.node.worker import Worker
from siglip_perception.parameter import ConfigError
from siglip_perception.stream.camera_stream import CameraStream, PendingFrame

# ~/ground does not answer from a frame that came longer ago than this.
NEWEST_SECONDS = 2.0
# For what was published before the end to arrive, in seconds.
ACK_TIMEOUT = 0.3


class PerceptionNode(ManagedNode):
    """Loads the model in configure, uses it in active, frees it in cleanup.

    Spin it with a NodeExecutor. end: called once, from any thread, with a sentence when only a
    new process can help. arguments: of the process, of which the log says what they gave.
    Raises ConfigError where a parameter given at the start is wrong.
    """

    def __init__(
        self,
        end: Callable[[str], None],
        load: Loader = load_pipeline,
        arguments: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__("siglip_perception", **options)
        self._end = end
        self._error = self._fatal = ""
        self._joined = False
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._settings = LiveSettings(self, lambda: self.state_id == UNCONFIGURED)
        tell_overrides(self, arguments)
        self._watch = QosWatch(self)
        self._outputs = NodeOutputs(self, self._watch)
        self._worker = Worker(self._crashed)
        self._processor = FrameProcessor(
            self._outputs,
            load,
            self._settings.get,
            self.get_logger().error,
            self._give_up,
        )
        self._mailbox = Mailbox(self._processor.serve, self._worker.notify)
        self._instructions = InstructionTopic(
            self, self._watch, self._processor.hear, self._worker.notify
        )
        self._worker.add(self._instructions)
        self._worker.add(self._mailbox)
        self._streams: dict[str, CameraStream] = {}
        self._image_subscriptions: list[Any] = []

        self._diagnostics = Diagnostics(self, self._statuses)
        ground = GroundService(self, self._worker, self._processor, self._newest)
        self.create_service(
            Ground, "~/ground", ground, callback_group=MutuallyExclusiveCallbackGroup()
        )
        # A timer on simulated time would stand still with it, and so would the watch on silence.
        self.create_timer(WATCH_PERIOD, self._diagnostics.watch, clock=self._steady)
        self.create_timer(WATCH_PERIOD, self._instructions.watch, clock=self._steady)
        self._jump = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_clock_jump,
        )
        self._worker.start()
        if self._settings.get().autostart:
            self._once = self.create_timer(
                0.0, self._start, callback_group=self.lifecycle_group, clock=self._steady
            )

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transit("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transit("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transit("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transit("cleanup", self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transit("shutdown", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transit("recovery", self._release)

    def stop(self, grace: float) -> None:
        """Ends all work; what is under way gets `grace` seconds to be finished and published.

        What was published gets ACK_TIMEOUT seconds to arrive: whoever ends the process after this
        takes nothing with it that the middleware still had to send.
        """
        self._worker.stop(grace)
        self._mailbox.close()
        self._outputs.close()
        self._diagnostics.finish()
        deadline = time.monotonic() + ACK_TIMEOUT
        for publisher in (*self._outputs.all(), self._diagnostics.publisher):
            left = Duration(seconds=max(deadline - time.monotonic(), 0.0))
            with suppress(rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
                publisher.wait_for_all_acked(left)

    def _start(self) -> None:
        """Configures and activates once, without anybody asking."""
        self._once.cancel()
        if self.transition(self.trigger_configure, UNCONFIGURED):
            self.transition(self.trigger_activate, INACTIVE)

    def _transit(self, what: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        result, error = self.guarded(what, step)
        if what != "recovery":
            self._error = error
        return result

    def _configure(self) -> None:
        settings = self._settings.get()
        self.get_logger().info(f"loading the model {settings.model!a}")
        self._worker.call(self._processor.load)
        self._joined = self._processor.joins and len(settings.cameras) > 1
        self._outputs.create(settings.cameras, joined=self._joined)
        self._streams = {name: self._stream(name, settings) for name in settings.cameras}
        self._instructions.open()
        model = self._processor.model_state
        self.get_logger().info(
            f"loaded: {model.backend}; contract {model.contract}; objects: {model.grounding}"
        )

    def _activate(self) -> None:
        self._outputs.open()
        settings = self._settings.get()
        self._mailbox.open(settings.cameras if self._joined else ())
        try:
            for stream in self._streams.values():
                stream.start()
                self._image_subscriptions.append(self._subscribe_images(stream, settings))
                if settings.depth_enabled:
                    self._image_subscriptions += self._subscribe_depth(stream)
        except ConfigError:
            self._deactivate()
            raise

    def _deactivate(self) -> None:
        while self._image_subscriptions:
            self.destroy_subscription(self._image_subscriptions.pop())
        self._mailbox.close()
        # The frame that is being processed is still published: wait for it.
        self._worker.call(lambda: None)
        self._outputs.close()
        for stream in self._streams.values():
            stream.stop()
            self._watch.clear(stream.topic)

    def _cleanup(self) -> None:
        self._instructions.close()
        self._worker.call(self._processor.unload)
        self._outputs.destroy()

    def _release(self) -> None:
        self._deactivate()
        self._cleanup()

    def _stream(self, name: str, settings: Settings) -> CameraStream:
        """The camera's stream, with the counts that it has where its topic is the same."""
        topic = f"{name}/image" if name else "image"
        if settings.image_transport == "compressed":
            topic += "/compressed"
        resolved = self.resolve_topic_name(topic)
        known = self._streams.get(name)
        if known is not None and known.topic == resolved:
            return known
        return CameraStream(
            name,
            resolved,
            decode_message,
            self._settings.get,
            self._now_ns,
            # No number of an object is used twice.
            tracker=None if known is None else known.tracker,
        )

    def _receive(self, stream: CameraStream, message: Any) -> None:
        pending = stream.receive(message)
        if pending is not None:
            self._mailbox.put(pending)

    def _subscribe_images(self, stream: CameraStream, settings: Settings) -> Any:
        return self._subscribe(
            CompressedImage if settings.image_transport == "compressed" else Image,
            stream.topic,
            partial(self._receive, stream),
            image_qos(settings.image_reliability),
            self._watch.subscription(stream.topic, stream.ledger.lose),
        )

    def _subscribe_depth(self, stream: CameraStream) -> list[Any]:
        prefix = f"{stream.name}/" if stream.name else ""
        return [
            self._subscribe(
                kind,
                topic,
                receive,
                image_qos("best_effort"),
                self._watch.subscription(self.resolve_topic_name(topic)),
            )
            for kind, topic, receive in (
                (Image, f"{prefix}depth", stream.depth.receive_image),
                (CameraInfo, f"{prefix}camera_info", stream.depth.receive_info),
            )
        ]

    def _subscribe(
        self, kind: Any, topic: str, receive: Callable[[Any], None], profile: Any, events: Any
    ) -> Any:
        """A subscription with QoS overrides; ConfigError where one of them is wrong."""
        try:
            return self.create_subscription(
                kind,
                topic,
                receive,
                profile,
                event_callbacks=events,
                qos_overriding_options=overridable(),
            )
        except (ParameterException, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ConfigError(
                f"cannot subscribe to {topic} ({reason}): mend the parameters"
                f" qos_overrides.{self.resolve_topic_name(topic)}.subscription."
            ) from error

    def _newest(self, camera: str) -> PendingFrame:
        """The newest frame of a camera, of the first one where no name is given."""
        streams = self._streams
        if camera and camera not in streams:
            known = ", ".join(name for name in streams if name) or "none has a name"
            raise PerceptionError(f"there is no camera {camera[:40]!a}; cameras: {known}.")
        stream = streams[camera] if camera else next(iter(streams.values()))
        pending, since = stream.newest()
        if pending is None:
            raise PerceptionError(f"no usable frame has come on {stream.topic} yet.")
        if since > NEWEST_SECONDS:
            raise PerceptionError(f"the newest frame on {stream.topic} came {since:.1f} s ago.")
        return pending

    def _statuses(self) -> list[Status]:
        now = time.monotonic()
        rate = self._settings.get().expected_rate
        mismatches = self._watch.mismatches()
        streams = list(self._streams.values())
        cameras = [
            camera_status(stream.view(), now, rate, mismatches.pop(stream.topic, None))
            for stream in streams
        ]
        view = NodeView(self.state_label, self._error, self._processor.model_state, self._fatal)
        return [
            node_status(view, now),
            instruction_status(self._processor.instruction_state, self._instructions.superseded),
            topics_status(list(mismatches.values())),
            *cameras,
        ]

    def _on_clock_jump(self, jump: Any) -> None:
        for stream in self._streams.values():
            stream.flush("the clock jumped back")
        self._mailbox.drop_stale()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _crashed(self, error: BaseException) -> None:
        self.get_logger().fatal("".join(traceback.format_exception(error)))
        self._give_up(f"the worker failed: {type(error).__name__}")

    def _give_up(self, sentence: str) -> None:
        self._fatal = sentence
        self.get_logger().fatal(sentence)
        self._end(sentence)
