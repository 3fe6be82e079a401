"""Wiring of the node: topics, services and timers -> streams -> mailbox -> worker -> outputs."""

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
from siglip_perception.errors import PerceptionError, first_line
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
from siglip_perception.node.paced_group import PacedGroup
from siglip_perception.node.parameters import LiveSettings, log_overrides
from siglip_perception.node.pipeline_loader import Loader, load_pipeline, step_of
from siglip_perception.node.qos import QosWatch, depth_qos, image_qos, overridable
from siglip_perception.node.worker import Worker, WorkerTimeoutError
from siglip_perception.parameter import ConfigError
from siglip_perception.stream.camera_stream import CameraStream, PendingFrame

# Age, in seconds since its arrival, up to which ~/ground uses a camera's newest frame.
NEWEST_SECONDS = 2.0
# How often the graph is searched for another node of this name, in seconds.
NAMES_PERIOD = 1.0
# A depth image and a camera_info are taken once after each frame of their camera, and besides once
# in this time, in seconds, so that those are there which come before the first frame.
DEPTH_SECONDS = 0.05
# How long shutdown waits for subscribers to acknowledge, in seconds.
ACK_TIMEOUT = 0.3


class PerceptionNode(ManagedNode):
    """Loads the model in configure, uses it while active, frees it in cleanup.

    Spin it with a NodeExecutor. end: called once, from any thread, with a sentence when only a
    new process can help. arguments: the process' arguments, whose parameter files are logged.
    Raises ConfigError if a parameter's initial value is wrong.
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
        self._joins_tokens = False
        self._namesakes = 0
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._settings = LiveSettings(self, lambda: self.state_id == UNCONFIGURED)
        log_overrides(self, arguments)
        self._watch = QosWatch(self)
        self._outputs = NodeOutputs(self, self._watch)
        self._worker = Worker(self._on_crash)
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
        self._depth_groups: dict[str, tuple[PacedGroup, ...]] = {}

        self._diagnostics = Diagnostics(self, self._statuses)
        ground = GroundService(self, self._worker, self._processor, self._newest)
        self.create_service(
            Ground, "~/ground", ground, callback_group=MutuallyExclusiveCallbackGroup()
        )
        # On steady time: simulated time may stop, and a silent camera would go unnoticed.
        self.create_timer(WATCH_PERIOD, self._look_around, clock=self._steady)
        self.create_timer(NAMES_PERIOD, self._count_namesakes, clock=self._steady)
        self._jump = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_clock_jump,
        )
        self._worker.start()
        if self._settings.get().autostart:
            self._autostart_timer = self.create_timer(
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
        """End all work; the job under way gets `grace` seconds to finish and be published.

        Published messages get ACK_TIMEOUT seconds to arrive, so that ending the process right
        after this call loses none that the middleware still has to send.
        """
        self._worker.stop(grace)
        self._mailbox.close()
        self._outputs.close()
        self._diagnostics.finish()
        deadline = time.monotonic() + ACK_TIMEOUT
        for publisher in (*self._outputs.all(), self._diagnostics.publisher):
            timeout = Duration(seconds=max(deadline - time.monotonic(), 0.0))
            with suppress(rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
                publisher.wait_for_all_acked(timeout)

    def _start(self) -> None:
        """Configure and activate once, for the parameter `autostart`."""
        self._autostart_timer.cancel()
        if self.transition(self.trigger_configure, UNCONFIGURED):
            self.transition(self.trigger_activate, INACTIVE)

    def _transit(self, name: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        result, error = self.run_step(name, step)
        if name != "recovery":
            self._error = error
        return result

    def _configure(self) -> None:
        settings = self._settings.get()
        self.get_logger().info(f"loading the model {settings.selection.model!a}")
        self._load(settings)
        self._joins_tokens = self._processor.joins and len(settings.cameras) > 1
        self._outputs.create(settings.cameras, joins_tokens=self._joins_tokens)
        self._streams = {name: self._stream(name, settings) for name in settings.cameras}
        self._instructions.open()
        model = self._processor.model_state
        self.get_logger().info(
            f"loaded: {model.backend}; contract {model.contract}; objects: {model.grounding}"
        )

    def _load(self, settings: Settings) -> None:
        """Load the model; raises PerceptionError, which names the step, if it takes too long."""
        timeout = settings.load_timeout or None
        try:
            self._worker.call(self._processor.load, timeout)
        except WorkerTimeoutError as error:
            raise PerceptionError(
                f"loading the model {settings.selection.model!a} took longer than {timeout:g} s,"
                f" while {step_of(error.modules)}: give it more time with load_timeout, or another"
                " model; to try again, restart the node."
            ) from error

    def _activate(self) -> None:
        self._outputs.open()
        settings = self._settings.get()
        self._mailbox.open(settings.cameras if self._joins_tokens else ())
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
        self._depth_groups.clear()
        self._mailbox.close()
        # An empty job: once it has run, the frame being processed is published.
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
        """Return the camera's stream: the old one, with its counts, if the topic is unchanged."""
        topic = f"{name}/image" if name else "image"
        if settings.image_transport == "compressed":
            topic += "/compressed"
        resolved_topic = self.resolve_topic_name(topic)
        previous = self._streams.get(name)
        if previous is not None and previous.topic == resolved_topic:
            return previous
        return CameraStream(
            name,
            resolved_topic,
            decode_message,
            self._settings.get,
            self._now_ns,
            # With the old tracker no object's id is used twice.
            tracker=None if previous is None else previous.tracker,
        )

    def _receive(self, stream: CameraStream, message: Any) -> None:
        for group in self._depth_groups.get(stream.name, ()):
            group.allow()
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
        groups = self._depth_groups[stream.name] = (
            PacedGroup(DEPTH_SECONDS),
            PacedGroup(DEPTH_SECONDS),
        )
        return [
            self._subscribe(
                kind,
                topic,
                receive,
                depth_qos(),
                self._watch.subscription(self.resolve_topic_name(topic)),
                group,
            )
            for group, kind, topic, receive in (
                (groups[0], Image, f"{prefix}depth", stream.depth.receive_image),
                (groups[1], CameraInfo, f"{prefix}camera_info", stream.depth.receive_info),
            )
        ]

    def _subscribe(
        self,
        kind: Any,
        topic: str,
        receive: Callable[[Any], None],
        profile: Any,
        events: Any,
        group: PacedGroup | None = None,
    ) -> Any:
        """Subscribe with QoS overrides; raises ConfigError if one of them is wrong."""
        try:
            return self.create_subscription(
                kind,
                topic,
                receive,
                profile,
                callback_group=group,
                event_callbacks=events,
                qos_overriding_options=overridable(),
            )
        except (ParameterException, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise ConfigError(
                f"cannot subscribe to {topic} ({reason}): correct the parameters"
                f" qos_overrides.{self.resolve_topic_name(topic)}.subscription."
            ) from error

    def _look_around(self) -> None:
        """Look at the statuses and for latched instructions.

        On one timer: each time that rclpy waits, it visits all that the node waits for, which
        takes longer than this does.
        """
        self._diagnostics.watch()
        self._instructions.watch()

    def _count_namesakes(self) -> None:
        """Count the other nodes of this name, which ROS allows; log when there are more."""
        own = (self.get_name(), self.get_namespace())
        namesakes = max(0, self.get_node_names_and_namespaces().count(own) - 1)
        if namesakes > self._namesakes:
            self.get_logger().warning(
                f"there is another node with the name {self.get_fully_qualified_name()}: start"
                " each with a name (-r __node:=) or namespace (-r __ns:=) of its own"
            )
        self._namesakes = namesakes

    def _newest(self, camera: str) -> PendingFrame:
        """Return a camera's newest frame; that of the first camera for an empty name."""
        streams = self._streams
        if camera and camera not in streams:
            names = ", ".join(name for name in streams if name) or "none has a name"
            raise PerceptionError(f"there is no camera {camera[:40]!a}; cameras: {names}.")
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
        view = NodeView(
            self.state_label,
            self._error,
            self._processor.model_state,
            self._fatal,
            self._namesakes,
        )
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

    def _on_crash(self, error: BaseException) -> None:
        self.get_logger().fatal("".join(traceback.format_exception(error)))
        self._give_up(f"the worker failed: {type(error).__name__}")

    def _give_up(self, sentence: str) -> None:
        self._fatal = sentence
        self.get_logger().fatal(sentence)
        self._end(sentence)
