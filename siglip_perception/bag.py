"""Bag in, bag out: the pipeline over a recording, without ROS and without a clock.

Two runs over one bag with the same model, machine and number of threads write byte-equal messages.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from siglip_perception import images, instruction, wire
from siglip_perception.bag_depth import DepthWait
from siglip_perception.bag_files import messages, reading, storage, writing
from siglip_perception.bag_topics import (
    COMPRESSED,
    RAW,
    camera_names,
    choose_topics,
    depth_connections,
    under,
)
from siglip_perception.config import Settings
from siglip_perception.depth_feed import nanoseconds
from siglip_perception.errors import BagError, ImageError, InstructionError
from siglip_perception.numbering import Numbering
from siglip_perception.pipeline import Pipeline, Query
from siglip_perception.tracking import Tracker, TrackingOptions
from siglip_perception.types import Frame, Grounding, UInt8Array

MESSAGES = Path(__file__).parent / "messages"
STRING = "std_msgs/msg/String"
_PACKAGE = "siglip_perception_msgs/msg"

_Pending = tuple[Connection, int, Any, Query | None]
Overlay = Callable[[str, int, UInt8Array, Grounding], None]


@dataclass(frozen=True)
class ReplayOptions:
    """What of a bag is replayed.

    image_topics: empty takes every image topic but depth images and this package's own outputs.
    instruction: the one that holds until the first message on instruction_topic.
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
    overlay: Overlay | None = None
    tracking: TrackingOptions | None = None
    depth_topic: str = ""
    info_topic: str = ""
    depth_tolerance: float = Settings.depth_tolerance


@dataclass
class Summary:
    """What became of a bag: images = tokens + sum(dropped.values()).

    found: for each instruction, for each of its phrases, the number of images that showed it.
    depth: images with objects by what became of their depth, as DepthView.counts.
    """

    images: int = 0
    tokens: int = 0
    objects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    instructions: int = 0
    rejected: int = 0
    grounded: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    depth: Mapping[str, int] = field(default_factory=dict)


def typestore() -> Typestore:
    """The standard messages of ROS 2 Jazzy and this project's own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(MESSAGES.glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{_PACKAGE}/{path.stem}"))
    store.register(types)
    return store


def check_paths(bag: Path, out: Path) -> None:
    """Raise BagError where the bag is not there or the output already is: before any work."""
    if not bag.exists():
        raise BagError(f"There is no bag {bag}: give a rosbag2 folder, or its .mcap or .db3 file.")
    if out.exists():
        raise BagError(f"{out} exists already: name a new folder for the bag.")


@contextmanager
def deterministic() -> Iterator[None]:
    """PyTorch restricted to deterministic algorithms; enter it before a model is put on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def replay(
    bag: Path,
    out: Path,
    pipeline: Pipeline,
    options: ReplayOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Run every image of a bag with the newest instruction at its time; write the outputs' bag.

    The new bag has the storage of the old one, and its messages the stamps and headers of the
    images: /siglip_perception/tokens and /siglip_perception/objects, with the camera's name before
    the last part where there are several cameras. progress: called with images done and in all.

    Raises BagError for a bag that is missing or broken, has no images, or whose output cannot be
    written; nothing is left of the output then.
    """
    options = options or ReplayOptions()
    check_paths(bag, out)
    store = typestore()
    with reading(bag) as reader, deterministic():
        topics = choose_topics(reader.connections, options.image_topics, bag)
        wanted = [c for c in reader.connections if c.topic in topics]
        spoken = [
            c
            for c in reader.connections
            if c.topic == options.instruction_topic and c.msgtype == STRING
        ]
        depth = depth_connections(
            reader.connections, options.depth_topic, options.info_topic, topics, bag
        )
        total = sum(connection.msgcount for connection in wanted)
        if not total:
            raise BagError(
                f"The bag {bag} has no images on {', '.join(topics)}: record that topic, or name"
                " another with --image-topic."
            )
        with writing(out, storage(bag, reader)) as writer:
            run = _Run(pipeline, options, store, writer, camera_names(topics))
            for connection, stamp, data in messages(bag, reader, [*wanted, *spoken, *depth]):
                if connection in depth:
                    run.depth(connection, data)
                elif connection.msgtype == STRING:
                    spoken_text: Any = store.deserialize_cdr(data, STRING)
                    run.instruct(spoken_text.data)
                    continue
                else:
                    run.image(connection, stamp, data)
                run.settle(stamp)
                if progress is not None and connection not in depth:
                    progress(run.summary.images, total)
            run.finish()
    return run.summary


def write_sample_bag(
    path: Path,
    frames: Iterable[tuple[int, bytes]],
    instructions: Iterable[tuple[int, str]],
    *,
    image_topic: str = "/image/compressed",
    instruction_topic: str = "/instruction",
    frame_id: str = "camera_optical_frame",
    storage: str = "mcap",
) -> None:
    """Write a bag of JPEG frames and instructions, each with its time in nanoseconds, in order.

    Raises BagError where the folder exists or cannot be written.
    """
    store = typestore()
    types = store.types
    with writing(path, storage) as writer:
        image = writer.add_connection(image_topic, COMPRESSED, typestore=store)
        spoken = writer.add_connection(instruction_topic, STRING, typestore=store)

        def pictures() -> Iterator[tuple[int, int, Connection, Any]]:
            for stamp, data in frames:
                time = types["builtin_interfaces/msg/Time"](
                    sec=stamp // 10**9, nanosec=stamp % 10**9
                )
                header = types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
                pixels = np.frombuffer(data, np.uint8)
                message = types[COMPRESSED](header=header, format="jpeg", data=pixels)
                yield stamp, 1, image, message

        words = [(stamp, 0, spoken, types[STRING](data=text)) for stamp, text in instructions]
        for stamp, _, connection, message in sorted(
            [*words, *pictures()], key=lambda entry: entry[:2]
        ):
            writer.write(connection, stamp, store.serialize_cdr(message, connection.msgtype))


class _Run:
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
        self._outputs = {
            (topic, part): writer.add_connection(
                under(camera, part), f"{_PACKAGE}/{kind}", typestore=store
            )
            for topic, camera in cameras.items()
            for part, kind in (("tokens", "TokenSequence"), ("objects", "GroundedObjectArray"))
        }
        self._query: Query | None = None
        self._numbering = Numbering()
        self._trackers: dict[str, Tracker] = {}
        self._shown = 0
        self._wait: DepthWait[_Pending] = DepthWait()
        if options.instruction:
            self.instruct(options.instruction, refuse=True)

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
        self._query = self._pipeline.query(parsed, number) if parsed.phrases else None

    def image(self, connection: Connection, stamp: int, data: bytes) -> None:
        """Process one image message, or count why it was dropped."""
        self.summary.images += 1
        try:
            message: Any = self._store.deserialize_cdr(data, connection.msgtype)
        except Exception:  # noqa: BLE001 - rosbags raises errors of many kinds for broken bytes
            self.summary.dropped["malformed"] += 1
            return
        self._wait.put(stamp, nanoseconds(message), (connection, stamp, message, self._query))
        if not self._options.depth_topic:
            self.finish()

    def depth(self, connection: Connection, data: bytes) -> None:
        """Take a depth image or a camera info; one that cannot be read is left out."""
        with suppress(Exception):  # rosbags raises errors of many kinds for broken bytes
            message: Any = self._store.deserialize_cdr(data, connection.msgtype)
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
        self, connection: Connection, stamp: int, message: Any, query: Query | None
    ) -> None:
        camera = self._cameras[connection.topic]
        header = message.header
        try:
            frame = self._frame(connection, message, camera)
            result = self._pipeline.process(frame, query, with_mask=self._with_mask())
        except ImageError as error:
            self.summary.dropped[error.reason] += 1
            return
        except FloatingPointError:
            self.summary.dropped["not_finite"] += 1
            return
        if result.tokens is not None:
            tokens = wire.tokens_message(self._types, header, result.tokens)
            self._write(connection.topic, "tokens", stamp, tokens)
            self.summary.tokens += 1
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
        if connection.msgtype == COMPRESSED:
            pixels = images.decode_compressed(
                message.format,
                message.data,
                max_pixels=self._options.max_pixels,
                mono16_white=self._options.mono16_white,
            )
        else:
            pixels = images.convert(
                message.encoding,
                message.height,
                message.width,
                message.step,
                bool(message.is_bigendian),
                message.data,
                max_pixels=self._options.max_pixels,
                mono16_white=self._options.mono16_white,
            )
        frame = Frame(pixels, nanoseconds(message), message.header.frame_id, camera)
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
