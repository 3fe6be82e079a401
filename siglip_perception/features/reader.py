"""Reader of a folder of features: any frame at once, tokens without a copy.

Tokens lie in safetensors files, which are mapped into memory, so that opening a folder reads the
rows' columns alone, and a frame's tokens come from the disk when they are used.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siglip_perception.errors import DatasetError
from siglip_perception.features.job import ROWS, Job, read_job
from siglip_perception.features.shards import USE
from siglip_perception.parameter import format_value
from siglip_perception.types import FloatArray
from siglip_perception.util import requirements

if TYPE_CHECKING:
    from torch import Tensor

    from siglip_perception.features.torch_dataset import FeatureDataset, ShardSampler

_INDEX = ("episode_index", "frame_index", "camera")
# Files that are mapped at a time; a mapping costs no memory, but systems allow some 65,000.
_MAPPED = 256


@dataclass(frozen=True)
class FeatureRow:
    """One frame of a camera.

    episode: number in the folder. episode_name: in its source.
    stored: its tokens as they are stored, [tokens, dim], in the file's mapped memory; None
        without the output tokens.
    scales: float32 [tokens], where tokens are int8; None else.
    pooled: float32 [D] of unit length; None without the output pooled.
    objects: dicts of phrase, role, score, box [x, y, width, height] and area; None where nothing
        was looked for.
    """

    episode: int
    episode_name: str
    frame: int
    camera: str
    timestamp: float | None
    key: str
    source: str
    text: str
    width: int
    height: int
    stored: Tensor | None
    scales: Tensor | None
    pooled: Tensor | None
    objects: list[dict[str, Any]] | None

    @property
    def tokens(self) -> Tensor | None:
        """Tokens [tokens, dim]: bf16 or fp16 without a copy; int8 times its scales, float32."""
        if self.stored is None or self.scales is None:
            return self.stored
        return self.stored.float() * self.scales[:, None]


class FeatureFolder:
    """Rows of a folder, in the order of the corpus: episode after episode, camera after camera.

    job: what the rows are, such as job.contract and job.fingerprint. cameras: their names.
    Can be pickled; a worker process opens the folder anew.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.job: Job = read_job(folder)
        parquet = requirements.load(USE, "pyarrow.parquet", kind=DatasetError)
        self._shards = sorted((folder / ROWS).glob("part-*.parquet"))
        tables = []
        for path in self._shards:
            try:
                tables.append(parquet.read_table(path, columns=list(_INDEX)))
            except (OSError, ValueError) as error:
                raise DatasetError(
                    f"{path} cannot be read ({error}): run the command again, which replaces it."
                ) from error
        sizes = [table.num_rows for table in tables]
        self._starts: npt.NDArray[np.int64] = np.concatenate(
            [[0], np.cumsum(sizes, dtype=np.int64)]
        ).astype(np.int64)
        self._episodes = _column(tables, "episode_index")
        self._frames = _column(tables, "frame_index")
        names: dict[str, int] = {}
        codes = [
            [names.setdefault(name, len(names)) for name in table["camera"].to_pylist()]
            for table in tables
        ]
        self.cameras = tuple(names)
        self._cameras = np.array([code for shard in codes for code in shard], np.int32)
        # Rows by (episode, frame, camera), for random access.
        self._order = np.lexsort((self._cameras, self._frames, self._episodes))

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return open_features, (self.path,)

    def __len__(self) -> int:
        return len(self._episodes)

    def __repr__(self) -> str:
        return (
            f"FeatureFolder({os.fspath(self.path)!r}): {len(self)} frames of"
            f" {len(set(self._episodes.tolist()))} episodes, {', '.join(self.job.outputs)},"
            f" contract {self.job.contract}"
        )

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, int, str]) -> FeatureRow:
        """Return a row by its place, by (episode, frame), or by (episode, frame, camera).

        Raises IndexError for a place that there is not; DatasetError, one sentence, for a frame
        that there is not, or one of several cameras without saying which.
        """
        if isinstance(key, tuple):
            return self._row(self._find(*key))
        place = key + len(self) if key < 0 else key
        if not 0 <= place < len(self):
            raise IndexError(f"There are {len(self)} rows, and this is row {key}.")
        return self._row(place)

    def __iter__(self) -> Iterator[FeatureRow]:
        return (self._row(place) for place in range(len(self)))

    def keys(self) -> list[tuple[int, int, str]]:
        """List (episode, frame, camera) of every row, in their order."""
        cameras = (self.cameras[code] for code in self._cameras.tolist())
        return list(zip(self._episodes.tolist(), self._frames.tolist(), cameras, strict=True))

    def views(self, episode: int, frame: int) -> dict[str, FeatureRow]:
        """Return every camera's row of a frame; {} where there is none."""
        places = self._matches(episode, frame)
        return {self.cameras[self._cameras[place]]: self._row(int(place)) for place in places}

    def pooled(self) -> FloatArray:
        """Return all pooled vectors, float32 [rows, D]; see pooled_shards() for large corpora."""
        parts = list(self.pooled_shards())
        return np.concatenate(parts) if parts else np.empty((0, self.job.pooled_dim), np.float32)

    def pooled_shards(self) -> Iterator[FloatArray]:
        """Yield the pooled vectors of one shard after the other, float32 [rows, D]."""
        self._require("pooled")
        for number in range(len(self._shards)):
            yield _vectors(self._table(number, ("pooled",))["pooled"], self.job.pooled_dim)

    def texts(self) -> list[str]:
        """Return every row's text, in their order."""
        return [text for n in range(len(self._shards)) for text in self._column_of(n, "text")]

    def sources(self) -> list[str]:
        """Return every row's source, in their order."""
        return [name for n in range(len(self._shards)) for name in self._column_of(n, "source")]

    def dataset(self, outputs: Sequence[str] = (), cameras: Sequence[str] = ()) -> FeatureDataset:
        """Make a torch.utils.data.Dataset of the rows; see FeatureDataset.

        outputs: of the folder's, to read; empty: tokens and pooled, as far as they are there.
        """
        from siglip_perception.features.torch_dataset import FeatureDataset

        return FeatureDataset(self, tuple(outputs), tuple(cameras))

    def sampler(self, seed: int = 0) -> ShardSampler:
        """Make a sampler that shuffles shards, and rows within each: reads lie close together."""
        from siglip_perception.features.torch_dataset import ShardSampler

        return ShardSampler(self._starts, seed)

    def _require(self, output: str) -> None:
        if output not in self.job.outputs:
            raise DatasetError(
                f"{self.path} has no {output}: write them with `siglip-perception features"
                f" --outputs {','.join([*self.job.outputs, output])}` into a new folder."
            )

    def _find(self, episode: int, frame: int, camera: str | None = None) -> int:
        if camera is not None and camera not in self.cameras:
            raise DatasetError(
                f"{self.path} has no camera {format_value(camera)}: it has"
                f" {', '.join(map(format_value, self.cameras))}."
            )
        places = self._matches(episode, frame)
        if camera is not None:
            places = [p for p in places if self.cameras[self._cameras[p]] == camera]
        if not len(places):
            raise DatasetError(
                f"{self.path} has no frame {frame} of episode {episode}"
                f"{f' of {camera}' if camera else ''}: report.json in it says what was left out."
            )
        if len(places) > 1:
            names = ", ".join(format_value(self.cameras[self._cameras[p]]) for p in places)
            raise DatasetError(
                f"Frame {frame} of episode {episode} is there from {names}: name the camera, as"
                f" in [{episode}, {frame}, {format_value(self.cameras[0])}]."
            )
        return int(places[0])

    def _matches(self, episode: int, frame: int) -> list[int]:
        """Find the places of a frame's rows by bisection."""
        order = self._order
        first = np.searchsorted(self._episodes, episode, "left", sorter=order)
        last = np.searchsorted(self._episodes, episode, "right", sorter=order)
        rows = order[first:last]
        frames = self._frames[rows]
        start, stop = np.searchsorted(frames, [frame, frame + 1])
        places: list[int] = rows[start:stop].tolist()
        return places

    def _row(self, place: int) -> FeatureRow:
        import torch

        number = int(np.searchsorted(self._starts, place, "right")) - 1
        row = place - int(self._starts[number])

        def cell(name: str) -> Any:
            return self._column_of(number, name)[row]

        stored, scales = None, None
        if "tokens" in self.job.outputs:
            tensors = self._mapped(number)
            stored = tensors["tokens"][row]
            scales = tensors["scales"][row] if "scales" in tensors else None
        pooled = None
        if "pooled" in self.job.outputs:
            pooled = torch.from_numpy(self._pooled_of(number)[row])
        return FeatureRow(
            int(self._episodes[place]),
            cell("episode"),
            int(self._frames[place]),
            self.cameras[self._cameras[place]],
            cell("timestamp"),
            cell("key"),
            cell("source"),
            cell("text"),
            cell("width"),
            cell("height"),
            stored,
            scales,
            pooled,
            cell("objects") if "objects" in self.job.outputs else None,
        )

    # Not lru_cache on a method: that would keep the folder alive.
    @functools.cached_property
    def _caches(self) -> dict[str, Any]:
        return {
            "mapped": functools.lru_cache(_MAPPED)(self._map),
            "table": functools.lru_cache(64)(self._read),
            "column": functools.lru_cache(256)(
                lambda number, name: self._table(number, (name,))[name].to_pylist()
            ),
            "pooled": functools.lru_cache(64)(
                lambda number: _vectors(
                    self._table(number, ("pooled",))["pooled"], self.job.pooled_dim
                )
            ),
        }

    def _mapped(self, number: int) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = self._caches["mapped"](number)
        return tensors

    def _table(self, number: int, columns: tuple[str, ...]) -> Any:
        return self._caches["table"](number, columns)

    def _column_of(self, number: int, name: str) -> list[Any]:
        values: list[Any] = self._caches["column"](number, name)
        return values

    def _pooled_of(self, number: int) -> FloatArray:
        vectors: FloatArray = self._caches["pooled"](number)
        return vectors

    def _read(self, number: int, columns: tuple[str, ...]) -> Any:
        parquet = requirements.load(USE, "pyarrow.parquet", kind=DatasetError)
        return parquet.read_table(self._shards[number], columns=list(columns))

    def _map(self, number: int) -> dict[str, Tensor]:
        """Map a shard's tokens into memory; DatasetError where they are not there."""
        name = self._shards[number].stem
        path = self.path / "tokens" / f"{name}.safetensors"
        try:
            return _map_safetensors(path)
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise DatasetError(
                f"{path} cannot be read ({error}): run the command again, which replaces it."
            ) from error


def open_features(folder: str | os.PathLike[str]) -> FeatureFolder:
    """Open a folder that `siglip-perception features` has written; reads no tokens yet.

    Raises DatasetError, one sentence, for a folder that is none.
    """
    return FeatureFolder(Path(folder).expanduser())


def _map_safetensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file; private, so that writing to them changes no file."""
    import torch

    dtypes = {
        "BF16": torch.bfloat16,
        "F16": torch.float16,
        "I8": torch.int8,
        "F32": torch.float32,
    }
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    (size,) = struct.unpack_from("<Q", mapped)
    header = json.loads(mapped[8 : 8 + size])
    tensors = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        start, stop = facts["data_offsets"]
        dtype = dtypes[facts["dtype"]]
        count = (stop - start) // dtype.itemsize
        if 8 + size + stop > len(mapped):
            raise ValueError("it is cut off")
        tensor = torch.empty(0, dtype=dtype)
        if count:
            tensor = torch.frombuffer(mapped, dtype=dtype, count=count, offset=8 + size + start)
        tensors[name] = tensor.view(facts["shape"])
    return tensors


def _column(tables: Sequence[Any], name: str) -> npt.NDArray[np.int64]:
    parts = [table[name].to_numpy() for table in tables]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def _vectors(column: Any, dim: int) -> FloatArray:
    """A column of fixed-size lists as float32 [rows, dim]; writable, as PyTorch asks for."""
    chunk = column.combine_chunks()
    flat: FloatArray = chunk.flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(-1, dim)
