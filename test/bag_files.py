"""Bags as other tools write them, for the tests: MCAP of any kind, and messages."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import simplejpeg
from backports import zstd

from siglip_perception.bags.messages import COMPRESSED, RAW, STRING, typestore

STORE = typestore()
TYPES = STORE.types
MAGIC = b"\x89MCAP0\r\n"


def header(stamp_ns: int, frame_id: str = "cam") -> Any:
    time = TYPES["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def pixels(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [16, 24, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def jpeg(seed: int = 0) -> bytes:
    return bytes(simplejpeg.encode_jpeg(pixels(seed), 90))


def image(stamp_ns: int = 0, encoding: str = "rgb8", sample: int = 3) -> bytes:
    """A sensor_msgs/Image of 24x16 with so many bytes a pixel, in CDR."""
    data = np.resize(pixels().reshape(-1), 16 * 24 * sample)
    message = TYPES[RAW](header(stamp_ns), 16, 24, encoding, 0, 24 * sample, data)
    return bytes(STORE.serialize_cdr(message, RAW))


def compressed_image(
    stamp_ns: int = 0, format_name: str = "jpeg", data: bytes | None = None
) -> bytes:
    """A sensor_msgs/CompressedImage in CDR, of a JPEG unless other data are given."""
    content = np.frombuffer(jpeg() if data is None else data, np.uint8)
    message = TYPES[COMPRESSED](header(stamp_ns), format_name, content)
    return bytes(STORE.serialize_cdr(message, COMPRESSED))


def text(words: str) -> bytes:
    """A std_msgs/String in CDR."""
    return bytes(STORE.serialize_cdr(TYPES[STRING](data=words), STRING))


@dataclass(frozen=True)
class Channel:
    """A topic of an MCAP file, with its schema's name, encoding and data."""

    topic: str
    schema: str
    encoding: str = "cdr"
    schema_encoding: str = "ros2msg"
    schema_data: bytes = b""


def write_mcap(
    path: Path,
    entries: Sequence[tuple[Channel, int, bytes]],
    *,
    profile: str = "ros2",
    compression: str | None = "",
    per_chunk: int = 2,
    summary: bool = True,
) -> None:
    """Write (channel, time, data) in this order, so many to a chunk; compression None: loose."""
    channels = list(dict.fromkeys(channel for channel, _, _ in entries))
    definitions = b"".join(_definition(i + 1, channel) for i, channel in enumerate(channels))
    out = bytearray(MAGIC + _record(1, _string(profile) + _string("test")))
    indexes: list[tuple[int, list[int], int]] = []
    out += definitions if compression is None else b""
    step = per_chunk if compression is not None else len(entries)
    for start in range(0, len(entries), step):
        part = entries[start : start + step]
        messages = b"".join(
            _record(5, struct.pack("<HIQQ", channels.index(c) + 1, 0, time, time) + data)
            for c, time, data in part
        )
        if compression is None:
            out += messages
            continue
        times = [time for _, time, _ in part]
        offset = len(out)
        body = definitions + messages
        body_bytes = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}[compression](
            body
        )
        out += _record(
            6,
            struct.pack("<QQQI", min(times), max(times), len(body), 0)
            + _string(compression)
            + struct.pack("<Q", len(body_bytes))
            + body_bytes,
        )
        indexes.append((offset, times, len(out) - offset))
    out += _record(15, struct.pack("<I", 0))
    start = len(out)
    if summary:
        out += definitions
        for offset, times, length in indexes:
            out += _record(
                8,
                struct.pack("<QQQQI", min(times), max(times), offset, length, 0)
                + struct.pack("<Q", 0) + _string(compression or "") + struct.pack("<QQ", 0, 0),
            )  # fmt: skip
        counts = b"".join(
            struct.pack("<HQ", i + 1, sum(c == channel for c, _, _ in entries))
            for i, channel in enumerate(channels)
        )
        times = [time for _, time, _ in entries]
        out += _record(
            11,
            struct.pack(
                "<QHIIIIQQ",
                *(len(entries), len(channels), len(channels), 0, 0, len(indexes)),
                *(min(times, default=0), max(times, default=0)),
            )
            + struct.pack("<I", len(counts)) + counts,
        )  # fmt: skip
    out += _record(2, struct.pack("<QQI", start if summary else 0, 0, 0)) + MAGIC
    path.write_bytes(out)


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _definition(number: int, channel: Channel) -> bytes:
    data = channel.schema_data
    schema = _string(channel.schema) + _string(channel.schema_encoding)
    return _record(
        3, struct.pack("<H", number) + schema + struct.pack("<I", len(data)) + data
    ) + _record(
        4,
        struct.pack("<HH", number, number)
        + _string(channel.topic) + _string(channel.encoding) + struct.pack("<I", 0),
    )  # fmt: skip
