"""Reading selected tensors of a safetensors file, once, from front to back.

The safetensors library maps a file into memory and trusts that it does not change. Here the bytes
hashed are the bytes loaded, and a shard of a 7 B policy takes no more memory than the selected
tensors do. The format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from siglip_perception.checkpoints.identify import content_error
from siglip_perception.errors import CheckpointError
from siglip_perception.util.files import open_regular

if TYPE_CHECKING:
    # Headers are looked at without it: it takes seconds to import.
    import torch

# A header has some 100 bytes a tensor, and Python's objects of it take ten times as much. (The
# safetensors library accepts 100 MB.)
_MAX_HEADER = 8 << 20
_CHUNK = 1 << 22
# The format's name of a dtype -> PyTorch's, and its bytes.
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its dtype in the format's spelling, and its bytes [begin, end)."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorData:
    """Tensors read from a file.

    tensors: by their name in the file. digests: hex SHA-256 of each tensor's bytes.
    file_digest: hex SHA-256 of the whole file; empty if not requested.
    """

    tensors: Mapping[str, torch.Tensor]
    digests: Mapping[str, str]
    file_digest: str


def read_header(path: Path) -> dict[str, Entry]:
    """Read names, dtypes and shapes of a file's tensors, in the order of their bytes.

    Raises CheckpointError unless it is a whole safetensors file, OSError if it cannot be read.
    """
    with open_regular(path) as file:
        entries, _, _ = _read_header(file, path)
    return entries


def read_tensors(
    path: Path, select: Callable[[str], bool], admit: Callable[[int], None], *, whole_digest: bool
) -> TensorData:
    """Read the tensors whose names are selected; with whole_digest, read and hash every byte.

    admit: takes their bytes in all before they are read, and raises if these are too many.
    Raises CheckpointError if the file is incomplete, OSError if it cannot be read.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}
    digests: dict[str, str] = {}
    with open_regular(path) as file:
        entries, start, raw = _read_header(file, path)
        file_hash = hashlib.sha256(raw)
        admit(sum(entry.end - entry.begin for name, entry in entries.items() if select(name)))
        for name, entry in entries.items():
            size = entry.end - entry.begin
            if not select(name):
                if whole_digest:
                    _hash(file, size, file_hash, path)
                continue
            file.seek(start + entry.begin)
            # A numpy array, because readinto() can fill it in place.
            buffer = np.empty(size, dtype=np.uint8)
            content: memoryview = buffer.data
            if file.readinto(content) != size:
                raise _broken_file(path, "it is cut off")
            if whole_digest:
                file_hash.update(content)
            digests[name] = hashlib.sha256(content).hexdigest()
            if entry.dtype not in _DTYPES:
                raise quantized(path, name, entry.dtype)
            flat = torch.from_numpy(buffer).view(getattr(torch, _DTYPES[entry.dtype][0]))
            tensors[name] = flat.reshape(entry.shape)
    return TensorData(tensors, digests, file_hash.hexdigest() if whole_digest else "")


def _hash(file: BinaryIO, size: int, total: Any, path: Path) -> None:
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise _broken_file(path, "it is cut off")
        total.update(chunk)
        size -= len(chunk)


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Entry], int, bytes]:
    """Read the entries, the offset of their bytes, and the header's own bytes."""
    head = file.read(8)
    if len(head) < 8:
        raise _broken_file(path, "it is cut off")
    (length,) = struct.unpack("<Q", head)
    if length > _MAX_HEADER:
        head += file.read(504)
        raise content_error(path, head) or _broken_file(path, "its header is too large")
    text = file.read(length)
    if len(text) < length:
        raise _broken_file(path, "it is cut off")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken_file(path, "its header is not JSON") from error
    if not isinstance(content, dict):
        raise _broken_file(path, "its header is no object")
    content.pop("__metadata__", None)
    entries = {str(name): _entry(value, path) for name, value in content.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    end = 0
    for entry in entries.values():
        if entry.begin != end:
            raise _broken_file(path, "its tensors overlap or leave gaps")
        end = entry.end
    start = 8 + length
    if path.stat().st_size != start + end:
        raise _broken_file(path, "its size is not what its header says")
    return entries, start, head + text


def _entry(value: Any, path: Path) -> Entry:
    try:
        dtype, shape = value["dtype"], value["shape"]
        begin, end = value["data_offsets"]
        numbers = [*shape, begin, end]
        if not all(type(number) is int and number >= 0 for number in numbers) or end < begin:
            raise ValueError
        entry = Entry(str(dtype), tuple(shape), begin, end)
    except (TypeError, KeyError, ValueError) as error:
        raise _broken_file(path, "its header is malformed") from error
    if entry.dtype in _DTYPES:
        expected_size = math.prod(entry.shape) * _DTYPES[entry.dtype][1]
        if expected_size != end - begin:
            raise _broken_file(path, "a tensor's size is not what its shape says")
    return entry


def quantized(path: Path, name: str, dtype: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds quantized weights ({name!r} as {dtype}): give the unquantized weights, in"
        " float32, float16 or bfloat16."
    )


def _broken_file(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a whole safetensors file ({reason}): get a fresh copy of the model folder."
    )
