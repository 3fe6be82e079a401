"""Bag in, bag out: the pipeline over a recording, without ROS and without a clock.

Two runs over one bag with the same model, machine and number of threads write byte-equal messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from siglip_perception.bag_files import messages, reading, storage, writing
from siglip_perception.bag_run import PACKAGE, ReplayOptions, Run, Summary
from siglip_perception.bag_topics import (
    COMPRESSED,
    camera_names,
    choose_topics,
    depth_connections,
)
from siglip_perception.errors import BagError
from siglip_perception.pipeline import Pipeline

MESSAGES = Path(__file__).parent / "messages"
STRING = "std_msgs/msg/String"

__all__ = ["ReplayOptions", "Summary", "check_paths", "deterministic", "replay", "typestore"]


def typestore() -> Typestore:
    """The standard messages of ROS 2 Jazzy and this project's own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(MESSAGES.glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/{path.stem}"))
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
            run = Run(pipeline, options, store, writer, camera_names(topics))
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
