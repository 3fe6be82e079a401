"""LeRobot datasets, v2.0 and v2.1 (a file for each episode) and v3.0 (many episodes a file).

The formats: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Frames of a video are found by
their timestamps, as LeRobot's own reader does, never by counting.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError
from siglip_perception.features.sources.frames import (
    SourceFrame,
    decode_bytes,
    file_state,
    no_frame,
)
from siglip_perception.features.sources.video import Decoded, frames_at, stated_frames
from siglip_perception.parameter import format_value
from siglip_perception.util import requirements

USE = "Reading LeRobot datasets"
VERSIONS = ("v2.0", "v2.1", "v3.0")
_INFO = Path("meta", "info.json")
_DATA_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_DATA_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_COLUMNS = ("episode_index", "frame_index", "timestamp", "task_index")


@dataclass(frozen=True)
class LeRobotStream:
    """One camera of one episode.

    index: the episode's own number in the dataset.
    data: parquet file with the episode's rows. column: the feature's key, such as
        "observation.images.front". video: its file, None where pictures are in the parquet.
    video_start: seconds at which the episode begins in the video. is_alone: the video holds no
        other episode.
    tasks: of the dataset, by their index; episode_task: where rows have none.
    """

    source: str
    episode: str
    number: int
    camera: str
    count: int
    state: str
    index: int
    data: Path
    column: str
    video: Path | None
    video_start: float
    is_alone: bool
    fps: float
    tasks: Mapping[int, str]
    episode_task: str
    kind: str = "lerobot"

    def frames(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        numbers = range(start, stop, step)
        try:
            rows = _episode_rows(self.data, self.index)
        except DatasetError as error:
            yield from no_frame(numbers, "parquet unreadable", str(error))
            return
        there = [number for number in numbers if number < len(rows)]
        times = [self._time(rows, number) for number in there]
        for number, (image, problem), time in zip(
            there, self._decoded(there, times), times, strict=True
        ):
            row = rows[number]
            task = self.tasks.get(row.task, self.episode_task)
            key = f"{self.column}/{self.index}/{number}"
            stated = row.timestamp if row.timestamp is not None else time
            is_last = number + step >= self.count
            remarks = self._longer_video(len(rows)) if is_last else ()
            yield SourceFrame(number, image, stated, None, key, task, problem, remarks)
        missing = [number for number in numbers if number >= len(rows)]
        detail = f"{self.data.name} has {len(rows)} rows of the episode's {self.count}"
        yield from no_frame(missing, "row missing", detail)

    def _longer_video(self, rows: int) -> tuple[str, ...]:
        if self.video is None or not self.is_alone:
            return ()
        frames = stated_frames(self.video)
        return ("video with more frames than the parquet has rows",) if frames > rows else ()

    def _time(self, rows: Sequence[_Row], number: int) -> float:
        """Time of a frame in its episode, seconds; by its number where times do not ascend."""
        time = rows[number].timestamp
        if time is not None and _ascends(self.data, self.index):
            return time
        return number / self.fps

    def _decoded(self, numbers: Sequence[int], times: Sequence[float]) -> Iterator[Decoded]:
        if self.video is not None:
            places = [self.video_start + time for time in times]
            # Frames may lie off their time by less than half of the distance to the next.
            yield from frames_at(self.video, places, 0.49 / self.fps)
            return
        cells = _pictures(self.data, self.index, self.column)
        for number in numbers:
            name = f"{self.column}/{self.index}/{number}"
            cell = cells[number] if number < len(cells) else None
            data = None if cell is None else cell.get("bytes")
            if not data:
                yield None, ("picture missing", f"{self.data.name} has none in {self.column}")
                continue
            decoded = decode_bytes(data, name)
            yield (None, decoded) if isinstance(decoded, tuple) else (decoded.pixels, None)


@dataclass(frozen=True)
class _Row:
    """One frame's row. task: index of its task, -1 without one."""

    timestamp: float | None
    task: int


@dataclass(frozen=True)
class _Episode:
    """An episode's row of the metadata. start: of each video in its file, seconds."""

    number: int
    length: int
    task: str
    data: Path
    videos: Mapping[str, Path]
    starts: Mapping[str, float]


def is_lerobot(folder: Path) -> bool:
    """Return whether a folder is a LeRobot dataset, of whatever version."""
    return (folder / _INFO).is_file()


def open_lerobot(
    folder: Path, source: str, report: SkipReport, episodes: frozenset[int] | None = None
) -> list[LeRobotStream]:
    """List the cameras of every episode.

    episodes: numbers to take; None: all. Raises DatasetError for a version that is not read, or
    metadata that is damaged.
    """
    info = _read_info(folder)
    fps = float(info["fps"])
    columns = {
        str(name): str(feature.get("dtype"))
        for name, feature in info["features"].items()
        if isinstance(feature, dict) and feature.get("dtype") in ("video", "image")
    }
    if not columns:
        raise DatasetError(f"{folder} has no camera: none of its features is a video or an image.")
    is_v3 = str(info["codebase_version"]).startswith("v3")
    tasks = _tasks_v3(folder) if is_v3 else _tasks_v2(folder)
    listed = (_episodes_v3 if is_v3 else _episodes_v2)(folder, info, columns)
    streams = []
    for episode in listed:
        if episodes is not None and episode.number not in episodes:
            continue
        name = f"episode {episode.number}"
        if episode.length < 1:
            report.note("episode without frames", f"{folder}: {name}")
            continue
        for column, kind in columns.items():
            video = episode.videos[column] if kind == "video" else None
            files = [path for path in (episode.data, video) if path is not None]
            absent = [path for path in files if not path.is_file()]
            streams.append(
                LeRobotStream(
                    source,
                    name,
                    episode.number,
                    column.removeprefix("observation.images.").removeprefix("observation."),
                    episode.length,
                    file_state(path for path in files if path not in absent),
                    episode.number,
                    episode.data,
                    column,
                    video,
                    episode.starts.get(column, 0.0),
                    not is_v3,
                    fps,
                    tasks,
                    episode.task,
                )
            )
    return streams


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / _INFO
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
        if version not in VERSIONS:
            raise DatasetError(
                f"{folder} is a LeRobot dataset of version {format_value(version)}, and"
                f" {', '.join(VERSIONS[:-1])} and {VERSIONS[-1]} are read: convert it with"
                " lerobot's own scripts."
            )
        if not float(info["fps"]) > 0 or not isinstance(info["features"], dict):
            raise ValueError("fps or features")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    return dict(info)


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path} is no LeRobot metadata that can be read ({error}): copy the dataset again."
    )


def _tasks_v2(folder: Path) -> dict[int, str]:
    path = folder / "meta" / "tasks.jsonl"
    if not path.is_file():
        return {}
    return {int(row["task_index"]): str(row["task"]) for row in _json_lines(path)}


def _tasks_v3(folder: Path) -> dict[int, str]:
    path = folder / "meta" / "tasks.parquet"
    if not path.is_file():
        return {}
    table = _table(path, None)
    # LeRobot writes a pandas table whose index is the task.
    name = next(
        (name for name in ("task", "__index_level_0__") if name in table.column_names), None
    )
    if name is None or "task_index" not in table.column_names:
        return {}
    numbers, texts = table["task_index"].to_pylist(), table[name].to_pylist()
    return dict(zip(numbers, texts, strict=True))


def _episodes_v2(
    folder: Path, info: Mapping[str, Any], columns: Mapping[str, str]
) -> Iterator[_Episode]:
    path = folder / "meta" / "episodes.jsonl"
    chunk_size = int(info.get("chunks_size") or 1000)
    data_path = str(info.get("data_path") or _DATA_V2)
    for row in _json_lines(path):
        try:
            number = int(row["episode_index"])
            places = {"episode_index": number, "episode_chunk": number // chunk_size}
            videos = {
                name: folder / str(info["video_path"]).format(video_key=name, **places)
                for name, kind in columns.items()
                if kind == "video"
            }
            data = folder / data_path.format(**places)
            yield _Episode(number, int(row["length"]), _first(row.get("tasks")), data, videos, {})
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error


def _episodes_v3(
    folder: Path, info: Mapping[str, Any], columns: Mapping[str, str]
) -> Iterator[_Episode]:
    data_path = str(info.get("data_path") or _DATA_V3)
    videos = [name for name, kind in columns.items() if kind == "video"]
    fields = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for name in videos:
        fields += [
            f"videos/{name}/{field}" for field in ("chunk_index", "file_index", "from_timestamp")
        ]
    files = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{folder}/meta/episodes has no parquet file: copy the dataset again.")
    for path in files:
        try:
            rows = _table(path, [*fields, "tasks"]).to_pylist()
            for row in rows:
                places = {
                    name: {
                        "chunk_index": row[f"videos/{name}/chunk_index"],
                        "file_index": row[f"videos/{name}/file_index"],
                    }
                    for name in videos
                }
                yield _Episode(
                    int(row["episode_index"]),
                    int(row["length"]),
                    _first(row.get("tasks")),
                    folder
                    / data_path.format(
                        chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
                    ),
                    {
                        name: folder / str(info["video_path"]).format(video_key=name, **place)
                        for name, place in places.items()
                    },
                    {name: float(row[f"videos/{name}/from_timestamp"]) for name in videos},
                )
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error


def _first(tasks: object) -> str:
    return str(tasks[0]) if isinstance(tasks, list) and tasks else ""


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for line in path.read_text().splitlines():
            if line.strip():
                yield dict(json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _table(path: Path, columns: list[str] | None, episode: int | None = None) -> Any:
    """Read those of the columns that a parquet file has; DatasetError where it cannot be read."""
    parquet = requirements.load(USE, "pyarrow.parquet", kind=DatasetError)
    try:
        if columns is not None:
            names = parquet.read_schema(path).names
            columns = [name for name in columns if name in names]
        filters = None if episode is None else [("episode_index", "=", episode)]
        return parquet.read_table(path, columns=columns, filters=filters)
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DatasetError(f"{path} cannot be read ({reason}).") from error


@functools.lru_cache(maxsize=4)
def _rows_of_file(path: Path) -> dict[int, list[_Row]]:
    """Rows of each episode in a file, in the order of their frames; every column is small."""
    table = _table(path, list(_COLUMNS))
    count = table.num_rows
    lists = {
        name: table[name].to_pylist() if name in table.column_names else [None] * count
        for name in _COLUMNS
    }
    rows: dict[int, list[tuple[int, _Row]]] = {}
    for place, (episode, frame, time, task) in enumerate(
        zip(*(lists[name] for name in _COLUMNS), strict=True)
    ):
        row = _Row(None if time is None else float(time), -1 if task is None else int(task))
        rows.setdefault(int(episode or 0), []).append((place if frame is None else frame, row))
    return {
        episode: [row for _, row in sorted(entries, key=lambda entry: entry[0])]
        for episode, entries in rows.items()
    }


def _episode_rows(path: Path, episode: int) -> list[_Row]:
    return _rows_of_file(path).get(episode, [])


@functools.lru_cache(maxsize=64)
def _ascends(path: Path, episode: int) -> bool:
    times = [row.timestamp for row in _episode_rows(path, episode)]
    pairs = itertools.pairwise(times)
    return all(a is not None and b is not None and a < b for a, b in pairs)


@functools.lru_cache(maxsize=1)
def _pictures(path: Path, episode: int, column: str) -> list[Any]:
    """Cells {"bytes": ..., "path": ...} of an episode's pictures, in the order of its frames."""
    try:
        table = _table(path, [column, "frame_index"], episode)
    except DatasetError:
        return []
    if column not in table.column_names:
        return []
    cells: list[Any] = table[column].to_pylist()
    if "frame_index" not in table.column_names:
        return cells
    order = sorted(range(len(cells)), key=table["frame_index"].to_pylist().__getitem__)
    return [cells[place] for place in order]
