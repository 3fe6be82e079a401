"""Replay: run the pipeline over a bag and write a bag, without ROS and without a clock.

Two runs over one bag with the same model, machine and number of threads write the same bytes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rosbags.interfaces import Connection

from siglip_perception.bags.files import Recording, reading, writing
from siglip_perception.bags.messages import COMPRESSED, MESSAGES, STRING, BagTopic, typestore
from siglip_perception.bags.recorder import BagRecorder, ReplayOptions, Summary
from siglip_perception.bags.topics import (
    Cameras,
    camera_names,
    check_decodable,
    choose_cameras,
    choose_depth,
    choose_instructions,
    listing,
)
from siglip_perception.errors import BagError

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds: errors of a bag are raised before that.
    from siglip_perception.pipeline import Pipeline

__all__ = [
    "MESSAGES",
    "ReplayOptions",
    "Selection",
    "Summary",
    "check_paths",
    "deterministic",
    "listing",
    "reading",
    "replay",
    "replay_recording",
    "select",
    "typestore",
    "write_sample_bag",
]


@dataclass(frozen=True)
class Selection:
    """The topics of a bag that a replay uses.

    notes: remarks on the bag: its faults, the topics left out, and why there are no objects if
        the bag has no instruction.
    """

    cameras: Cameras
    instructions: tuple[BagTopic, ...]
    depth: tuple[BagTopic, ...]
    notes: tuple[str, ...]


def check_paths(bag: Path, out: Path) -> None:
    """Raise BagError if the bag does not exist or the output does, before any work."""
    if not bag.exists():
        raise BagError(f"There is no bag {bag}: give a rosbag2 folder, or its .mcap or .db3 file.")
    if out.exists():
        raise BagError(f"{out} exists already: name a new folder for the bag.")


@contextmanager
def deterministic() -> Iterator[None]:
    """Restrict PyTorch to deterministic algorithms; enter it before a model goes onto a GPU."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    previous = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # It fills every new tensor before an operator writes it: a sixth of the embedded model's time
    # on a CPU, to show a read of what nobody wrote. The encoders have none.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(previous)
        memory.fill_uninitialized_memory = filling


def select(recording: Recording, options: ReplayOptions) -> Selection:
    """Choose the topics to replay, without a model, in about a second.

    Raises BagError, with the topics of the bag, if there is nothing to replay.
    """
    cameras = choose_cameras(
        recording,
        options.image_topics,
        max_pixels=options.max_pixels,
        mono16_white=options.mono16_white,
        depth_topic=options.depth_topic,
    )
    check_decodable(recording, cameras, options.max_pixels, options.mono16_white)
    depth = choose_depth(recording, options.depth_topic, options.info_topic, cameras)
    instructions, note = choose_instructions(
        recording, options.instruction_topic, has_instruction=bool(options.instruction)
    )
    topic_notes = [
        f"{topic.name} is left out: {reason}" for topic, reason in cameras.left_out.items()
    ]
    notes = (*recording.notes, *topic_notes, *([note] if note else []))
    return Selection(cameras, instructions, depth, notes)


def replay(
    bag: Path,
    out: Path,
    pipeline: Pipeline,
    options: ReplayOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Process every image of a bag with the instruction current at its time; write a new bag.

    The new bag has the storage of the old one, and its messages have the images' headers. Its
    topics are /siglip_perception/tokens and /siglip_perception/objects, with the camera's name
    before the last part if there are several cameras. With a contract that joins the cameras'
    tokens there is one sequence on /siglip_perception/tokens whenever every camera has a new
    image, in the order of the topics.

    progress: called with the number of images done and the total.

    Raises BagError if the bag is missing or broken, has no usable image, or the output cannot be
    written; no partial output is left then.
    """
    options = options or ReplayOptions()
    check_paths(bag, out)
    with reading(bag) as recording:
        selection = select(recording, options)
        return replay_recording(recording, selection, out, pipeline, options, progress)


def replay_recording(
    recording: Recording,
    selection: Selection,
    out: Path,
    pipeline: Pipeline,
    options: ReplayOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Replay a bag that is open, with a selection made with the same options; see replay()."""
    images = selection.cameras.topics
    instructions, depth = selection.instructions, selection.depth
    total = sum(topic.count for topic in images)
    cameras = camera_names(selection.cameras.names)
    read_counts: Counter[BagTopic] = Counter()
    with deterministic(), writing(out, recording.storage) as writer:
        recorder = BagRecorder(pipeline, options, typestore(), writer, cameras)
        for topic, stamp, data in recording.messages([*images, *instructions, *depth]):
            read_counts[topic] += 1
            if topic in instructions:
                recorder.hear(topic, data)
                continue
            if topic in depth:
                recorder.depth(topic, data)
            else:
                recorder.image(topic, stamp, data)
            recorder.settle(stamp)
            if progress is not None and topic not in depth:
                progress(recorder.image_count, total)
        summary = recorder.finish()
        for topic in (*images, *instructions, *depth):
            expected_count = max(topic.count, topic.listed_count or 0)
            if read_counts[topic] < expected_count:
                summary.missing[topic.name] = read_counts[topic], expected_count
        late = [note for note in recording.notes if note not in selection.notes]
        summary.notes = (*selection.notes, *late)
        if not summary.tokens and not summary.objects:
            raise _no_usable_image(recording, summary)
    return summary


def _no_usable_image(recording: Recording, summary: Summary) -> BagError:
    reasons = [
        f"{count} of {topic} dropped as {reason}: {summary.examples[topic, reason].rstrip('.')}"
        for topic, drops in summary.drops.items()
        for reason, count in sorted(drops.items())
    ]
    reasons += [
        f"{topic} has {actual} of {listed} messages that metadata.yaml lists"
        for topic, (actual, listed) in summary.missing.items()
    ]
    reasons += recording.damages
    if not reasons:
        reasons = ["the contract joins all cameras' tokens, and they never had an image each"]
    return BagError(
        f"None of the {summary.images} images of the bag {recording.path} can be used, so no bag"
        f" was written ({'; '.join(reasons)}): repair the recording, or name other topics with"
        " --image-topic."
    )


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
    """Write a bag of JPEG frames and instructions, by time; times are in nanoseconds.

    Raises BagError if the folder exists or cannot be written.
    """
    store = typestore()
    types = store.types
    with writing(path, storage) as writer:
        image = writer.add_connection(image_topic, COMPRESSED, typestore=store)
        instruction = writer.add_connection(instruction_topic, STRING, typestore=store)

        def pictures() -> Iterator[tuple[int, int, Connection, Any]]:
            for stamp, data in frames:
                time = types["builtin_interfaces/msg/Time"](
                    sec=stamp // 10**9, nanosec=stamp % 10**9
                )
                header = types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
                pixels = np.frombuffer(data, np.uint8)
                message = types[COMPRESSED](header=header, format="jpeg", data=pixels)
                yield stamp, 1, image, message

        texts = [(stamp, 0, instruction, types[STRING](data=text)) for stamp, text in instructions]
        for stamp, _, connection, message in sorted(
            [*texts, *pictures()], key=lambda entry: entry[:2]
        ):
            writer.write(connection, stamp, store.serialize_cdr(message, connection.msgtype))
