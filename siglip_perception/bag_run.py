"""One replay: what holds while a bag is read, and what becomes of each of its messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer
from rosbags.typesys.store import Typestore

from siglip_perception import instruction, wire
from siglip_perception.bag_depth import DepthWait
from siglip_perception.bag_files import decode_image, deserialise
from siglip_perception.bag_topics import RAW, under
from siglip_perception.config import Settings
from siglip_perception.depth_feed import nanoseconds
from siglip_perception.errors import ImageError, InstructionError
from siglip_perception.numbering import Numbering
from siglip_perception.pace import Pace
from siglip_perception.pipeline import Pipeline, Query
from siglip_perception.tracking import Tracker, TrackingOptions
from siglip_perception.types import Frame, Grounding, TokenGrid, UInt8Array, join

PACKAGE = "siglip_perception_msgs/msg"

_Pending = tuple[Connection, int, Any, Query | None]
Overlay = Callable[[str, int, UInt8Array, Grounding], None]


@dataclass(frozen=True)
class ReplayOptions:
    """What of a bag is replayed.

    image_topics: empty takes every image topic but depth images and this package's own outputs.
    instruction: the one that holds until the first message on instruction_topic.
    grounding_rate: images a second, by their stamps, in which objects are looked for; 0: in all.
    tracking: objects get an id across frames; None: they do not.
    depth_topic, info_topic: registered depth images and their CameraInfo; both empty: no depth.
    depth_tolerance: how far in time they may lie from a colour image, in seconds.
    overlay: called with (camera, number of the image, image, grounding) for each grounded image.
    """

    image_topics: tuple[str, ...] = ()
    instruction_topic: str = "/instruction"
    instruction: str = ""
    with_mask: bool = False
    max_pixels: int = Settings.max_pixels
    mono16_white: int = Settings.mono16_white
    grounding_rate: float = Settings.grounding_rate
    overlay: Overlay | None = None
    tracking: TrackingOptions | None = None
    depth_topic: str = ""
    info_topic: str = ""
    depth_tolerance: float = Settings.depth_tolerance


@dataclass
class Summary:
    """What became of a bag: images = tokens + sum(dropped.values()), unless cameras are joined.

    repaired: images that were decoded although their files had faults, by the fault's name.
    found: for each instruction, for each of its phrases, the number of images that showed it.
    depth: images with objects by what became of their depth, as DepthView.counts.
    """

    images: int = 0
    tokens: int = 0
    objects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    instructions: int = 0
    rejected: int = 0
    grounded: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    depth: Mapping[str, int] = field(default_factory=dict)


class Run:
    """The state of one replay."""

    def __init__(
        self,
        pipeline: Pipeline,
        options: ReplayOptions,
        store: Typestore,
        writer: Writer,
        cameras: Mapping[str, str],
    ) -> None:
        self.summary = Summary()
        self._pipeline = pipeline
        self._options = options
        self._store = store
        self._writer = writer
        self._cameras = cameras
        self._types = wire.rosbags_types(store)
        self._pace = Pace(lambda: options.grounding_rate)
        self._joins = pipeline.contract.join_cameras and len(cameras) > 1
        self._waiting: dict[str, tuple[Any, TokenGrid]] = {}
        self._outputs = {
            (topic, "objects"): self._output(under(camera, "objects"), "GroundedObjectArray")
            for topic, camera in cameras.items()
        }
        if self._joins:
            joined = self._output(under("", "tokens"), "TokenSequence")
            self._outputs |= {(topic, "tokens"): joined for topic in cameras}
        else:
            self._outputs |= {
                (topic, "tokens"): self._output(under(camera, "tokens"), "TokenSequence")
                for topic, camera in cameras.items()
            }
        self._query: Query | None = None
        self._numbering = Numbering()
        self._trackers: dict[str, Tracker] = {}
        self._shown = 0
        self._wait: DepthWait[_Pending] = DepthWait()
        if options.instruction:
            self.instruct(options.instruction, refuse=True)

    def _output(self, topic: str, kind: str) -> Connection:
        return self._writer.add_connection(topic, f"{PACKAGE}/{kind}", typestore=self._store)

    def instruct(self, text: str, *, refuse: bool = False) -> None:
        """Take an instruction; a rejected one leaves none, so that no stale goal is sought."""
        try:
            parsed = instruction.parse(text)
        except InstructionError:
            if refuse:
                raise
            self.summary.rejected += 1
            self._numbering.withdraw()
            self._query = None
            return
        self.summary.instructions += 1
        number = self._numbering.accept(parsed.text)
        able = parsed.phrases and self._pipeline.can_ground
        self._query = self._pipeline.query(parsed, number) if able else None

    def image(self, connection: Connection, stamp: int, data: bytes) -> None:
        """Process one image message, or count why it was dropped."""
        self.summary.images += 1
        try:
            message = deserialise(self._store, connection, data)
        except ImageError as error:
            self.summary.dropped[error.reason] += 1
            return
        self._wait.put(stamp, nanoseconds(message), (connection, stamp, message, self._query))
        if not self._options.depth_topic:
            self.finish()

    def depth(self, connection: Connection, data: bytes) -> None:
        """Take a depth image or a camera info; one that cannot be read is left out."""
        with suppress(ImageError):
            message = deserialise(self._store, connection, data)
            if connection.msgtype == RAW:
                self._wait.feed.receive_image(message)
            else:
                self._wait.feed.receive_info(message)

    def settle(self, now_ns: int) -> None:
        """Process the images that need not wait for their depth any longer."""
        for waiting in self._wait.ready(now_ns):
            self._process(*waiting)

    def finish(self) -> None:
        """Process every image that still waits."""
        for waiting in self._wait.rest():
            self._process(*waiting)
        self.summary.depth = self._wait.feed.view().counts

    def _process(
        self, connection: Connection, stamp: int, message: Any, asked: Query | None
    ) -> None:
        camera = self._cameras[connection.topic]
        header = message.header
        try:
            frame = self._frame(connection, message, camera)
            due = asked is not None and self._pace.due(camera, frame.stamp_ns or stamp)
            query = asked if due else None
            result = self._pipeline.process(frame, query, with_mask=due and self._with_mask())
        except ImageError as error:
            self.summary.dropped[error.reason] += 1
            return
        except FloatingPointError:
            self.summary.dropped["not_finite"] += 1
            return
        if result.tokens is not None:
            self._tokens(connection.topic, stamp, header, result.tokens)
        if result.grounding is None:
            return
        grounding = self._tracked(frame, result.grounding, stamp)
        self._count(grounding)
        if self._options.overlay is not None:
            self._shown += 1
            self._options.overlay(camera, self._shown, frame.image, grounding)
        if not self._options.with_mask:
            grounding = replace(grounding, mask=None)
        objects = wire.objects_message(self._types, header, grounding)
        self._write(connection.topic, "objects", stamp, objects)
        self.summary.objects += 1

    def _tokens(self, topic: str, stamp: int, header: Any, grid: TokenGrid) -> None:
        """The tokens of one image, or of all cameras once each has a new one."""
        if self._joins:
            self._waiting[topic] = header, grid
            if len(self._waiting) < len(self._cameras):
                return
            ordered = [self._waiting[topic] for topic in self._cameras]
            self._waiting.clear()
            headers = [header for header, _ in ordered]
            oldest = min(headers, key=lambda one: (one.stamp.sec, one.stamp.nanosec))
            header = self._types.Header(stamp=oldest.stamp, frame_id=headers[0].frame_id)
            grid = join([grid for _, grid in ordered])
        message = wire.tokens_message(self._types, header, grid)
        self._write(topic, "tokens", stamp, message)
        self.summary.tokens += 1

    def _with_mask(self) -> bool:
        return self._options.with_mask or self._options.overlay is not None

    def _count(self, grounding: Grounding) -> None:
        self.summary.grounded[grounding.instruction] += 1
        found = self.summary.found.setdefault(
            grounding.instruction, Counter(dict.fromkeys(grounding.phrases, 0))
        )
        found.update({answer.phrase for answer in grounding.objects})

    def _tracked(self, frame: Frame, grounding: Grounding, received_ns: int) -> Grounding:
        if self._options.tracking is None:
            return grounding
        return self._trackers.setdefault(frame.camera, Tracker()).update(
            grounding,
            frame.stamp_ns or received_ns,
            (frame.width, frame.height),
            self._options.tracking,
            self._pipeline.max_objects,
        )

    def _frame(self, connection: Connection, message: Any, camera: str) -> Frame:
        options = self._options
        picture = decode_image(
            message, connection.msgtype, options.max_pixels, options.mono16_white
        )
        self.summary.repaired.update(picture.repairs)
        frame = Frame(picture.pixels, nanoseconds(message), message.header.frame_id, camera)
        if not self._options.depth_topic:
            return frame
        depth = partial(
            self._wait.feed.depth,
            frame.stamp_ns,
            frame.width,
            frame.height,
            self._options.depth_tolerance,
        )
        return replace(frame, depth=depth)

    def _write(self, topic: str, part: str, stamp: int, message: Any) -> None:
        connection = self._outputs[topic, part]
        self._writer.write(
            connection, stamp, self._store.serialize_cdr(message, connection.msgtype)
        )
