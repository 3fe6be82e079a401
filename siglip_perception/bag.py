"""Bag in, bag out: the pipeline over a recording, without ROS and without a clock.

Two runs over one bag with the same model, machine and number of threads write byte-equal messages.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from siglip_perception import images, instruction, wire
from siglip_perception.bag_topics import COMPRESSED, camera_names, choose_topics, under
from siglip_perception.config import Settings
from siglip_perception.errors import BagError, ImageError, InstructionError
from siglip_perception.numbering import Numbering
from siglip_perception.pace import Pace
from siglip_perception.pipeline import Pipeline, Query
from siglip_perception.types import Frame, Grounding, TokenGrid, UInt8Array, join

MESSAGES = Path(__file__).parent / "messages"
STRING = "std_msgs/msg/String"
_PACKAGE = "siglip_perception_msgs/msg"
_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_BAG_VERSION: Literal[9] = 9

Overlay = Callable[[str, int, UInt8Array, Grounding], None]


@dataclass(frozen=True)
class ReplayOptions:
    """What of a bag is replayed.

    image_topics: empty takes every image topic but depth images and this package's own outputs.
    instruction: the one that holds until the first message on instruction_topic.
    grounding_rate: images a second, by their stamps, in which objects are looked for; 0: in all.
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


@dataclass
class Summary:
    """What became of a bag: images = tokens + sum(dropped.values()), unless cameras are joined.

    found: for each instruction, for each of its phrases, the number of images that showed it.
    """

    images: int = 0
    tokens: int = 0
    objects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    instructions: int = 0
    rejected: int = 0
    grounded: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=dict)


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
    the last part where there are several cameras. A contract that joins the cameras' tokens gives
    one sequence on /siglip_perception/tokens whenever every camera has a new image, in the order
    of the topics. progress: called with images done and in all.

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
        total = sum(connection.msgcount for connection in wanted)
        if not total:
            raise BagError(
                f"The bag {bag} has no images on {', '.join(topics)}: record that topic, or name"
                " another with --image-topic."
            )
        with _writing(out, _storage(bag, reader)) as writer:
            run = _Run(pipeline, options, store, writer, camera_names(topics))
            for connection, stamp, data in messages(bag, reader, [*wanted, *spoken]):
                if connection.msgtype == STRING:
                    spoken_text: Any = store.deserialize_cdr(data, STRING)
                    run.instruct(spoken_text.data)
                    continue
                run.image(connection, stamp, data)
                if progress is not None:
                    progress(run.summary.images, total)
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
    with _writing(path, storage) as writer:
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
        if options.instruction:
            self.instruct(options.instruction, refuse=True)

    def _output(self, topic: str, kind: str) -> Connection:
        return self._writer.add_connection(topic, f"{_PACKAGE}/{kind}", typestore=self._store)

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
        camera = self._cameras[connection.topic]
        try:
            given: Any = deserialise(self._store, connection, data)
            pixels = decode_image(
                given,
                connection.msgtype,
                self._options.max_pixels,
                self._options.mono16_white,
            )
            header = given.header
            taken = header.stamp.sec * 10**9 + header.stamp.nanosec
            frame = Frame(pixels, taken, header.frame_id, camera)
            due = self._query is not None and self._pace.due(camera, frame.stamp_ns or stamp)
            query = self._query if due else None
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
        self._count(result.grounding)
        if self._options.overlay is not None:
            self._options.overlay(camera, self.summary.images, frame.image, result.grounding)
        grounding = result.grounding
        if not self._options.with_mask:
            grounding = Grounding(**{**vars(grounding), "mask": None})
        message = wire.objects_message(self._types, header, grounding)
        self._write(connection.topic, "objects", stamp, message)
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

    def _write(self, topic: str, part: str, stamp: int, message: Any) -> None:
        connection = self._outputs[topic, part]
        self._writer.write(
            connection, stamp, self._store.serialize_cdr(message, connection.msgtype)
        )


def deserialise(store: Typestore, connection: Connection, data: bytes) -> Any:
    """A message out of its bytes; ImageError `malformed` where they are none."""
    try:
        return store.deserialize_cdr(data, connection.msgtype)
    except Exception as error:  # rosbags raises errors of many kinds for broken bytes
        raise ImageError("malformed", "the message's bytes cannot be read.") from error


def decode_image(
    message: Any, msgtype: str, max_pixels: int, mono16_white: int = Settings.mono16_white
) -> UInt8Array:
    """uint8 [H, W, 3] RGB of a sensor_msgs/Image or CompressedImage; ImageError if refused."""
    if msgtype == COMPRESSED:
        return images.decode_compressed(
            message.format, message.data, max_pixels=max_pixels, mono16_white=mono16_white
        )
    return images.convert(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
        max_pixels=max_pixels,
        mono16_white=mono16_white,
    )


@contextmanager
def reading(bag: Path) -> Iterator[Reader]:
    """The bag, opened; BagError in one sentence where it cannot be."""
    try:
        reader = Reader(bag)
        reader.open()
    except Exception as error:  # rosbags raises errors of many kinds for broken files
        raise _broken(bag, error) from error
    try:
        yield reader
    finally:
        reader.close()


def messages(
    bag: Path, reader: Reader, connections: list[Connection]
) -> Iterator[tuple[Connection, int, bytes]]:
    """Those connections' messages by time, each with its stamp in nanoseconds; BagError."""
    messages = reader.messages(connections)
    while True:
        try:
            entry = next(messages, None)
        except Exception as error:
            raise _broken(bag, error) from error
        if entry is None:
            return
        yield entry


def _broken(bag: Path, error: Exception) -> BagError:
    what = str(error).strip().splitlines()
    return BagError(
        f"The bag {bag} cannot be read ({what[0].rstrip('.') if what else type(error).__name__}):"
        " give a whole rosbag2 bag, or mend it with `ros2 bag reindex` or `mcap recover`."
    )


def _storage(bag: Path, reader: Reader) -> str:
    files = [bag] if bag.is_file() else list(bag.iterdir())
    return "mcap" if any(".mcap" in file.suffixes for file in files) else "sqlite3"


@contextmanager
def _writing(out: Path, storage: str) -> Iterator[Writer]:
    """A bag that appears under its name when it is whole, and not at all after an error."""
    if storage not in _PLUGINS:
        raise BagError(f"There is no bag storage {storage!r}: use {' or '.join(_PLUGINS)}.")
    if out.exists():
        raise BagError(f"{out} exists already: name a new folder for the bag.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BagError(f"Cannot write to {out.parent} ({error.strerror}).") from error
    try:
        # In a folder of its own: the bag's file and metadata carry the bag folder's name.
        unfinished = temporary / out.name
        try:
            with Writer(
                unfinished, version=_BAG_VERSION, storage_plugin=_PLUGINS[storage]
            ) as writer:
                yield writer
            unfinished.rename(out)
        except OSError as error:
            raise BagError(f"The bag {out} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
