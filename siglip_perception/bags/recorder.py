"""One replay: what holds while a bag is read, and what becomes of each of its messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer
from rosbags.typesys.store import Typestore

from siglip_perception.bags.depth_wait import DepthWait
from siglip_perception.bags.messages import (
    PACKAGE,
    RAW,
    BagTopic,
    decode_image,
    deserialize,
    image_type,
)
from siglip_perception.bags.topics import under
from siglip_perception.config import INSTRUCTION_TOPIC, Settings
from siglip_perception.errors import ImageError, InstructionError
from siglip_perception.grounding.tracking import Tracker, TrackingOptions
from siglip_perception.language import instruction
from siglip_perception.language.instruction_ids import Numbering
from siglip_perception.messages import wire
from siglip_perception.stream.depth_feed import nanoseconds
from siglip_perception.stream.rate_limit import RateLimiter
from siglip_perception.types import Frame, Grounding, TokenGrid, UInt8Array, join

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds; what is wrong with a bag is said before.
    from siglip_perception.pipeline import Pipeline, Query

_Pending = tuple[BagTopic, int, Any, "Query | None"]
Overlay = Callable[[str, int, UInt8Array, Grounding], None]


@dataclass(frozen=True)
class ReplayOptions:
    """What of a bag is replayed.

    image_topics: empty takes every camera's, see bag_topics.choose_cameras().
    instruction: the one that holds until the first message on instruction_topic.
    mono16_white: the value of 16-bit gray images that is white; 0: they are dropped.
    grounding_rate: images a second, by their stamps, in which objects are looked for; 0: in all.
    tracking: objects get an id across frames; None: they do not.
    depth_topic, info_topic: registered depth images and their CameraInfo; both empty: no depth.
    depth_tolerance: how far in time they may lie from a color image, in seconds.
    overlay: called with (camera, number of the image, image, grounding) for each grounded image.
    """

    image_topics: tuple[str, ...] = ()
    instruction_topic: str = INSTRUCTION_TOPIC
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
    drops: for each topic, the number of images dropped for each reason. examples: for a topic and
    a reason, what was wrong with the first of them. unread: for each topic of instructions or of
    depth, the messages whose bytes were none. missing: for each topic that held fewer messages
    than the bag promises, (there, promised). notes: what was odd about the bag, in words.
    doubts: for each instruction that names nothing or is a guess, how it was read.
    found: for each instruction, for each of its phrases, the number of images that showed it.
    depth: images with objects by what became of their depth, as DepthView.counts.
    """

    images: int = 0
    tokens: int = 0
    objects: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    drops: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    missing: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    instructions: int = 0
    rejected: int = 0
    doubts: dict[str, str] = field(default_factory=dict)
    grounded: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    depth: Mapping[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> Counter[str]:
        """The number of images dropped for each reason, of all topics."""
        return sum(self.drops.values(), Counter[str]())

    def drop(self, topic: str, reason: str, text: str) -> None:
        """Count an image that is dropped; text: one sentence about it."""
        self.drops.setdefault(topic, Counter())[reason] += 1
        self.examples.setdefault((topic, reason), text)


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
        self._pace = RateLimiter(lambda: options.grounding_rate)
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
        if parsed.text and parsed.explanation:
            self.summary.doubts[parsed.text] = parsed.explanation
        number = self._numbering.accept(parsed.text)
        able = parsed.phrases and self._pipeline.can_ground
        self._query = self._pipeline.query(parsed, number) if able else None

    def hear(self, topic: BagTopic, data: bytes) -> None:
        """Take an instruction's message; count one that cannot be read, which changes nothing."""
        try:
            text = deserialize(self._store, topic, data).data
        except ImageError:
            self.summary.unread[topic.name] += 1
            return
        self.instruct(text)

    def image(self, topic: BagTopic, stamp: int, data: bytes) -> None:
        """Process one image message, or count why it was dropped."""
        self.summary.images += 1
        try:
            message = deserialize(self._store, topic, data)
        except ImageError as error:
            self.summary.drop(topic.name, error.reason, str(error))
            return
        self._wait.put(stamp, nanoseconds(message), (topic, stamp, message, self._query))
        if not self._options.depth_topic:
            self.finish()

    def depth(self, topic: BagTopic, data: bytes) -> None:
        """Take a depth image or a camera info; one that cannot be read is counted."""
        try:
            message = deserialize(self._store, topic, data)
        except ImageError:
            self.summary.unread[topic.name] += 1
            return
        if topic.type == RAW:
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

    def _process(self, topic: BagTopic, stamp: int, message: Any, asked: Query | None) -> None:
        camera = self._cameras[topic.name]
        header = message.header
        try:
            frame = self._frame(topic, message, camera)
            due = asked is not None and self._pace.due(camera, frame.stamp_ns or stamp)
            query = asked if due else None
            result = self._pipeline.process(frame, query, with_mask=due and self._with_mask())
        except ImageError as error:
            self.summary.drop(topic.name, error.reason, str(error))
            return
        except FloatingPointError as error:
            self.summary.drop(topic.name, "not_finite", str(error))
            return
        if result.tokens is not None:
            self._tokens(topic.name, stamp, header, result.tokens)
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
        self._write(topic.name, "objects", stamp, objects)
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

    def _frame(self, topic: BagTopic, message: Any, camera: str) -> Frame:
        options = self._options
        picture = decode_image(
            message, image_type(topic), options.max_pixels, options.mono16_white
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
