"""Runs each camera's stream over a bag's messages, as the node does, and writes the outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer
from rosbags.typesys.store import Typestore

from siglip_perception.bags.depth_wait import DepthWait
from siglip_perception.bags.messages import PACKAGE, RAW, BagTopic, decode_image, deserialize
from siglip_perception.bags.pictures import BagPictures
from siglip_perception.bags.topics import under
from siglip_perception.config import CALIBRATED, INSTRUCTION_TOPIC, Settings
from siglip_perception.errors import ImageError
from siglip_perception.grounding.tracking import TrackingOptions
from siglip_perception.images.files import MAX_FILE_PIXELS, Picture
from siglip_perception.images.pixel_reference import PixelReference
from siglip_perception.language.instruction import parse
from siglip_perception.messages import wire
from siglip_perception.stream.camera_stream import CameraStream, PendingFrame
from siglip_perception.stream.content import CameraJoin, HistoryJoin, published_objects
from siglip_perception.stream.instruction import CurrentInstruction
from siglip_perception.types import Frame, Grounding, TokenGrid, UInt8Array

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds: errors of a bag are raised before that.
    from siglip_perception.pipeline import Pipeline, Query

Overlay = Callable[[str, int, UInt8Array, Grounding], None]


@dataclass(frozen=True)
class ReplayOptions:
    """Options of a replay.

    image_topics: topics to replay; empty: every camera's, see bags.topics.choose_cameras().
    instruction: used until the first message on instruction_topic.
    mono16_white: the white level of 16-bit gray images; 0: such images are dropped.
    grounding_rate: images per second, by their stamps, that are grounded; 0: all of them.
    tracking: gives objects an id across frames; None: no ids.
    depth_topic, info_topic: registered depth images and their CameraInfo; both empty: no depth.
    depth_tolerance: longest time between a color image and its depth image, in seconds.
    pixel_reference: the training set's pixels, with which the images are compared.
    with_images: the pictures, their overlays and annotations go into the new bag, too.
    overlay: called with (camera, number of the image, image, grounding) for each grounded image.
    """

    image_topics: tuple[str, ...] = ()
    instruction_topic: str = INSTRUCTION_TOPIC
    instruction: str = ""
    with_mask: bool = False
    max_pixels: int = MAX_FILE_PIXELS
    mono16_white: int = Settings.mono16_white
    grounding_rate: float = Settings.grounding_rate
    overlay: Overlay | None = None
    tracking: TrackingOptions | None = None
    depth_topic: str = ""
    info_topic: str = ""
    depth_tolerance: float = Settings.depth_tolerance
    pixel_reference: PixelReference | None = None
    with_images: bool = False


@dataclass(frozen=True)
class PixelRemark:
    """A difference of a topic's images from the training set's pixels.

    text: as it was first told. first: number of the image, from 1, at which it was. images: how
    many images it lasted for.
    """

    topic: str
    text: str
    first: int
    images: int


@dataclass
class Summary:
    """Result of a replay: images = tokens + sum(dropped.values()), unless cameras are joined.

    repaired: images decoded in spite of faults in their files, by fault.
    drops: images dropped, by topic and reason. examples: the text of the first such image.
    unread: messages with unreadable bytes, by topic of instructions or depth.
    missing: for each topic with fewer messages than metadata.yaml lists, (actual, listed).
    notes: remarks on the bag, in words.
    doubts: for each instruction that names nothing or is a guess, how it was read.
    found: for each instruction and phrase, the number of images with such an object.
    depth: grounded images by the outcome for their depth, as in DepthView.counts.
    pixels: differences from the training set's pixels, by topic and kind; None if not compared.
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
    depth: Counter[str] = field(default_factory=Counter)
    pixels: dict[tuple[str, str], PixelRemark] | None = None

    @property
    def dropped(self) -> Counter[str]:
        """Number of images dropped for each reason, over all topics."""
        return sum(self.drops.values(), Counter[str]())


class BagRecorder:
    """Runs the streams of a bag's cameras and writes their output messages.

    cameras: the camera's name for each image topic. Raises InstructionError if the options'
    instruction is rejected.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        options: ReplayOptions,
        store: Typestore,
        writer: Writer,
        cameras: Mapping[str, str],
    ) -> None:
        self._summary = Summary()
        self._pipeline = pipeline
        self._options = options
        self._settings = _settings(options, pipeline)
        self._store = store
        self._writer = writer
        self._types = wire.rosbags_types(store)
        self._now_ns = 0
        self._streams = {topic: self._stream(camera, topic) for topic, camera in cameras.items()}
        joins = pipeline.contract.join_cameras and len(cameras) > 1
        self._join = CameraJoin(list(cameras.values())) if joins else None
        self._history = HistoryJoin.of(pipeline)
        self._objects = {
            camera: self._output(under(camera, "objects"), "GroundedObjectArray")
            for camera in cameras.values()
        }
        if joins:
            connection = self._output(under("", "tokens"), "TokenSequence")
            self._tokens = dict.fromkeys(cameras.values(), connection)
        else:
            self._tokens = {
                camera: self._output(under(camera, "tokens"), "TokenSequence")
                for camera in cameras.values()
            }
        self._pictures = BagPictures(store, writer, cameras) if options.with_images else None
        self._instruction = CurrentInstruction()
        self._instruction.start(pipeline.query, "")
        self._overlays = 0
        self._wait = DepthWait()
        if options.instruction:
            parse(options.instruction)
            self.instruct(options.instruction)

    @property
    def image_count(self) -> int:
        """Number of images so far."""
        return sum(stream.ledger.counts().received for stream in self._streams.values())

    def instruct(self, text: str) -> None:
        """Set the instruction; a rejected one clears it, so that no stale goal stays."""
        self._instruction.hear(text)
        state = self._instruction.state
        if state.state == "instruction_rejected":
            self._summary.rejected += 1
            return
        self._summary.instructions += 1
        if state.text and state.explanation:
            self._summary.doubts[state.text] = state.explanation

    def hear(self, topic: BagTopic, data: bytes) -> None:
        """Set the instruction from a message; only count a message that cannot be read."""
        try:
            text = deserialize(self._store, topic, data).data
        except ImageError:
            self._summary.unread[topic.name] += 1
            return
        self.instruct(text)

    def image(self, topic: BagTopic, received_ns: int, data: bytes) -> None:
        """Process an image message, at once or when its depth has come; count it if it is dropped.

        received_ns: its time in the bag.
        """
        stream = self._streams[topic.name]
        self._now_ns = received_ns
        ticket = stream.ledger.receive()
        try:
            message = deserialize(self._store, topic, data)
        except ImageError as error:
            ticket.drop(error.reason, str(error))
            return
        pending = stream.admit(message, ticket)
        if self._settings.depth_enabled:
            self._wait.put(pending, self._instruction.query)
        else:
            self._process(pending, self._instruction.query)

    def depth(self, topic: BagTopic, data: bytes) -> None:
        """Queue a depth image or camera info; only count a message that cannot be read."""
        try:
            message = deserialize(self._store, topic, data)
        except ImageError:
            self._summary.unread[topic.name] += 1
            return
        (stream,) = self._streams.values()  # choose_depth() allows only one camera
        if topic.type == RAW:
            stream.depth.receive_image(message)
        else:
            stream.depth.receive_info(message)

    def settle(self, now_ns: int) -> None:
        """Process the images that need not wait for their depth any longer."""
        for pending, query in self._wait.ready(now_ns):
            self._process(pending, query)

    def finish(self) -> Summary:
        """Process every image that still waits; return the summary."""
        for pending, query in self._wait.remaining():
            self._process(pending, query)
        summary = self._summary
        for stream in self._streams.values():
            counts = stream.ledger.counts()
            summary.images += counts.received
            summary.repaired.update(counts.repaired)
            if counts.dropped:
                summary.drops[stream.topic] = Counter(counts.dropped)
            for reason, text in counts.examples.items():
                summary.examples[stream.topic, reason] = text
            summary.depth.update(stream.depth.view().counts)
        return summary

    def _stream(self, camera: str, topic: str) -> CameraStream:
        # The monotonic clock stands still, so that a replay's result does not depend on its speed.
        return CameraStream(
            camera, topic, _decode, lambda: self._settings, lambda: self._now_ns, lambda: 0.0
        )

    def _output(self, topic: str, kind: str) -> Connection:
        return self._writer.add_connection(topic, f"{PACKAGE}/{kind}", typestore=self._store)

    def _process(self, pending: PendingFrame, query: Query | None) -> None:
        stream, settings, options = pending.stream, self._settings, self._options
        frame = stream.decode(pending, settings)
        if frame is None:
            return
        is_drawn = options.overlay is not None or options.with_images
        with_mask = options.with_mask or is_drawn
        task = stream.task(pending, frame, query, settings, with_mask=with_mask)
        (outcome,) = self._pipeline.process_batch([task])
        result = stream.finish(pending, frame, outcome, settings)
        if result is None:
            return
        if self._pictures is not None:
            self._pictures.write_picture(pending)
        if result.tokens is not None:
            self._compare_pixels(pending, result.tokens)
            self._write_tokens(pending, result.tokens)
        if result.grounding is not None:
            self._count(result.grounding)
            self._write_objects(pending, frame, result.grounding)
        pending.ticket.publish()

    def _compare_pixels(self, pending: PendingFrame, tokens: TokenGrid) -> None:
        reference = self._options.pixel_reference
        if reference is None:
            return
        remarks = self._summary.pixels
        if remarks is None:
            remarks = self._summary.pixels = {}
        stream = pending.stream
        number = stream.ledger.counts().received
        for alarm in stream.check_pixels(pending, tokens, reference):
            key = stream.topic, alarm.kind
            remark = remarks.get(key) or PixelRemark(stream.topic, alarm.text, number, 0)
            remarks[key] = replace(remark, images=remark.images + 1)

    def _write_tokens(self, pending: PendingFrame, grid: TokenGrid) -> None:
        """Write the tokens of one image, or of all cameras once each has a new image."""
        header = pending.message.header
        episode = self._instruction.state.instruction_id
        if self._join is None:
            grid = self._history.add(pending.camera, grid, episode)
            message = wire.tokens_message(self._types, header, grid)
        else:
            joined_tokens = self._join.add(pending.camera, header, grid)
            if joined_tokens is None:
                return
            grid = self._history.add("", joined_tokens.grid, episode)
            message = replace(joined_tokens, grid=grid).message(self._types)
        self._write(self._tokens[pending.camera], pending, message)
        self._summary.tokens += 1

    def _write_objects(self, pending: PendingFrame, frame: Frame, grounding: Grounding) -> None:
        options = self._options
        if options.overlay is not None:
            self._overlays += 1
            options.overlay(pending.camera, self._overlays, frame.image, grounding)
        if self._pictures is not None:
            self._pictures.write_views(pending, frame, grounding)
        message = published_objects(
            self._types, pending.message.header, grounding, with_mask=options.with_mask
        )
        self._write(self._objects[pending.camera], pending, message)
        self._summary.objects += 1

    def _count(self, grounding: Grounding) -> None:
        self._summary.grounded[grounding.instruction] += 1
        image_counts = self._summary.found.setdefault(
            grounding.instruction, Counter(dict.fromkeys(grounding.phrases, 0))
        )
        image_counts.update({item.phrase for item in grounding.objects})

    def _write(self, connection: Connection, pending: PendingFrame, message: Any) -> None:
        data = self._store.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, pending.received_ns, data)


def _decode(message: Any, settings: Settings) -> Picture:
    return decode_image(message, message.__msgtype__, settings.max_pixels, settings.mono16_white)


def _settings(options: ReplayOptions, pipeline: Pipeline) -> Settings:
    """Return the node's settings for a replay, in which no image is too old."""
    settings = Settings(
        threshold=CALIBRATED if pipeline.threshold is None else pipeline.threshold,
        max_objects=pipeline.max_objects,
        windows=pipeline.windows,
        grounding_rate=options.grounding_rate,
        max_age=0.0,
        max_pixels=options.max_pixels,
        mono16_white=options.mono16_white,
        depth_enabled=bool(options.depth_topic),
        depth_tolerance=options.depth_tolerance,
    )
    if options.tracking is None:
        return settings
    return replace(
        settings,
        tracking_enabled=True,
        tracking_max_lost=options.tracking.max_lost,
        tracking_smoothing=options.tracking.smoothing,
    )
