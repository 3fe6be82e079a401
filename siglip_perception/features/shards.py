"""Shards on the disk: rows in parquet, tokens beside them in safetensors, both whole or not there.

A shard is there when its parquet file is: the tokens are renamed into place before it. What is
begun has a name that starts with a dot, and is swept away by the next run.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError
from siglip_perception.features.job import ROWS, TOKENS, Job
from siglip_perception.types import FloatArray, Grounding
from siglip_perception.util import requirements

USE = "A folder of features"
JOB_KEY, SHARD_KEY = b"siglip_perception", b"siglip_perception.shard"
# The header of a safetensors file is padded to a page, so that tensors begin at one, and the
# number of rows can be filled in when it is known.
_HEADER_BYTES = 4096
_SAFETENSORS_DTYPES = {"bf16": "BF16", "fp16": "F16", "int8": "I8"}
_INT8_MOST = 127.0


@dataclass(frozen=True)
class StorageError:
    """How far stored tokens are from float32 ones, over the frames that were measured.

    relative_rms: RMS of the difference over the RMS of the tokens. min_cosine: of one token.
    """

    relative_rms: float
    min_cosine: float
    frames: int


@dataclass
class ErrorSums:
    """Sums of which a StorageError is made; those of several shards add up."""

    difference: float = 0.0
    square: float = 0.0
    min_cosine: float = 1.0
    frames: int = 0

    def measure(self, exact: FloatArray, stored: FloatArray) -> None:
        """Add one frame's tokens [N, D]."""
        difference = stored.astype(np.float64) - exact
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(stored, axis=1)
        cosines = (exact.astype(np.float64) * stored).sum(axis=1) / np.maximum(norms, 1e-30)
        self.difference += float((difference**2).sum())
        self.square += float((exact.astype(np.float64) ** 2).sum())
        self.min_cosine = min(self.min_cosine, float(cosines.min()))
        self.frames += 1

    def add(self, other: Mapping[str, Any]) -> None:
        """Add another shard's sums, as vars() gives them."""
        self.difference += other["difference"]
        self.square += other["square"]
        self.min_cosine = min(self.min_cosine, other["min_cosine"])
        self.frames += other["frames"]

    def result(self) -> StorageError | None:
        if not self.frames:
            return None
        relative = (self.difference / max(self.square, 1e-30)) ** 0.5
        return StorageError(relative, self.min_cosine, self.frames)


@dataclass(frozen=True)
class Row:
    """One frame's row, without its tokens. pooled: float32 [D]; grounding: its objects."""

    episode_index: int
    episode: str
    frame_index: int
    timestamp: float | None
    stamp_ns: int | None
    camera: str
    key: str
    source: str
    text: str
    width: int
    height: int
    pooled: FloatArray | None
    grounding: Grounding | None


def shard_name(number: int) -> str:
    return f"part-{number:06d}"


def prepare_folder(folder: Path) -> None:
    """Make the folder's own folders, and sweep away what a killed run has begun; OSError."""
    for part in (ROWS, TOKENS):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for path in (folder / part).glob(".*"):
            path.unlink(missing_ok=True)


def quantize(values: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Scale each token [..., D] to int8: values are about `int8 * scale`, scales float32 [...]."""
    scales = np.abs(values).max(axis=-1) / _INT8_MOST
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    quantized = np.rint(values / divisors[..., None]).astype(np.int8)
    return quantized, divisors


class _TokenFile:
    """A safetensors file of tokens [rows, N, D] that grows by one batch after the other."""

    def __init__(self, path: Path, job: Job) -> None:
        self._job = job
        self._file: BinaryIO = path.open("wb")
        self._file.write(b" " * _HEADER_BYTES)
        self._scales: list[FloatArray] = []
        self.rows = 0

    def add(self, values: FloatArray, errors: ErrorSums) -> None:
        """Append float32 [B, N, D]; the first frame's error is measured."""
        import torch

        exact = torch.from_numpy(values)
        if self._job.dtype == "int8":
            stored, scales = quantize(values)
            self._scales.append(scales)
            self._file.write(stored.data)
            restored = stored[0] * scales[0][:, None]
        else:
            dtype = torch.bfloat16 if self._job.dtype == "bf16" else torch.float16
            cast = exact.to(dtype)
            self._file.write(cast.view(torch.uint8).numpy().data)
            restored = cast[0].float().numpy()
        errors.measure(values[0], restored)
        self.rows += len(values)

    def finish(self) -> None:
        """Write what comes last, and the header, and hand it all to the disk."""
        job = self._job
        tokens = job.grid[0] * job.grid[1]
        shape = [self.rows, tokens, job.dim]
        item = 1 if job.dtype == "int8" else 2
        end = self.rows * tokens * job.dim * item
        header: dict[str, Any] = {
            "__metadata__": {"contract": job.contract, "fingerprint": job.fingerprint},
            "tokens": {
                "dtype": _SAFETENSORS_DTYPES[job.dtype],
                "shape": shape,
                "data_offsets": [0, end],
            },
        }
        if job.dtype == "int8":
            for scales in self._scales:
                self._file.write(scales.data)
            offsets = [end, end + 4 * self.rows * tokens]
            header["scales"] = {"dtype": "F32", "shape": shape[:2], "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":")).encode()
        self._file.seek(0)
        size = _HEADER_BYTES - 8
        self._file.write(struct.pack("<Q", size) + text.ljust(size))
        _to_disk(self._file)
        self._file.close()

    def close(self) -> None:
        self._file.close()


@dataclass
class ShardWriter:
    """Writes one shard: add() batches, then finish(); abandon() leaves nothing behind.

    report: frames that are left out, with place and reason.
    """

    folder: Path
    job: Job
    number: int
    planned: int
    report: SkipReport = field(default_factory=SkipReport)
    errors: ErrorSums = field(default_factory=ErrorSums)

    def __post_init__(self) -> None:
        name = shard_name(self.number)
        # A retry on another machine may write the same shard at the same time: both are equal.
        unique = f".{name}.{os.getpid()}-{os.urandom(4).hex()}"
        self._rows: list[Row] = []
        self._temporary_rows = self.folder / ROWS / f"{unique}.parquet"
        self._temporary_tokens = self.folder / TOKENS / f"{unique}.safetensors"
        self._tokens = (
            _TokenFile(self._temporary_tokens, self.job) if "tokens" in self.job.outputs else None
        )

    def add(self, rows: Sequence[Row], tokens: FloatArray | None) -> None:
        """Append rows with their tokens, float32 [len(rows), N, D]."""
        self._rows += rows
        if self._tokens is not None and tokens is not None:
            self._tokens.add(tokens, self.errors)

    def finish(self) -> int:
        """Put the shard in its place; return the bytes that it takes."""
        parquet = requirements.load(USE, "pyarrow.parquet", kind=DatasetError)
        name = shard_name(self.number)
        rows_path = self.folder / ROWS / f"{name}.parquet"
        size = 0
        if self._tokens is not None:
            self._tokens.finish()
            tokens_path = self.folder / TOKENS / f"{name}.safetensors"
            self._temporary_tokens.replace(tokens_path)
            size = tokens_path.stat().st_size
        with self._temporary_rows.open("wb") as file:
            parquet.write_table(self._table(), file, compression="zstd")
            _to_disk(file)
        self._temporary_rows.replace(rows_path)
        return size + rows_path.stat().st_size

    def abandon(self) -> None:
        """Remove what was begun."""
        if self._tokens is not None:
            self._tokens.close()
        self._temporary_tokens.unlink(missing_ok=True)
        self._temporary_rows.unlink(missing_ok=True)

    def _table(self) -> Any:
        pa = requirements.load(USE, "pyarrow", kind=DatasetError)
        rows = self._rows
        columns: dict[str, Any] = {
            name: pa.array([getattr(row, name) for row in rows], kind)
            for name, kind in (
                ("episode_index", pa.int64()),
                ("frame_index", pa.int64()),
                ("timestamp", pa.float64()),
                ("stamp_ns", pa.int64()),
                ("camera", pa.string()),
                ("episode", pa.string()),
                ("key", pa.string()),
                ("source", pa.string()),
                ("text", pa.string()),
                ("width", pa.int32()),
                ("height", pa.int32()),
            )
        }
        if self._tokens is not None:
            columns["tokens_shard"] = pa.array(
                [f"{TOKENS}/{shard_name(self.number)}.safetensors"] * len(rows), pa.string()
            )
            columns["tokens_row"] = pa.array(range(len(rows)), pa.int32())
        if "pooled" in self.job.outputs:
            vectors = [row.pooled for row in rows if row.pooled is not None]
            flat = np.concatenate(vectors) if vectors else np.empty(0, np.float32)
            columns["pooled"] = pa.FixedSizeListArray.from_arrays(
                pa.array(flat, pa.float32()), self.job.pooled_dim
            )
        if "objects" in self.job.outputs:
            columns["objects"] = pa.array([_objects(row) for row in rows], _objects_type(pa))
        facts = {
            "number": self.number,
            "planned": self.planned,
            "report": self.report.as_json(),
            "error": vars(self.errors),
        }
        # What it is, for whoever has the file alone; which frames there were is in the manifest.
        job = {name: value for name, value in self.job.as_json().items() if name != "sources"}
        metadata = {
            JOB_KEY: json.dumps(job, ensure_ascii=False).encode(),
            SHARD_KEY: json.dumps(facts, ensure_ascii=False).encode(),
        }
        return pa.table(columns).replace_schema_metadata(metadata)


@dataclass(frozen=True)
class ShardFacts:
    """Record of a finished shard. rows: written; planned: frames that it was to have."""

    number: int
    rows: int
    planned: int
    bytes: int
    report: Mapping[str, Any]
    error: Mapping[str, Any]


def shard_facts(folder: Path, number: int, job: Job) -> ShardFacts | None:
    """Read what a shard says of itself; None where it is not there, or not whole."""
    parquet = requirements.load(USE, "pyarrow.parquet", kind=DatasetError)
    name = shard_name(number)
    rows_path, tokens_path = (
        folder / ROWS / f"{name}.parquet",
        folder / TOKENS / f"{name}.safetensors",
    )
    if not rows_path.is_file():
        return None
    try:
        metadata = parquet.read_metadata(rows_path)
        facts = json.loads(metadata.metadata[SHARD_KEY])
        size = rows_path.stat().st_size
        if "tokens" in job.outputs:
            stored = tokens_path.stat().st_size
            if stored != _token_bytes(job, metadata.num_rows):
                return None
            size += stored
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ShardFacts(
        number, metadata.num_rows, facts["planned"], size, facts["report"], facts["error"]
    )


def _token_bytes(job: Job, rows: int) -> int:
    tokens = job.grid[0] * job.grid[1]
    size = tokens * job.dim + 4 * tokens if job.dtype == "int8" else 2 * tokens * job.dim
    return _HEADER_BYTES + rows * size


def _objects_type(pa: Any) -> Any:
    return pa.list_(
        pa.struct(
            [
                ("phrase", pa.string()),
                ("role", pa.string()),
                ("score", pa.float32()),
                ("box", pa.list_(pa.int32(), 4)),
                ("area", pa.float32()),
            ]
        )
    )


def _objects(row: Row) -> list[dict[str, Any]] | None:
    """List a frame's objects; boxes are [x, y, width, height]. None: nothing was looked for."""
    if row.grounding is None:
        return None
    return [
        {
            "phrase": item.phrase,
            "role": item.role.name.lower(),
            "score": item.score,
            "box": [item.box.x, item.box.y, item.box.width, item.box.height],
            "area": item.area,
        }
        for item in row.grounding.objects
    ]


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
