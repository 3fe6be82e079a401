"""Bags as other people's tools leave them: opened, their topics told apart, messages read."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from backports import zstd
from bag_files import (
    STORE,
    TYPES,
    Channel,
    compressed_image,
    header,
    image,
    jpeg,
    pixels,
    text,
    write_mcap,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer

from siglip_perception.bags import replay
from siglip_perception.bags.calibration_frames import read_frames
from siglip_perception.bags.files import Recording, reading
from siglip_perception.bags.messages import (
    COMPRESSED,
    RAW,
    STRING,
    BagTopic,
    canonical_type,
    decode_image,
    deserialize,
    image_type,
)
from siglip_perception.bags.storage import unpack_zstd
from siglip_perception.bags.topics import choose_cameras, choose_instructions
from siglip_perception.errors import BagError, ImageError, PerceptionError

CAMERA = Channel("/image/compressed", COMPRESSED)
RAW_CAMERA = Channel("/image", RAW)
SPOKEN = Channel("/instruction", STRING)


def entries(count: int = 4, channel: Channel = CAMERA) -> list[tuple[Channel, int, bytes]]:
    return [(channel, 10 * (i + 1), compressed_image(i + 1)) for i in range(count)]


def times(recording: Recording, name: str = "/image/compressed") -> list[int]:
    return [time for _, time, _ in recording.messages(recording.topics_named(name))]


def shape(recording: Recording, name: str) -> tuple[int, ...]:
    """Return the shape of a topic's first image, decoded."""
    (topic,) = recording.topics_named(name)
    data = recording.first(topic)
    assert data is not None
    message = deserialize(STORE, topic, data)
    return decode_image(message, image_type(topic), 10**6, 255).pixels.shape


def write_bag(
    folder: Path, rows: list[tuple[str, str, int, bytes]], storage: str = "sqlite3"
) -> Path:
    """(topic, type, time, bytes) -> a bag as rosbag2 writes it; the path of its file."""
    plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        values: dict[str, Any] = {}
        for topic, kind, time, data in rows:
            if topic not in values:
                values[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(values[topic], time, data)
    return next(path for path in folder.iterdir() if path.suffix in (".db3", ".mcap"))


def simple_bag(folder: Path, storage: str = "sqlite3", count: int = 4) -> Path:
    rows = [
        ("/image/compressed", COMPRESSED, 10 * (i + 1), compressed_image(i)) for i in range(count)
    ]
    return write_bag(folder, rows, storage)


def edit_metadata(folder: Path, **changes: Any) -> None:
    path = folder / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text())
    metadata["rosbag2_bagfile_information"].update(changes)
    path.write_text(yaml.safe_dump(metadata))


def refusal(path: Path) -> str:
    """The one sentence with which a bag is refused."""
    with pytest.raises(BagError) as excinfo, reading(path) as recording:
        choose_cameras(recording)
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)


@pytest.mark.parametrize(
    "name",
    [
        *("sensor_msgs/Image", "sensor_msgs/msg/Image", "sensor_msgs::msg::Image"),
        *("sensor_msgs::msg::dds_::Image_", "sensor_msgs.msg.Image", " sensor_msgs/msg/Image "),
    ],
)
def test_every_spelling_of_a_type_is_that_type(name: str) -> None:
    assert canonical_type(name) == RAW


def test_names_of_another_form_stay() -> None:
    assert canonical_type("foxglove.CompressedImage") == "foxglove_msgs/msg/CompressedImage"
    for name in ("", "Image", "a/srv/B/C", "ros.sensor_msgs.v1.Image"):
        assert canonical_type(name) == name


@pytest.mark.parametrize("compression", ["", "zstd", "lz4", None])
@pytest.mark.parametrize("summary", [True, False])
def test_mcap_of_every_layout_is_read_by_time(
    tmp_path: Path, compression: str | None, summary: bool
) -> None:
    entries_out_of_order = [entries()[i] for i in (2, 0, 3, 1)]
    write_mcap(tmp_path / "a.mcap", entries_out_of_order, compression=compression, summary=summary)
    with reading(tmp_path / "a.mcap") as recording:
        assert [topic.count for topic in recording.topics] == [4]
        assert times(recording) == [10, 20, 30, 40]
        assert recording.notes == ()


@pytest.mark.parametrize(
    ("profile", "schema"),
    [
        ("", Channel("/c", "sensor_msgs/msg/CompressedImage")),
        ("ros2", Channel("/c", "sensor_msgs/CompressedImage")),
        ("ros2", Channel("/c", COMPRESSED, schema_encoding="ros2idl", schema_data=b"module x{};")),
        ("x", Channel("/c", COMPRESSED, schema_encoding="", schema_data=b"")),
        ("ros2", Channel("/c", COMPRESSED, schema_encoding="omgidl", schema_data=b"\xff\xfe")),
    ],
)
def test_mcap_of_every_profile_and_schema_has_its_camera(
    tmp_path: Path, profile: str, schema: Channel
) -> None:
    channel = Channel("/tf", "foxglove.FrameTransform", "protobuf", "protobuf", b"\xff\x00\x80")
    rows = [*entries(1, schema), (channel, 5, b"\x0a")]
    write_mcap(tmp_path / "a.mcap", rows, profile=profile)
    with reading(tmp_path / "a.mcap") as recording:
        assert choose_cameras(recording).names == ("/c",)
        assert shape(recording, "/c") == (16, 24, 3)


@pytest.mark.parametrize("compression", ["", "zstd", "lz4", None])
def test_an_mcap_that_was_cut_off_is_read_as_far_as_it_goes(
    tmp_path: Path, compression: str | None
) -> None:
    write_mcap(tmp_path / "whole.mcap", entries(), compression=compression, per_chunk=1)
    content = (tmp_path / "whole.mcap").read_bytes()
    values = set()
    for keep in range(len(content) // 8, len(content), len(content) // 16):
        (tmp_path / "cut.mcap").write_bytes(content[:keep])
        with reading(tmp_path / "cut.mcap") as recording:
            expected_times = times(recording)
            assert expected_times == [10, 20, 30, 40][: len(expected_times)]
            if len(expected_times) < 4:
                assert "it ends early" in recording.notes[0]
            values.add(len(expected_times))
    assert {1, 2, 3} <= values


def test_a_damaged_chunk_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, entries(), compression="zstd")
    data = bytearray(path.read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 1] ^= 0xFF
    path.write_bytes(data)
    with reading(path) as recording:
        assert times(recording) == [30, 40]
        assert "the chunk at byte" in recording.notes[0]


def test_chunks_compressed_in_an_unknown_way_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, entries(), compression="lz4")
    path.write_bytes(path.read_bytes().replace(b"\3\0\0\0lz4", b"\3\0\0\0lzo"))
    assert "its chunks are compressed with 'lzo'" in refusal(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), max_size=4),
    cut=st.integers(0, 10**6),
    compression=st.sampled_from(["", "zstd", None]),
)
def test_no_damage_of_an_mcap_gives_more_than_one_sentence(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int, compression: str | None
) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, entries(2), compression=compression)
    data = bytearray(path.read_bytes())
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    path.write_bytes(data if cut % 2 else data[: cut % len(data)])
    text = ""
    try:
        with reading(path) as recording:
            list(recording.messages(choose_cameras(recording).topics))
    except PerceptionError as error:
        text = str(error)
    assert "\n" not in text


def crystal_bag(path: Path, columns: str = ", serialization_format TEXT") -> None:
    """A .db3 as Crystal's and Dashing's rosbag2 wrote it."""
    with sqlite3.connect(path) as database:
        database.execute(
            f"CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT{columns})"
        )
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER,"
            " data BLOB)"
        )
        values = ", 'cdr'" if columns else ""
        database.execute(f"INSERT INTO topics VALUES(1, '/image', 'sensor_msgs/Image'{values})")
        for time in (20, 10):
            database.execute("INSERT INTO messages VALUES(NULL, 1, ?, ?)", (time, image(time)))


@pytest.mark.parametrize("columns", ["", ", serialization_format TEXT"])
def test_a_database_of_crystal_has_its_camera(tmp_path: Path, columns: str) -> None:
    crystal_bag(tmp_path / "what is it? 100%.db3", columns)
    with reading(tmp_path / "what is it? 100%.db3") as recording:
        assert recording.storage == "sqlite3"
        assert choose_cameras(recording).names == ("/image",)
        assert times(recording, "/image") == [10, 20]
    assert [path.name for path in tmp_path.iterdir()] == ["what is it? 100%.db3"]


def test_what_is_still_in_the_write_ahead_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.db3"
    simple_bag(tmp_path / "bag").rename(path)
    recorder = sqlite3.connect(path)
    recorder.execute("PRAGMA journal_mode=WAL")
    recorder.execute("INSERT INTO messages VALUES(NULL, 1, 50, ?)", (compressed_image(5),))
    recorder.commit()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert before["a.db3-wal"]
    with reading(path) as recording:
        assert times(recording) == [10, 20, 30, 40, 50]
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.is_file()} == before
    recorder.close()


@pytest.mark.parametrize("identifier", ["", "sqlite3", "my_plugin", None])
def test_the_file_decides_whatever_its_metadata_say(
    tmp_path: Path, identifier: str | None
) -> None:
    simple_bag(tmp_path / "bag", "mcap")
    edit_metadata(tmp_path / "bag", storage_identifier=identifier)
    with reading(tmp_path / "bag") as recording:
        assert (recording.storage, times(recording)) == ("mcap", [10, 20, 30, 40])


@pytest.mark.parametrize("version", range(1, 11))
def test_metadata_of_every_version_and_odd_qos(tmp_path: Path, version: int) -> None:
    simple_bag(tmp_path / "bag")
    name = "bag/replay.db3" if version < 4 else "bag.db3"
    edit_metadata(tmp_path / "bag", version=version, relative_file_paths=[name])
    path = tmp_path / "bag" / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text())
    (topic_list,) = metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
    topic_list["topic_metadata"]["offered_qos_profiles"] = "- history: never\n  depth: [" * version
    path.write_text(yaml.safe_dump(metadata))
    with reading(tmp_path / "bag") as recording:
        assert times(recording) == [10, 20, 30, 40]
        assert recording.topics[0].listed_count == 4


def test_split_bags_play_by_time_in_whatever_order_they_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for number, part in ((0, (1, 2)), (1, (3, 4)), (10, (5, 6))):
        rows = [(CAMERA, 10 * i, compressed_image(i)) for i in part]
        write_mcap(folder / f"bag_{number}.mcap", rows)
    topic_list = ["bag_10.mcap", "C:\\bags\\bag_1.mcap", "elsewhere/bag_0.mcap"]
    info = {"version": 4, "storage_identifier": "mcap", "relative_file_paths": topic_list}
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": info}))
    with reading(folder) as recording:
        assert times(recording) == [10, 20, 30, 40, 50, 60]
        assert recording.notes == ()
        assert recording.topics[0].count == 6
    (folder / "bag_1.mcap").unlink()
    with reading(folder) as recording:
        assert times(recording) == [10, 20, 50, 60]
        assert recording.notes == ("metadata.yaml lists bag_1.mcap, which is not there",)


def test_files_that_overlap_are_interleaved_and_ties_keep_the_files_order(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for number, stamps in ((0, (10, 30, 30)), (1, (20, 30, 40))):
        rows = [
            (CAMERA, time, compressed_image(100 * number + i)) for i, time in enumerate(stamps)
        ]
        write_mcap(folder / f"bag_{number}.mcap", rows)
    with reading(folder) as recording:
        (topic,) = recording.topics
        values = [
            (time, deserialize(STORE, topic, data).header.stamp.nanosec)
            for _, time, data in recording.messages([topic])
        ]
    assert values == [(10, 0), (20, 100), (30, 1), (30, 2), (30, 101), (40, 102)]


@pytest.mark.parametrize(
    ("ending", "storage"), [(".zstd", "sqlite3"), (".zst", "mcap"), (".zstd", "mcap")]
)
def test_a_packed_file_is_unpacked_alone_and_in_its_folder(
    tmp_path: Path, ending: str, storage: str
) -> None:
    stored = simple_bag(tmp_path / "bag", storage)
    archive = stored.with_name(stored.name + ending)
    archive.write_bytes(zstd.compress(stored.read_bytes()))
    stored.unlink()
    edit_metadata(
        tmp_path / "bag",
        relative_file_paths=[archive.name],
        compression_format="zstd",
        compression_mode="FILE",
    )
    for path in (archive, tmp_path / "bag"):
        with reading(path) as recording:
            assert (recording.storage, times(recording)) == (storage, [10, 20, 30, 40])


@pytest.mark.parametrize("has_metadata", [True, False])
def test_messages_that_are_compressed_one_by_one_are_read(
    tmp_path: Path, has_metadata: bool
) -> None:
    rows = [("/image", RAW, 10, zstd.compress(image()))]
    write_bag(tmp_path / "bag", rows)
    edit_metadata(tmp_path / "bag", compression_format="zstd", compression_mode="MESSAGE")
    if not has_metadata:
        (tmp_path / "bag" / "metadata.yaml").unlink()
    with reading(tmp_path / "bag") as recording:
        assert shape(recording, "/image") == (16, 24, 3)


def test_without_metadata_the_files_of_one_bag_are_read_and_that_is_told(tmp_path: Path) -> None:
    simple_bag(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with reading(tmp_path / "bag") as recording:
        assert times(recording) == [10, 20, 30, 40]
        assert "no metadata.yaml" in recording.notes[0]
    (tmp_path / "bag" / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    with reading(tmp_path / "bag") as recording:
        assert times(recording) == [10, 20, 30, 40]
        assert "metadata.yaml is damaged" in recording.notes[0]


def test_what_is_no_bag_is_told_for_what_it_is(tmp_path: Path) -> None:
    simple_bag(tmp_path / "one" / "bag_a")
    assert f"is the folder above a bag: give {tmp_path}/one/bag_a." in refusal(tmp_path / "one")
    simple_bag(tmp_path / "one" / "bag_b")
    words = f"a folder of 2 bags: give one of them, {tmp_path}/one/bag_a or {tmp_path}/one/bag_b."
    assert words in refusal(tmp_path / "one")
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("kitchen", "garden"):
        write_mcap(loose / f"{name}.mcap", entries(1))
    assert "2 bags as files and no metadata.yaml" in refusal(loose)
    (tmp_path / "empty").mkdir()
    assert "cannot be read (the folder holds no .mcap or .db3 file)" in refusal(tmp_path / "empty")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b\x08", "is a gzip file: unpack it with gunzip"),
        (b"PK\x03\x04", "unzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "it is empty"),
        (b"hello", "is neither an MCAP nor an SQLite file"),
        (b"SQLite format 3\0garbage", "cannot be read"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 64, "its compression is damaged"),
    ],
)
def test_other_files_are_told_for_what_they_are(tmp_path: Path, start: bytes, words: str) -> None:
    (tmp_path / "a.mcap").write_bytes(start)
    assert words in refusal(tmp_path / "a.mcap")


def test_a_ros_1_bag_is_told_the_command_that_converts_it(tmp_path: Path) -> None:
    from rosbags.rosbag1 import Writer as Ros1Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    path = tmp_path / "my walk.bag"
    with Ros1Writer(path) as writer:
        connection = writer.add_connection("/image", RAW, typestore=store)
        stamp = types["builtin_interfaces/msg/Time"](1, 2)
        head = types["std_msgs/msg/Header"](7, stamp, "cam")
        message = types[RAW](head, 16, 24, "rgb8", 0, 72, pixels().reshape(-1))
        writer.write(connection, 10, store.serialize_ros1(message, RAW))
    assert refusal(tmp_path) == refusal(path)
    match = re.search(r"`(.+)`, and give (.+)\.$", refusal(path))
    assert match
    program, *arguments = shlex.split(match[1])
    subprocess.run([Path(sys.executable).with_name(program), *arguments], check=True)
    with reading(Path(match[2])) as recording:
        assert choose_cameras(recording).names == ("/image",)
        assert shape(recording, "/image") == (16, 24, 3)


def test_messages_of_ros_1_in_an_mcap_are_read(tmp_path: Path) -> None:
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    head = types["std_msgs/msg/Header"](7, types["builtin_interfaces/msg/Time"](3, 4), "cam")
    message = types[RAW](head, 16, 24, "rgb8", 0, 72, pixels().reshape(-1))
    channel = Channel("/image", "sensor_msgs/Image", "ros1", "ros1msg", b"# text")
    data = bytes(store.serialize_ros1(message, RAW))
    write_mcap(tmp_path / "a.mcap", [(channel, 10, data)], profile="ros1")
    with reading(tmp_path / "a.mcap") as recording:
        (topic,) = choose_cameras(recording).topics
        result = deserialize(STORE, topic, recording.first(topic) or b"")
    assert (result.header.stamp.sec, result.header.frame_id) == (3, "cam")
    np.testing.assert_array_equal(result.data, pixels().reshape(-1))
    assert STORE.serialize_cdr(result, RAW)


def test_big_endian_messages_are_read(tmp_path: Path) -> None:
    message = TYPES[RAW](header(5), 16, 24, "rgb8", 0, 72, pixels().reshape(-1))
    data = bytes(STORE.serialize_cdr(message, RAW, little_endian=False))
    write_mcap(tmp_path / "a.mcap", [(RAW_CAMERA, 10, data)])
    with reading(tmp_path / "a.mcap") as recording:
        assert shape(recording, "/image") == (16, 24, 3)


@contextmanager
def record(
    folder: Path, *rows: tuple[str, str, bytes] | tuple[str, str, bytes, str]
) -> Iterator[Recording]:
    """A bag of one message each: topic, type, bytes and, if not CDR, their encoding."""
    topic_list = [
        (Channel(name, kind, *(encoding or ("cdr",))), 10, data)
        for name, kind, data, *encoding in rows
    ]
    write_mcap(folder / "a.mcap", topic_list)
    with reading(folder / "a.mcap") as recording:
        yield recording


def left_out(recording: Recording) -> dict[str, str]:
    cameras = choose_cameras(recording)
    return {topic.name: reason for topic, reason in cameras.left_out.items()}


def test_a_camera_is_one_by_its_encoding_not_by_its_name(tmp_path: Path) -> None:
    with record(
        tmp_path,
        ("/depth_cam/color", RAW, image()),
        ("/front/ranges", RAW, image(encoding="16UC1", sample=2)),
        ("/front/cloud", RAW, image(encoding="32FC1", sample=4)),
        ("/front/zip", COMPRESSED, compressed_image(0, "16UC1; compressedDepth png", b"\0" * 20)),
        ("/labels", RAW, image(encoding="32SC1", sample=4)),
    ) as recording:
        assert choose_cameras(recording).names == ("/depth_cam/color",)
        reasons = left_out(recording)
        assert "depth by its encoding '16UC1'" in reasons["/front/ranges"]
        assert "--mono16-white" in reasons["/front/ranges"]
        assert reasons["/front/cloud"] == "depth by its encoding '32FC1'"
        assert "compressedDepth" in reasons["/front/zip"]
        assert reasons["/labels"] == "its encoding '32SC1' is not supported"
        assert choose_cameras(recording, ("front/ranges",)).names == ("/front/ranges",)


def test_the_transports_of_one_image_topic_are_one_camera(tmp_path: Path) -> None:
    packets = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    rows = [
        ("/a/image", RAW, image()),
        ("/a/image/compressed", COMPRESSED, compressed_image()),
        ("/a/image/zstd", COMPRESSED, compressed_image(0, "zstd", b"\x28\xb5\x2f\xfd....")),
        ("/a/image/theora", "theora_image_transport/msg/Packet", b"\0\1\0\0"),
        ("/a/image/ffmpeg", packets, b"\0\1\0\0"),
        ("/b/image/compressed", COMPRESSED, compressed_image()),
    ]
    with record(tmp_path, *rows) as recording:
        assert choose_cameras(recording).names == ("/a/image", "/b/image/compressed")
        reasons = left_out(recording)
        assert reasons["/a/image/compressed"] == "the same camera as /a/image"
        assert set(reasons) == {
            f"/a/image/{t}" for t in ("compressed", "zstd", "theora", "ffmpeg")
        }
        assert "video packets" in reasons["/a/image/ffmpeg"]
        with pytest.raises(BagError, match=r"FFMPEGPacket, video packets .* republish"):
            choose_cameras(recording, ("/a/image/ffmpeg",))
    with record(tmp_path, *rows[3:5]) as recording, pytest.raises(BagError, match="video"):
        choose_cameras(recording)


def test_a_transport_without_messages_gives_way_to_one_with_some(tmp_path: Path) -> None:
    simple_bag(tmp_path / "bag")
    path = tmp_path / "bag" / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text())
    topic_list = metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
    topic_list.append({"message_count": 2, "topic_metadata": {"name": "/image", "type": RAW}})
    path.write_text(yaml.safe_dump(metadata))
    with reading(tmp_path / "bag") as recording:
        assert choose_cameras(recording).names == ("/image/compressed",)
        assert left_out(recording) == {"/image": "no messages"}


def test_16uc1_alone_is_a_camera_once_it_is_said_what_is_white(tmp_path: Path) -> None:
    with record(tmp_path, ("/ir", RAW, image(encoding="16UC1", sample=2))) as recording:
        with pytest.raises(
            BagError, match="/ir: depth by its encoding '16UC1'; if it is a camera"
        ):
            choose_cameras(recording)
        assert choose_cameras(recording, mono16_white=4095).names == ("/ir",)


def test_a_bag_without_images_says_what_it_has(tmp_path: Path) -> None:
    with record(tmp_path, ("/words", STRING, text("hi"))) as recording:
        with pytest.raises(BagError, match=r"no camera images: it has /words \(std_msgs/msg/Str"):
            choose_cameras(recording)
        with pytest.raises(BagError, match="no images on /words, which is of std_msgs/msg/String"):
            choose_cameras(recording, ("/words",))


def test_images_in_an_unknown_encoding_of_messages_are_told(tmp_path: Path) -> None:
    row = ("/cam", "foxglove.CompressedImage", b"\0", "flatbuffer")
    with record(tmp_path, row) as recording, pytest.raises(BagError, match="'flatbuffer'"):
        choose_cameras(recording)


def foxglove_topic(encoding: str, kind: str = "CompressedImage", definition: str = "") -> BagTopic:
    name = canonical_type(f"foxglove.{kind}")
    return BagTopic("/cam", name, f"foxglove.{kind}", encoding, definition, 1)


def foxglove_protobuf(kind: str, **fields: Any) -> bytes:
    """A message as Protobuf's own library writes it."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory, timestamp_pb2

    of = descriptor_pb2.FieldDescriptorProto
    layout: dict[str, list[tuple[str, int, int]]] = {
        "CompressedImage": [
            ("data", 2, of.TYPE_BYTES),
            ("format", 3, of.TYPE_STRING),
            ("frame_id", 4, of.TYPE_STRING),
        ],
        "RawImage": [
            ("width", 2, of.TYPE_FIXED32),
            ("height", 3, of.TYPE_FIXED32),
            ("encoding", 4, of.TYPE_STRING),
            ("step", 5, of.TYPE_FIXED32),
            ("data", 6, of.TYPE_BYTES),
            ("frame_id", 7, of.TYPE_STRING),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="f.proto", package="foxglove", dependency=["google/protobuf/timestamp.proto"]
    )
    new_field = file.message_type.add(name=kind)
    stamp = ".google.protobuf.Timestamp"
    new_field.field.add(name="timestamp", number=1, type=of.TYPE_MESSAGE, type_name=stamp, label=1)
    for name, number, form in layout[kind]:
        new_field.field.add(name=name, number=number, type=form, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"foxglove.{kind}"))(
        **fields
    )
    message.timestamp.seconds, message.timestamp.nanos = 1_700_000_000, 999
    return bytes(message.SerializeToString())


def test_foxglove_pictures_are_read_in_each_encoding() -> None:
    data = jpeg()
    archive = base64.b64encode(data).decode()
    stamp = {"sec": 1_700_000_000, "nsec": 999}
    as_json = {"timestamp": stamp, "frame_id": "cam", "format": "jpeg", "data": archive}
    messages = [
        deserialize(STORE, foxglove_topic(encoding), content)
        for encoding, content in (
            (
                "protobuf",
                foxglove_protobuf("CompressedImage", data=data, format="jpeg", frame_id="cam"),
            ),
            ("json", json.dumps(as_json).encode()),
            ("cdr", foxglove_cdr(data)),
        )
    ]
    for message in messages:
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_700_000_000, 999)
        assert (message.header.frame_id, message.format) == ("cam", "jpeg")
        assert decode_image(message, COMPRESSED, 10**6).pixels.shape == (16, 24, 3)


def foxglove_cdr(data: bytes, definition: str = "") -> bytes:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "foxglove_msgs/msg/CompressedImage"
    lines = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
    store.register(get_types_from_msg(definition or lines, kind))
    stamp = store.types["builtin_interfaces/msg/Time"](1_700_000_000, 999)
    fields: dict[str, Any] = {
        "timestamp": stamp,
        "data": np.frombuffer(data, np.uint8),
        "format": "jpeg",
    }
    if not definition:
        fields["frame_id"] = "cam"
    return bytes(store.serialize_cdr(store.types[kind](**fields), kind))


def test_a_bags_own_definition_of_a_foxglove_type_counts() -> None:
    lines = "builtin_interfaces/Time timestamp\nuint8[] data\nstring format\n"
    topic = foxglove_topic("cdr", definition=lines)
    message = deserialize(STORE, topic, foxglove_cdr(jpeg(), lines))
    assert (bytes(message.data), message.header.frame_id) == (jpeg(), "")


def test_foxglove_raw_images_are_read() -> None:
    data = pixels().tobytes()
    content = foxglove_protobuf(
        "RawImage", width=24, height=16, encoding="rgb8", step=72, data=data
    )
    message = deserialize(STORE, foxglove_topic("protobuf", "RawImage"), content)
    np.testing.assert_array_equal(decode_image(message, RAW, 10**6).pixels, pixels())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["protobuf", "json", "cdr", "ros1"]))
def test_bytes_that_are_no_message_are_malformed(data: bytes, encoding: str) -> None:
    reason, seconds = "", None
    try:
        seconds = deserialize(STORE, foxglove_topic(encoding), data).header.stamp.sec
    except ImageError as error:
        reason = error.reason
    assert reason == "malformed" or seconds is not None


def note(
    recording: Recording, name: str = "/instruction", *, has_instruction: bool = False
) -> str:
    return choose_instructions(recording, name, has_instruction=has_instruction)[1]


def test_without_an_instruction_it_is_said_how_to_give_one(tmp_path: Path) -> None:
    with record(tmp_path, ("/image", RAW, image())) as recording:
        assert note(recording).endswith('give one with --instruction "pick up the red cup"')
        assert note(recording, has_instruction=True) == ""
        with pytest.raises(BagError, match="the bag has no topic /spoken; give one with"):
            note(recording, "/spoken")
    with record(tmp_path, ("/voice/command", STRING, text("red cup"))) as recording:
        assert "--instruction-topic; of std_msgs/msg/String it has /voice/command (1)" in note(
            recording
        )
    with record(tmp_path, ("/instruction", "voice_msgs/msg/Said", b"\0\1\0\0")) as recording:
        assert "/instruction is of voice_msgs/msg/Said, and an instruction is a std_msgs" in note(
            recording
        )


def test_two_instruction_topics_are_told_apart(tmp_path: Path) -> None:
    rows = [("/instruction", STRING, text("cup")), ("/arm/instruction", STRING, text("plate"))]
    with record(tmp_path, *rows) as recording:
        topics, words = choose_instructions(recording, "/instruction", has_instruction=False)
        assert [topic.name for topic in topics] == ["/instruction"]
        assert "the bag has /arm/instruction, too" in words
    odd = ("/instruction", "voice_msgs/msg/Said", b"\0\1\0\0")
    with record(tmp_path, rows[0], odd) as recording:
        topics, words = choose_instructions(recording, "/instruction", has_instruction=False)
        assert [topic.type for topic in topics] == [STRING]
        assert "/instruction has messages of voice_msgs/msg/Said, too" in words


def test_calibration_reads_the_same_bags(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", entries(3), profile="", compression="lz4")
    assert [frame.shape for frame in read_frames(tmp_path / "a.mcap", 2)] == [(16, 24, 3)] * 2
    write_mcap(tmp_path / "b.mcap", [(RAW_CAMERA, 1, image(encoding="mono16", sample=2))])
    with pytest.raises(BagError, match="/image: the image's encoding mono16"):
        read_frames(tmp_path / "b.mcap", 2)


def test_a_bag_in_a_folder_that_is_read_only(tmp_path: Path) -> None:
    simple_bag(tmp_path / "bag")
    for path in (*(tmp_path / "bag").iterdir(), tmp_path / "bag"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with reading(tmp_path / "bag") as recording:
            assert times(recording) == [10, 20, 30, 40]
    finally:
        (tmp_path / "bag").chmod(0o755)
    shutil.rmtree(tmp_path / "bag")


def test_the_sample_bag_is_what_it_was(tmp_path: Path) -> None:
    replay.write_sample_bag(tmp_path / "in", [(10, jpeg())], [(5, "red cup")])
    with reading(tmp_path / "in") as recording:
        assert [(t.name, t.type, t.count, t.listed_count) for t in recording.topics] == [
            ("/image/compressed", COMPRESSED, 1, 1),
            ("/instruction", STRING, 1, 1),
        ]
        assert recording.notes == ()


def test_a_pipe_is_no_bag_and_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mcap")
    with pytest.raises(BagError, match="it is a named pipe"), reading(tmp_path / "pipe.mcap"):
        pass


def test_what_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siglip_perception.bags.files._SPARE_BYTES", 1 << 16)
    (tmp_path / "bomb.mcap.zstd").write_bytes(zstd.compress(bytes(1 << 24)))
    bomb = tmp_path / "bomb.mcap.zstd"
    with pytest.raises(BagError, match="it unpacks to more than"), reading(bomb):
        pass
    monkeypatch.setattr("siglip_perception.bags.storage.MAX_UNPACKED_BYTES", 1000)
    assert unpack_zstd(zstd.compress(bytes(400)) + zstd.compress(bytes(600))) == bytes(1000)
    for data, reason in (
        (zstd.compress(bytes(1001)), "more than"),
        (zstd.compress(bytes(900))[:-3], "cut off"),
    ):
        with pytest.raises(zstd.ZstdError, match=reason):
            unpack_zstd(data)
