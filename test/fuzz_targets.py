"""Targets of fuzzing: seeds to change, the function that reads them, the errors it may raise."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from siglip_perception import contracts
from siglip_perception.bags.messages import BagTopic, deserialize, typestore
from siglip_perception.checkpoints.tensors import read_header
from siglip_perception.contracts.parse import parse as parse_contract
from siglip_perception.errors import CheckpointError, PerceptionError
from siglip_perception.evaluation import coco
from siglip_perception.images.decode import convert, decode_compressed
from siglip_perception.images.encodings import ENCODINGS
from siglip_perception.language.instruction import parse as parse_instruction

PIXELS = 100_000
# Bytes and words that have broken readers before.
_NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x01")
_WORDS = (
    *("\0", "\u202e", "\ufdfa", "\U0001f964", "<s>", "</s>", " and ", " left of ", "the second"),
    *(
        "집어",
        "컵을 ",
        "말고 ",
        "옆에 있는 ",
        "\uac00\u0301",
        "1e400",
        "NaN",
        "[[[[",
        "{{",
        "*a",
        "&a",
    ),
)


@dataclass(frozen=True)
class Target:
    """seeds: inputs to change. read: raises one of `errors`, or nothing, for any bytes."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = (PerceptionError,)
    is_text: bool = False


def mutate(data: bytes, random: Random, others: tuple[bytes, ...], *, is_text: bool) -> bytes:
    """Change one to eight places of an input: bits, numbers, lengths, copies, splices, words."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        place = random.randrange(len(changed) + 1)
        kind = random.randrange(8)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[place : place + 4] = random.choice(_NUMBERS)
        elif kind == 2:
            del changed[place : place + random.choice((1, 2, 8, 100))]
        elif kind == 3:
            piece = changed[place : place + random.randrange(1, 64)]
            changed[place:place] = piece * random.choice((1, 2, 16))
        elif kind == 4:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            changed[place:] = other[start:]
        elif kind == 5 and is_text:
            changed[place:place] = random.choice(_WORDS).encode("utf-8", "surrogatepass")
        elif kind == 6:
            changed[place:place] = random.randbytes(random.choice((1, 4, 30)))
        elif changed:
            changed[place % len(changed)] = random.randrange(256)
    return bytes(changed)


def _with_checksums(data: bytes) -> bytes:
    """Correct a PNG's checksums, so that a change gets beyond them."""
    fixed, offset = bytearray(data), 8
    while offset + 12 <= len(fixed):
        end = offset + 12 + int.from_bytes(fixed[offset : offset + 4], "big")
        if end > len(fixed):
            break
        fixed[end - 4 : end] = struct.pack(">I", zlib.crc32(fixed[offset + 4 : end - 4]))
        offset = end
    return bytes(fixed)


def _encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _picture(data: bytes) -> object:
    return decode_compressed("any", data, max_pixels=PIXELS, mono16_white=9, max_work=PIXELS)


def _png(data: bytes) -> object:
    return _picture(_with_checksums(data))


def _raw(data: bytes) -> object:
    """Read 16 bytes as an Image's fields, and the rest as its data."""
    head = data[:16].ljust(16, b"\0")
    encoding = sorted(ENCODINGS)[head[0] % len(ENCODINGS)]
    height, width, step = struct.unpack("<HHH", head[1:7])
    if head[7] & 1:  # most images fit their data
        height, width, step = height % 16, width % 16, step % 200
    body = data[16:]
    if head[7] & 2 and height * step < PIXELS:
        body = body.ljust(height * step, b"\x07")[: height * step]
    return convert(
        encoding, height, width, step, bool(head[7] & 4), body, max_pixels=PIXELS, mono16_white=99
    )


@cache
def _store() -> Any:
    return typestore()


def _message(kind: str, data: bytes) -> object:
    return deserialize(_store(), BagTopic("topic", kind, kind, "cdr", "", 1), data)


def _messages() -> tuple[bytes, ...]:
    image = struct.pack("<4sIII", b"\0\1\0\0", 1, 2, 4) + b"cam\0"
    image += struct.pack("<II", 2, 3) + struct.pack("<I", 5) + b"rgb8\0\0\0\0"
    image += struct.pack("<BxxxII", 0, 9, 18) + bytes(range(18))
    return image, b"\0\1\0\0" + struct.pack("<I", 4) + b"cup\0"


@cache
def _file() -> Path:
    return Path(tempfile.mkdtemp(prefix="soak_")) / "input"


def _header(data: bytes) -> object:
    """Read bytes as a safetensors file, with the length of its header put right half the time."""
    if len(data) % 2:
        data = struct.pack("<Q", max(0, len(data) - 8 - 24)) + data[8:]
    _file().write_bytes(data)
    return read_header(_file())


def _safetensors() -> tuple[bytes, ...]:
    entries = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
    }
    text = json.dumps(entries).encode()
    return (struct.pack("<Q", len(text)) + text + bytes(24),)


def _coco_file(data: bytes) -> object:
    _file().write_bytes(data)
    content = coco._read(_file())
    return [entry for key in ("images", "annotations", "categories") for entry in content[key]]


def _contract(data: bytes) -> object:
    return parse_contract(data.decode("utf-8", "replace"), "fuzz.yaml")


def _sentence(data: bytes) -> object:
    return parse_instruction(data.decode("utf-8", "replace"))


def _sentences() -> tuple[bytes, ...]:
    folder = Path(__file__).parent / "language"
    lines = []
    for name in ("sentences_en.txt", "sentences_ko.txt"):
        lines += (folder / name).read_text(encoding="utf-8").splitlines()
    return tuple(line.partition("|")[0].strip().encode() for line in lines if line)


TARGETS: dict[str, Callable[[], Target]] = {
    "png": lambda: Target(
        tuple(_encoded("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "1", "LA")),
        _png,
    ),
    "jpeg": lambda: Target(
        (
            _encoded("JPEG"),
            _encoded("JPEG", progressive=True),
            _encoded("JPEG", "CMYK"),
            _encoded("JPEG", "L", restart_marker_rows=1),
        ),
        _picture,
    ),
    "other pictures": lambda: Target(
        (
            _encoded("WEBP"),
            _encoded("WEBP", lossless=True),
            _encoded("TIFF"),
            _encoded("TIFF", compression="tiff_lzw"),
            _encoded("TIFF", compression="tiff_deflate"),
        ),
        _picture,
    ),
    "raw images": lambda: Target(
        tuple(bytes([n, 4, 0, 6, 0, 18, 0, 3]) + bytes(80) for n in range(40)), _raw
    ),
    "cdr images": lambda: Target(_messages(), partial(_message, "sensor_msgs/msg/Image")),
    "cdr strings": lambda: Target(_messages(), partial(_message, "std_msgs/msg/String")),
    "safetensors": lambda: Target(_safetensors(), _header, (CheckpointError,)),
    "contracts": lambda: Target(
        tuple(contracts.path(name).read_bytes() for name in contracts.names()),
        _contract,
        is_text=True,
    ),
    "sentences": lambda: Target(_sentences(), _sentence, is_text=True),
    "coco": lambda: Target(
        (json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}).encode(),),
        _coco_file,
        is_text=True,
    ),
}
