"""Bag in, bag out: topics, stamps, counts, byte-equal runs, and nothing left after a failure."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import yaml
from bag_files import Channel, write_mcap
from models import write_random_model
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from siglip_perception.bags import replay
from siglip_perception.bags.calibration_frames import read_frames
from siglip_perception.bags.files import reading
from siglip_perception.bags.messages import COMPRESSED, RAW
from siglip_perception.bags.topics import camera_names, choose_cameras
from siglip_perception.client import tokens_to_numpy
from siglip_perception.config import ModelSelection
from siglip_perception.errors import BagError, InstructionError
from siglip_perception.grounding.tracking import TrackingOptions
from siglip_perception.language.instruction import parse
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Frame

START = 1_700_000_000_123_456_789
STEP = 33_333_333
TOKENS, OBJECTS = "/siglip_perception/tokens", "/siglip_perception/objects"
STORE = replay.typestore()
TYPES = STORE.types

Row = tuple[str, int, bytes]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder)
    return Pipeline.load(
        ModelSelection(str(folder)), PipelineOptions(threshold=0.0, max_objects=3)
    )


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def jpeg(seed: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(photo(seed), 90))


def stamp(i: int) -> int:
    return START + i * STEP


def write_sample(path: Path, storage: str = "mcap") -> None:
    """Six frames; instructions before the first, at the third, and a refused one at the fifth."""
    frames = [(stamp(i), jpeg(i)) for i in range(6)]
    words = [
        (stamp(0) - 1, "pick up the red cup"),
        (stamp(2), "빨간 컵을 집어서 접시 위에 놓아라"),
        (stamp(4), "x" * 2000),
    ]
    replay.write_sample_bag(path, frames, words, storage=storage)


def rows(path: Path) -> list[Row]:
    with Reader(path) as reader:
        return [(c.topic, t, bytes(data)) for c, t, data in reader.messages(reader.connections)]


def messages(path: Path, topic: str) -> Iterator[Any]:
    kind = "TokenSequence" if topic.endswith("tokens") else "GroundedObjectArray"
    for name, _, data in rows(path):
        if name == topic:
            yield STORE.deserialize_cdr(data, f"siglip_perception_msgs/msg/{kind}")


def header(i: int, frame_id: str = "cam") -> Any:
    time = TYPES["builtin_interfaces/msg/Time"](sec=stamp(i) // 10**9, nanosec=stamp(i) % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def raw_image(i: int, **changes: Any) -> bytes:
    fields = {
        "header": header(i),
        "height": 48,
        "width": 64,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": 192,
        "data": photo(i).reshape(-1),
    }
    return bytes(STORE.serialize_cdr(TYPES[RAW](**{**fields, **changes}), RAW))


def depth_image(i: int) -> bytes:
    return raw_image(i, encoding="16UC1", step=128, data=np.zeros(48 * 128, np.uint8))


def compressed_image(i: int, data: bytes) -> bytes:
    message = TYPES[COMPRESSED](header(i), "jpeg", np.frombuffer(data, np.uint8))
    return bytes(STORE.serialize_cdr(message, COMPRESSED))


def write_bag(path: Path, entries: list[tuple[str, str, int, bytes]]) -> None:
    """(topic, type, time, bytes) -> an sqlite3 bag."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        values: dict[str, Any] = {}
        for topic, kind, time, data in entries:
            if topic not in values:
                values[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(values[topic], time, data)


def structure(path: Path) -> str:
    """SHA-256 of all that a replay wrote but what depends on the CPU's arithmetic.

    That is: scores, boxes, masks' pixels, tokens' values and the weights' fingerprint.
    """
    lines = []
    for topic, time, data in rows(path):
        kind = "TokenSequence" if topic.endswith("tokens") else "GroundedObjectArray"
        message: Any = STORE.deserialize_cdr(data, f"siglip_perception_msgs/msg/{kind}")
        head = (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id)
        parts: tuple[object, ...]
        if kind == "TokenSequence":
            parts = (message.rows, message.cols, message.dim, message.dtype, len(message.data))
        else:
            words = (message.instruction, message.instruction_id, *message.phrases)
            parts = (*words, len(message.presence), message.mask.height, message.mask.width)
        lines.append(repr((topic, time, *head, message.contract, *parts)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_what_a_replay_of_the_sample_writes_is_pinned(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    digest = "b9b3485211fe4395d17811c4092efa90c7752f55673eec6dba8c60562c661b54"
    assert structure(tmp_path / "out") == digest


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_two_runs_write_byte_equal_messages(
    pipeline: Pipeline, tmp_path: Path, storage: str
) -> None:
    write_sample(tmp_path / "in", storage)
    for name in ("first", "second"):
        replay.replay(tmp_path / "in", tmp_path / name, pipeline)
    first = rows(tmp_path / "first")
    assert first == rows(tmp_path / "second")
    assert len(first) == 6 + 4
    suffix = {"mcap": "mcap", "sqlite3": "db3"}[storage]
    assert (tmp_path / "first" / f"first.{suffix}").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "in", "second"]


def test_outputs_carry_the_images_stamps_and_the_newest_instruction(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    write_sample(tmp_path / "in")
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert (summary.images, summary.tokens, summary.objects) == (6, 6, 4)
    assert (summary.instructions, summary.rejected) == (2, 1)
    times_of_topics = [(topic, time) for topic, time, _ in rows(tmp_path / "out")]
    assert [time for topic, time in times_of_topics if topic == TOKENS] == [
        stamp(i) for i in range(6)
    ]
    assert [time for topic, time in times_of_topics if topic == OBJECTS] == [
        stamp(i) for i in range(4)
    ]
    for i, message in enumerate(messages(tmp_path / "out", TOKENS)):
        pending = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert pending == stamp(i)
        assert message.header.frame_id == "camera_optical_frame"
    outputs = list(messages(tmp_path / "out", OBJECTS))
    assert [message.instruction_id for message in outputs] == [1, 1, 2, 2]
    assert outputs[0].phrases == ["red cup"]
    assert outputs[2].phrases == ["빨간 컵", "접시"]
    assert outputs[2].instruction == "빨간 컵을 집어서 접시 위에 놓아라"
    assert outputs[0].mask.width == 0


def test_a_repeated_instruction_keeps_its_number_until_another_an_empty_or_a_refused_one(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    texts = ("cup", "cup", "", "cup", "plate", "x" * 2000, "plate", " plate ")
    words = [(stamp(i) - 1, text) for i, text in enumerate(texts)]
    replay.write_sample_bag(tmp_path / "in", [(stamp(i), jpeg(i)) for i in range(8)], words)
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    times = {time: i for i, time in enumerate(stamp(i) for i in range(8))}
    outputs = messages(tmp_path / "out", OBJECTS)
    values = [times[time] for topic, time, _ in rows(tmp_path / "out") if topic == OBJECTS]
    numbers = dict(zip(values, (message.instruction_id for message in outputs), strict=True))
    assert numbers == {0: 1, 1: 1, 3: 2, 4: 3, 6: 4, 7: 4}


def test_the_messages_hold_what_the_pipeline_gives(pipeline: Pipeline, tmp_path: Path) -> None:
    write_bag(tmp_path / "in", [("/image", RAW, stamp(0), raw_image(0))])
    options = replay.ReplayOptions(instruction="find the red cup", with_mask=True)
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline, options)
    query = pipeline.query(parse("find the red cup"), 1)
    reference = pipeline.process(Frame(photo(0)), query, with_mask=True)
    assert reference.tokens is not None
    assert reference.grounding is not None
    (tokens,) = messages(tmp_path / "out", TOKENS)
    np.testing.assert_array_equal(tokens_to_numpy(tokens), reference.tokens.data)
    assert tokens.fingerprint == pipeline.fingerprint
    (objects,) = messages(tmp_path / "out", OBJECTS)
    assert len(objects.objects) == len(reference.grounding.objects) > 0
    assert objects.objects[0].score == np.float32(reference.grounding.objects[0].score)
    assert objects.objects[0].box.width == reference.grounding.objects[0].box.width
    assert reference.grounding.mask is not None
    np.testing.assert_array_equal(objects.mask.data, reference.grounding.mask.reshape(-1))


def test_raw_and_compressed_images_are_the_same_to_the_pipeline(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pixels = simplejpeg.decode_jpeg(jpeg(0)).reshape(-1)
    write_bag(tmp_path / "raw", [("/image", RAW, stamp(0), raw_image(0, data=pixels))])
    write_bag(tmp_path / "packed", [("/i", COMPRESSED, stamp(0), compressed_image(0, jpeg(0)))])
    for name in ("raw", "packed"):
        replay.replay(tmp_path / name, tmp_path / f"{name}_out", pipeline)
    assert rows(tmp_path / "raw_out") == rows(tmp_path / "packed_out")


def test_bad_images_are_counted_by_reason_and_the_rest_goes_on(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    bad = [
        raw_image(0, step=1),
        raw_image(1, encoding="32FC1"),
        raw_image(2, height=0),
        raw_image(3)[:40],
        raw_image(4),
    ]
    entries = [("/image", RAW, stamp(i), data) for i, data in enumerate(bad)]
    write_bag(tmp_path / "in", entries)
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert dict(summary.dropped) == {"malformed": 3, "encoding": 1}
    assert summary.images == summary.tokens + sum(summary.dropped.values())
    assert [time for _, time, _ in rows(tmp_path / "out")] == [stamp(4)]


def test_a_jpeg_without_its_end_is_replayed_and_counted(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    files = [jpeg(0), jpeg(1)[:-2]]
    entries = [
        ("/c", COMPRESSED, stamp(i), compressed_image(i, data)) for i, data in enumerate(files)
    ]
    write_bag(tmp_path / "in", entries)
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert (summary.tokens, dict(summary.dropped)) == (2, {})
    assert dict(summary.repaired) == {"jpeg_repaired": 1}


def promise(folder: Path, topic: str, count: int) -> None:
    """Let the bag's metadata promise so many messages on a topic."""
    path = folder / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text())
    for entry in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]:
        if entry["topic_metadata"]["name"] == topic:
            entry["message_count"] = count
    path.write_text(yaml.safe_dump(metadata))


def test_messages_that_the_metadata_promise_and_the_files_lack_are_told(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    replay.write_sample_bag(tmp_path / "none", [], [(1, "red cup")])
    promise(tmp_path / "none", "/image/compressed", 2)
    with pytest.raises(BagError, match=r"on /image/compressed, though its metadata.yaml lists 2"):
        replay.replay(tmp_path / "none", tmp_path / "out", pipeline)
    assert not (tmp_path / "out").exists()
    write_sample(tmp_path / "some")
    promise(tmp_path / "some", "/image/compressed", 9)
    summary = replay.replay(tmp_path / "some", tmp_path / "out", pipeline)
    assert summary.missing == {"/image/compressed": (6, 9)}


def test_drops_are_counted_for_each_topic_with_an_example(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    gray = raw_image(0, encoding="mono16", step=128, data=np.zeros(48 * 128, np.uint8))
    rows = [("/ir", RAW, stamp(i), gray) for i in range(3)]
    write_bag(tmp_path / "in", [*rows, ("/image", RAW, stamp(3), raw_image(3))])
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert summary.drops == {"/ir": {"encoding": 3}}
    assert "mono16" in summary.examples["/ir", "encoding"]
    assert summary.images == summary.tokens + summary.dropped.total()


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_a_16_bit_camera_is_replayed_once_it_is_said_what_is_white(
    pipeline: Pipeline, tmp_path: Path, encoding: str
) -> None:
    shades = np.arange(48 * 64, dtype="<u2")
    gray = raw_image(0, encoding=encoding, step=128, data=shades.view(np.uint8))
    write_bag(tmp_path / "in", [("/ir", RAW, stamp(0), gray)])
    with pytest.raises(BagError, match="--mono16-white"):
        replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    options = replay.ReplayOptions(mono16_white=3071)
    assert replay.replay(tmp_path / "in", tmp_path / "out", pipeline, options).tokens == 1


def test_an_instruction_that_cannot_be_read_changes_nothing_and_is_counted(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    instruction_type = "std_msgs/msg/String"
    rows = [
        ("/instruction", instruction_type, stamp(0) - 2, text_bytes("red cup")),
        ("/instruction", instruction_type, stamp(0) - 1, b"\0\1\0\0\xff"),
        ("/image", RAW, stamp(0), raw_image(0)),
    ]
    write_bag(tmp_path / "in", rows)
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert (summary.objects, summary.unread) == (1, {"/instruction": 1})


def test_a_cut_off_bag_is_replayed_as_far_as_it_goes(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    stored = tmp_path / "in" / "in.mcap"
    stored.write_bytes(stored.read_bytes()[: stored.stat().st_size // 2])
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    (actual, listed) = summary.missing["/image/compressed"]
    assert 0 < actual == summary.tokens < listed == 6
    assert any("it ends early" in note for note in summary.notes)


def test_pictures_of_foxglove_give_the_tokens_of_ros_ones(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    write_bag(tmp_path / "ros", [("/cam", COMPRESSED, stamp(0), compressed_image(0, jpeg(0)))])
    picture: dict[str, Any] = {"timestamp": {"sec": stamp(0) // 10**9, "nsec": stamp(0) % 10**9}}
    picture |= {"frame_id": "cam", "format": "jpeg"}
    picture["data"] = base64.b64encode(jpeg(0)).decode()
    channel = Channel("/cam", "foxglove.CompressedImage", "json", "jsonschema", b"{}")
    rows_written = [(channel, stamp(0), json.dumps(picture).encode())]
    write_mcap(tmp_path / "foxglove.mcap", rows_written, profile="")
    replay.replay(tmp_path / "ros", tmp_path / "a", pipeline)
    replay.replay(tmp_path / "foxglove.mcap", tmp_path / "b", pipeline)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_calibration_counts_what_it_leaves_out_of_a_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [jpeg(0), jpeg(1)[:300]]
    entries = [
        ("/c", COMPRESSED, stamp(i), compressed_image(i, data)) for i, data in enumerate(files)
    ]
    write_bag(tmp_path / "in", entries)
    assert len(read_frames(tmp_path / "in", 10)) == 1
    output = capsys.readouterr().err
    assert "left out, first of /c: the JPEG" in output
    assert f"1 of 2 images of {tmp_path / 'in'} left out" in output


def test_a_truncated_jpeg_and_one_too_large_are_dropped(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    entries = [
        ("/c", COMPRESSED, stamp(0), compressed_image(0, jpeg(0)[:200])),
        ("/c", COMPRESSED, stamp(1), compressed_image(1, jpeg(1))),
    ]
    write_bag(tmp_path / "in", entries)
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert dict(summary.dropped) == {"corrupt": 1}
    options = replay.ReplayOptions(max_pixels=48 * 64 - 1)
    with pytest.raises(BagError, match=r"1 of /c dropped as corrupt: .*; 1 of /c .* too_large"):
        replay.replay(tmp_path / "in", tmp_path / "small", pipeline, options)
    assert not (tmp_path / "small").exists()


def test_several_cameras_have_topics_of_their_own(pipeline: Pipeline, tmp_path: Path) -> None:
    write_bag(
        tmp_path / "in",
        [
            ("/front/image_raw", RAW, stamp(0), raw_image(0)),
            ("/wrist/image/compressed", COMPRESSED, stamp(1), compressed_image(1, jpeg(1))),
            ("/front/image_raw", RAW, stamp(2), raw_image(2)),
        ],
    )
    options = replay.ReplayOptions(instruction="red cup")
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline, options)
    topics = [topic for topic, _, _ in rows(tmp_path / "out")]
    assert topics.count("/siglip_perception/front/tokens") == 2
    assert topics.count("/siglip_perception/wrist/objects") == 1
    one_camera = replay.ReplayOptions(image_topics=("/wrist/image/compressed",))
    replay.replay(tmp_path / "in", tmp_path / "one", pipeline, one_camera)
    assert [row[:2] for row in rows(tmp_path / "one")] == [(TOKENS, stamp(1))]


def test_depth_twins_and_own_outputs_are_not_cameras(tmp_path: Path) -> None:
    write_bag(
        tmp_path / "in",
        [
            ("/front/image_raw", RAW, stamp(0), raw_image(0)),
            ("/front/image_raw/compressed", COMPRESSED, stamp(0), compressed_image(0, jpeg(0))),
            ("/front/depth/image_raw", RAW, stamp(0), depth_image(0)),
            ("/siglip_perception/overlay/compressed", COMPRESSED, stamp(0), b"\0" * 8),
        ],
    )
    with reading(tmp_path / "in") as recording:
        assert choose_cameras(recording).names == ("/front/image_raw",)
        topics_left_out = ("/front/depth/image_raw",)
        assert choose_cameras(recording, topics_left_out).names == topics_left_out
        with pytest.raises(BagError, match="no images on /nope: it has /front/depth"):
            choose_cameras(recording, ("/nope",))


def test_names_of_cameras() -> None:
    assert camera_names(["/a/image"]) == {"/a/image": ""}
    assert camera_names(["/a/image_raw/compressed", "/b/image"]) == {
        "/a/image_raw/compressed": "a",
        "/b/image": "b",
    }
    assert camera_names(["/a/image", "/a/image_rect"]) == {
        "/a/image": "a_image",
        "/a/image_rect": "a_image_rect",
    }


def test_overlays_are_asked_for_each_grounded_image(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    values: list[tuple[str, int, bool]] = []
    options = replay.ReplayOptions(
        overlay=lambda camera, number, image, grounding: values.append(
            (camera, number, grounding.mask is not None and grounding.mask.shape == (48, 64))
        )
    )
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline, options)
    assert values == [("", number, True) for number in (1, 2, 3, 4)]
    assert all(message.mask.width == 0 for message in messages(tmp_path / "out", OBJECTS))


def decoded(path: Path, topic: str) -> Iterator[Any]:
    """Messages of a topic, read by the definitions that are in the bag alone."""
    with Reader(path) as reader:
        for connection, _, data in reader.messages(reader.connections):
            if connection.topic == topic:
                store = get_typestore(Stores.EMPTY)
                store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
                yield store.deserialize_cdr(data, connection.msgtype)


def test_with_images_the_new_bag_opens_complete(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "bag")
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    replay.replay(tmp_path / "bag", plain, pipeline)
    summary = replay.replay(
        tmp_path / "bag", whole, pipeline, replay.ReplayOptions(with_images=True)
    )
    extra = {
        "/image/compressed",
        "/siglip_perception/overlay/compressed",
        "/siglip_perception/annotations",
    }
    # All else is as without: byte for byte.
    assert [row for row in rows(whole) if row[0] not in extra] == rows(plain)
    pictures = list(decoded(whole, "/image/compressed"))
    assert [bytes(picture.data) for picture in pictures] == [
        bytes(picture.data) for picture in decoded(tmp_path / "bag", "/image/compressed")
    ]
    overlays = list(decoded(whole, "/siglip_perception/overlay/compressed"))
    annotations = list(decoded(whole, "/siglip_perception/annotations"))
    objects = list(decoded(whole, "/siglip_perception/objects"))
    assert summary.objects == len(overlays) == len(annotations) == len(objects) > 0
    for overlay, annotation, message in zip(overlays, annotations, objects, strict=True):
        assert str(overlay.header) == str(message.header)
        assert str(annotation.timestamp) == str(message.header.stamp)
        assert bytes(overlay.data[:2]) == b"\xff\xd8"
        assert [text.text.rsplit(" ", 1)[0] for text in annotation.texts] == [
            item.phrase for item in message.objects
        ]
        assert all(points.type == 2 for points in annotation.points)
        assert len(annotation.points) >= len(message.objects)


def test_a_bag_of_pictures_can_be_replayed_again(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "bag")
    options = replay.ReplayOptions(with_images=True)
    first = replay.replay(tmp_path / "bag", tmp_path / "once", pipeline, options)
    again = replay.replay(tmp_path / "once", tmp_path / "twice", pipeline, options)
    assert again.images == first.images


def depth_bag(path: Path, late_ns: int = 0, **changes: Any) -> None:
    """Four frames; a depth image of each, `late_ns` after it in the bag, and the lens before."""
    info_type = "sensor_msgs/msg/CameraInfo"
    region = TYPES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    lens = np.array([60.0, 0, 32, 0, 60, 24, 0, 0, 1])
    info = TYPES[info_type](
        header(0), 48, 64, "plumb_bob", np.zeros(5), lens, np.eye(3).ravel(), np.zeros(12),
        *(0, 0, region),
    )  # fmt: skip
    meters = np.full((48, 64), 0.5, np.float32)
    fields = {"encoding": "32FC1", "step": 256, "data": meters.reshape(-1).view(np.uint8)}
    entries = [
        ("/instruction", "std_msgs/msg/String", stamp(0) - 2, text_bytes("red cup")),
        ("/camera_info", info_type, stamp(0) - 1, bytes(STORE.serialize_cdr(info, info_type))),
    ]
    for i in range(4):
        entries.append(("/image", RAW, stamp(i), raw_image(i)))
        depth = raw_image(i, **{**fields, **changes})
        entries.append(("/depth", RAW, stamp(i) + late_ns, depth))
    write_bag(path, sorted(entries, key=lambda entry: entry[2]))


def text_bytes(text: str) -> bytes:
    kind = "std_msgs/msg/String"
    return bytes(STORE.serialize_cdr(TYPES[kind](data=text), kind))


DEPTH = replay.ReplayOptions(
    image_topics=("/image",), depth_topic="/depth", info_topic="/camera_info"
)


@pytest.mark.parametrize("late_ns", [0, 20_000_000, 2 * STEP])
def test_depth_is_waited_for_and_gives_positions(
    pipeline: Pipeline, tmp_path: Path, late_ns: int
) -> None:
    depth_bag(tmp_path / "in", late_ns)
    for name in ("first", "second"):
        summary = replay.replay(tmp_path / "in", tmp_path / name, pipeline, DEPTH)
        assert (summary.images, summary.tokens, summary.objects) == (4, 4, 4)
        assert summary.depth == {"used": 4}
    assert rows(tmp_path / "first") == rows(tmp_path / "second")
    messages_sent = list(messages(tmp_path / "first", OBJECTS))
    assert [message.header.stamp.nanosec for message in messages_sent] == [
        stamp(i) % 10**9 for i in range(4)
    ]
    # What covers fewer than a dozen pixels of this small picture is not measured.
    large = [o for m in messages_sent for o in m.objects if o.area * 64 * 48 >= 12]
    points = [item.position.z for item in large]
    assert points
    assert points == pytest.approx([0.5] * len(points))


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        (
            {"tracking": TrackingOptions()},
            "8561512ab386c5186a6a2606cfd770a5b21a526483806d01a7fea3c817dcdd3c",
        ),
        (
            {"tracking": TrackingOptions(), "grounding_rate": 15.0, "with_mask": True},
            "b87c0a46254a47ef1c4ff54326757dca2ed2015cb9890ee6f50baaa198ebc53a",
        ),
    ],
)
def test_what_a_replay_with_depth_and_tracking_writes_is_pinned(
    pipeline: Pipeline, tmp_path: Path, options: dict[str, Any], digest: str
) -> None:
    depth_bag(tmp_path / "in", 20_000_000)
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline, replace(DEPTH, **options))
    assert structure(tmp_path / "out") == digest


def test_without_usable_depth_objects_go_out_all_the_same(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    nan_depth = np.full((48, 64), np.nan, np.float32).reshape(-1).view(np.uint8)
    for name, changes, reason in (
        ("nan", {"data": nan_depth}, "empty"),
        ("color", {"encoding": "rgb8"}, "encoding"),
        ("half", {"height": 24, "data": nan_depth[: 24 * 256]}, "size"),
    ):
        depth_bag(tmp_path / name, **changes)
        out = tmp_path / f"{name}_out"
        summary = replay.replay(tmp_path / name, out, pipeline, DEPTH)
        assert summary.depth == {reason: 4}
        items = [item for message in messages(out, OBJECTS) for item in message.objects]
        assert items
        assert all(np.isnan(item.position.z) for item in items)


def test_depth_needs_its_topics_and_one_camera(pipeline: Pipeline, tmp_path: Path) -> None:
    depth_bag(tmp_path / "in")
    for options, words in (
        ({"info_topic": ""}, "--camera-info-topic"),
        ({"depth_topic": "/nowhere"}, "no sensor_msgs/msg/Image on /nowhere"),
        ({"image_topics": ("/image", "/depth")}, "has 2"),
    ):
        with pytest.raises(BagError, match=words):
            replay.replay(tmp_path / "in", tmp_path / "out", pipeline, replace(DEPTH, **options))


def test_tracked_objects_have_ids_and_twice_gives_equal_bytes(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """One picture three times, then another instruction."""
    entries = [("/image", RAW, stamp(i), raw_image(0, header=header(i))) for i in range(4)]
    instruction_type = "std_msgs/msg/String"
    entries.insert(0, ("/instruction", instruction_type, stamp(0) - 1, text_bytes("red cup")))
    entries.insert(4, ("/instruction", instruction_type, stamp(3) - 1, text_bytes("plate")))
    write_bag(tmp_path / "in", entries)
    options = replay.ReplayOptions(tracking=TrackingOptions())
    for name in ("first", "second"):
        replay.replay(tmp_path / "in", tmp_path / name, pipeline, options)
    assert rows(tmp_path / "first") == rows(tmp_path / "second")
    ids = [[item.id for item in m.objects] for m in messages(tmp_path / "first", OBJECTS)]
    assert ids[0]
    assert ids[0] == ids[1] == ids[2]
    assert min(ids[3]) > max(ids[0])


def test_progress_reaches_the_end(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    steps: list[tuple[int, int]] = []
    replay.replay(
        tmp_path / "in",
        tmp_path / "out",
        pipeline,
        progress=lambda count, total: steps.append((count, total)),
    )
    assert steps == [(i + 1, 6) for i in range(6)]


class Stop(BaseException):
    """Stands for Ctrl-C and for faults of our own."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_a_run_that_was_stopped(
    pipeline: Pipeline, tmp_path: Path, error: type[BaseException]
) -> None:
    write_sample(tmp_path / "in")

    def stop(count: int, total: int) -> None:
        if count == 3:
            raise error

    with pytest.raises(error):
        replay.replay(tmp_path / "in", tmp_path / "deep" / "out", pipeline, progress=stop)
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_output_that_is_there_is_never_touched(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(BagError, match="exists already"):
        replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_broken_bag_is_refused_in_one_sentence(
    pipeline: Pipeline, tmp_path: Path, storage: str, keep: int
) -> None:
    write_sample(tmp_path / "in", storage)
    (stored,) = (path for path in (tmp_path / "in").iterdir() if path.name != "metadata.yaml")
    stored.write_bytes(stored.read_bytes()[:keep])
    with pytest.raises(BagError) as excinfo:
        replay.replay(tmp_path / "in", tmp_path / "out", pipeline)
    assert str(excinfo.value).startswith(f"The bag {tmp_path / 'in'} cannot be read")
    assert "\n" not in str(excinfo.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_no_bag_no_metadata_and_no_images(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="There is no bag"):
        replay.replay(tmp_path / "nope", tmp_path / "out", pipeline)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="cannot be read"):
        replay.replay(tmp_path / "empty", tmp_path / "out", pipeline)
    replay.write_sample_bag(tmp_path / "words", [], [(1, "red cup")])
    with pytest.raises(BagError, match="no images on /image: it has /image/compressed"):
        replay.replay(
            tmp_path / "words",
            tmp_path / "out",
            pipeline,
            replay.ReplayOptions(image_topics=("/image",)),
        )
    with pytest.raises(BagError, match="no images on /image/compressed: record"):
        replay.replay(tmp_path / "words", tmp_path / "out", pipeline)


def test_an_instruction_that_names_nothing_is_explained(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    write_bag(tmp_path / "in", [("/image", RAW, stamp(0), raw_image(0))])
    options = replay.ReplayOptions(instruction="open it")
    summary = replay.replay(tmp_path / "in", tmp_path / "out", pipeline, options)
    assert list(summary.doubts) == ["open it"]
    assert '"open" is read as what to do' in summary.doubts["open it"]
    assert summary.objects == 0


def test_objects_say_how_the_instruction_was_read(pipeline: Pipeline, tmp_path: Path) -> None:
    write_bag(tmp_path / "in", [("/image", RAW, stamp(0), raw_image(0))])
    options = replay.ReplayOptions(instruction="open the red cup and put the plate in it")
    replay.replay(tmp_path / "in", tmp_path / "out", pipeline, options)
    (message,) = messages(tmp_path / "out", OBJECTS)
    read = [
        (message.phrases[m.phrase], m.role, m.step, m.relation, m.of) for m in message.mentions
    ]
    assert read == [
        ("red cup", 1, 1, "", -1),
        ("plate", 1, 2, "", -1),
        ("red cup", 2, 2, "in", 1),
    ]
    assert message.confidence == 1.0
    for item in message.objects:
        assert all(
            message.phrases[message.mentions[i].phrase] == item.phrase for i in item.mentions
        )


def test_a_refused_first_instruction_is_an_error(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    with pytest.raises(InstructionError):
        replay.replay(
            tmp_path / "in",
            tmp_path / "out",
            pipeline,
            replay.ReplayOptions(instruction="x" * 2000),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_single_file_is_a_bag_too(pipeline: Pipeline, tmp_path: Path) -> None:
    write_sample(tmp_path / "in")
    shutil.copy(tmp_path / "in" / "in.mcap", tmp_path / "alone.mcap")
    replay.replay(tmp_path / "alone.mcap", tmp_path / "out", pipeline)
    replay.replay(tmp_path / "in", tmp_path / "same", pipeline)
    assert rows(tmp_path / "out") == rows(tmp_path / "same")


def test_the_packages_copies_of_the_messages_are_the_messages() -> None:
    source = Path(__file__).resolve().parents[2] / "siglip_perception_msgs" / "msg"
    copies = {path.name: path.read_text() for path in replay.MESSAGES.glob("*.msg")}
    assert copies == {path.name: path.read_text() for path in source.glob("*.msg")}
    assert copies


@pytest.mark.parametrize("kind", ["TokenSequence", "GroundedObject", "GroundedObjectArray"])
def test_types_in_bags_are_those_that_ros_builds(kind: str) -> None:
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    metadata = [Path(p, "share/siglip_perception_msgs/msg", f"{kind}.json") for p in prefixes if p]
    local_folder = next((path for path in metadata if path.is_file()), None)
    if local_folder is None:
        pytest.skip("siglip_perception_msgs is not built here")
    name = f"siglip_perception_msgs/msg/{kind}"
    hashes = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(local_folder.read_text())["type_hashes"]
    }
    assert STORE.hash_rihs01(name) == hashes[name]
