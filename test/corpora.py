"""Corpora of pictures in every kind of source that `features` reads, written as others do."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from siglip_perception.bags.replay import write_sample_bag

Image = npt.NDArray[np.uint8]
FPS = 10


def image(number: int, size: tuple[int, int] = (48, 32)) -> Image:
    """A picture of (width, height) that tells its number by its gray: 10 levels apart."""
    return np.full((size[1], size[0], 3), 20 + 10 * number, np.uint8)


def images(count: int, size: tuple[int, int] = (48, 32)) -> list[Image]:
    return [image(number, size) for number in range(count)]


def jpeg(pixels: Image) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95))


def write_folder(folder: Path, pictures: Iterable[Image], captions: Sequence[str] = ()) -> Path:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(pictures):
        (folder / f"frame_{number:06d}.jpg").write_bytes(jpeg(pixels))
        if captions:
            (folder / f"frame_{number:06d}.txt").write_text(captions[number])
    return folder


def write_tar(
    path: Path,
    pictures: Iterable[Image],
    captions: Sequence[str] = (),
    cameras: Sequence[str] = (),
) -> Path:
    """A shard of samples with a picture for each camera, or a single one."""
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

        for number, pixels in enumerate(pictures):
            for camera in cameras or ("",):
                add(f"{number:06d}.{camera}{'.' * bool(camera)}jpg", jpeg(pixels))
            if captions:
                add(f"{number:06d}.txt", captions[number].encode())
    return path


def write_bag(
    path: Path,
    pictures: Iterable[Image],
    storage: str = "mcap",
    instructions: Sequence[tuple[int, str]] = (),
) -> Path:
    """A bag at FPS frames a second from second 1 on; instructions before the frame numbered."""
    write_sample_bag(
        path,
        ((10**9 + n * 10**9 // FPS, jpeg(pixels)) for n, pixels in enumerate(pictures)),
        [(10**9 + n * 10**9 // FPS - 1, text) for n, text in instructions],
        storage=storage,
    )
    return path


def write_video(
    path: Path,
    pictures: Iterable[Image],
    times: Callable[[int], Fraction] = lambda number: Fraction(number, FPS),
    codec: str = "libx264",
    keyframes: int = 5,
) -> Path:
    """A video whose frame n is shown at times(n) seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream: Any = None
        for number, pixels in enumerate(pictures):
            if stream is None:
                stream = container.add_stream(codec, rate=FPS)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.codec_context.gop_size = keyframes
                stream.codec_context.time_base = base
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(times(number) / base), base
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return path


def write_lerobot(
    folder: Path,
    episodes: Sequence[Sequence[Image]],
    version: str = "v3.0",
    cameras: Sequence[str] = ("front",),
    as_video: bool = True,
    tasks: Sequence[str] = ("pick up the red cup",),
    fps: int = FPS,
) -> Path:
    """A LeRobot dataset; episode e has the task e modulo their number."""
    is_v3 = version.startswith("v3")
    keys = [f"observation.images.{camera}" for camera in cameras]
    first = episodes[0][0]
    feature = {
        "dtype": "video" if as_video else "image",
        "shape": list(first.shape),
        "names": ["height", "width", "channels"],
    }
    scalars = {
        name: {"dtype": dtype, "shape": [1], "names": None}
        for name, dtype in (
            ("timestamp", "float32"),
            ("frame_index", "int64"),
            ("episode_index", "int64"),
            ("index", "int64"),
            ("task_index", "int64"),
        )
    }
    action = {"dtype": "float32", "shape": [2], "names": ["arm", "gripper"]}
    total = sum(map(len, episodes))
    info: dict[str, Any] = {
        "codebase_version": version,
        "robot_type": "drawn",
        "total_episodes": len(episodes),
        "total_frames": total,
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "features": {**dict.fromkeys(keys, feature), "action": action, **scalars},
    }
    if is_v3:
        info |= {
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        }
    else:
        info |= {
            "total_videos": len(episodes) * len(keys),
            "total_chunks": 1,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
            "episode_{episode_index:06d}.mp4",
        }
    meta = folder / "meta"
    meta.mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info, indent=2))
    (meta / "stats.json").write_text("{}")
    tables = []
    start = 0
    for number, frames in enumerate(episodes):
        table = _rows(number, start, frames, keys, as_video, number % len(tasks), fps)
        start += len(frames)
        if is_v3:
            tables.append(table)
        else:
            pq.write_table(table, folder / f"data/chunk-000/episode_{number:06d}.parquet")
            for key in keys if as_video else ():
                write_video(
                    folder / f"videos/chunk-000/{key}/episode_{number:06d}.mp4",
                    frames,
                    lambda n: Fraction(n, fps),
                )
    if not is_v3:
        lines = [json.dumps({"task_index": n, "task": task}) for n, task in enumerate(tasks)]
        (meta / "tasks.jsonl").write_text("\n".join(lines) + "\n")
        lines = [
            json.dumps(
                {
                    "episode_index": number,
                    "tasks": [tasks[number % len(tasks)]],
                    "length": len(frames),
                }
            )
            for number, frames in enumerate(episodes)
        ]
        (meta / "episodes.jsonl").write_text("\n".join(lines) + "\n")
        return folder
    pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    for key in keys if as_video else ():
        write_video(
            folder / f"videos/{key}/chunk-000/file-000.mp4",
            (pixels for frames in episodes for pixels in frames),
            lambda n: Fraction(n, fps),
        )
    _write_v3_metadata(folder, episodes, keys if as_video else [], tasks, fps)
    return folder


def _rows(
    number: int,
    start: int,
    frames: Sequence[Image],
    keys: Sequence[str],
    as_video: bool,
    task: int,
    fps: int,
) -> pa.Table:
    count = len(frames)
    columns: dict[str, Any] = {}
    if not as_video:
        cells = [{"bytes": jpeg(pixels), "path": None} for pixels in frames]
        columns = {key: pa.array(cells) for key in keys}
    return pa.table(
        {
            **columns,
            "action": pa.array([[0.0, 1.0]] * count, pa.list_(pa.float32(), 2)),
            "timestamp": pa.array([n / fps for n in range(count)], pa.float32()),
            "frame_index": pa.array(range(count), pa.int64()),
            "episode_index": pa.array([number] * count, pa.int64()),
            "index": pa.array(range(start, start + count), pa.int64()),
            "task_index": pa.array([task] * count, pa.int64()),
        }
    )


def _write_v3_metadata(
    folder: Path,
    episodes: Sequence[Sequence[Image]],
    keys: Sequence[str],
    tasks: Sequence[str],
    fps: int,
) -> None:
    rows = []
    start = 0
    for number, frames in enumerate(episodes):
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [tasks[number % len(tasks)]],
            "length": len(frames),
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": start,
            "dataset_to_index": start + len(frames),
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for key in keys:
            row |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": start / fps,
                f"videos/{key}/to_timestamp": (start + len(frames)) / fps,
            }
        rows.append(row)
        start += len(frames)
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    # As pandas writes a table whose index is the task.
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64"}
        | {"numpy_type": "int64", "metadata": None},
        {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode"}
        | {"numpy_type": "object", "metadata": None},
    ]
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": columns,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    table = pa.table(
        {
            "task_index": pa.array(range(len(tasks)), pa.int64()),
            "__index_level_0__": pa.array(tasks, pa.string()),
        }
    ).replace_schema_metadata({"pandas": json.dumps(pandas)})
    pq.write_table(table, folder / "meta/tasks.parquet")
