"""Video files: frames by their own times, so that a variable frame rate does not shift them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siglip_perception.errors import DatasetError
from siglip_perception.features.sources.frames import MAX_PIXELS, SourceFrame
from siglip_perception.types import UInt8Array
from siglip_perception.util import requirements

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
USE = "Reading videos"
# Share by which intervals between frames may differ where the rate is constant: times are rounded
# to the container's clock.
_JITTER = 0.1
_EXACT = 1e-6


@dataclass(frozen=True)
class VideoFacts:
    """Facts of a video from its packets, without decoding any.

    seconds: presentation time of each frame since the first, ascending.
    start: presentation time of the first frame.
    """

    seconds: tuple[float, ...]
    start: float
    is_variable: bool


@dataclass(frozen=True)
class VideoStream:
    """The frames of one video file."""

    source: str
    episode: str
    number: int
    path: Path
    count: int
    state: str
    camera: str = ""
    kind: str = "video"

    def frames(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        numbers = range(start, stop, step)
        try:
            facts = video_facts(self.path)
        except DatasetError as error:
            for number in numbers:
                yield SourceFrame(number, problem=("video unreadable", str(error)))
            return
        times = [facts.seconds[number] for number in numbers]
        decoded = frames_at(self.path, [facts.start + time for time in times], _EXACT)
        for number, time, (image, problem) in zip(numbers, times, decoded, strict=True):
            yield SourceFrame(number, image, time, key=f"{number}", problem=problem)


def video_facts(path: Path) -> VideoFacts:
    """Read the times of all frames from the packets; DatasetError for a file that is no video."""
    av = requirements.load(USE, "av", kind=DatasetError)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DatasetError(f"{path} has no video stream: name a video.")
            stream = container.streams.video[0]
            base = float(stream.time_base)
            # Edit lists make decoders drop frames before time 0, as of a cut without re-encoding.
            stamps = [
                packet.pts
                for packet in container.demux(stream)
                if packet.pts is not None and not packet.is_discard
            ]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as a video ({_reason(error)}).") from error
    seconds = np.sort(np.array(stamps, np.float64)) * base
    if not len(seconds):
        return VideoFacts((), 0.0, False)
    gaps = np.diff(seconds)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    is_variable = bool(len(gaps) and (np.abs(gaps - usual) > _JITTER * usual).any())
    return VideoFacts(tuple((seconds - seconds[0]).tolist()), float(seconds[0]), is_variable)


def stated_frames(path: Path) -> int:
    """Return the number of frames that the container states; 0 where it states none."""
    av = requirements.load(USE, "av", kind=DatasetError)
    try:
        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames)
    except (av.error.FFmpegError, OSError, IndexError):
        return 0


Decoded = tuple[UInt8Array | None, tuple[str, str] | None]
"""An image, or the reason and detail why there is none."""


def frames_at(path: Path, times: Sequence[float], tolerance: float) -> Iterator[Decoded]:
    """Yield the frame nearest to each presentation time, in seconds, which must ascend.

    tolerance: seconds by which the frame may be off. Seeks to the keyframe before the first time,
    then decodes in order; a damaged part costs the frames in it and no others.
    """
    if not times:
        return
    av = requirements.load(USE, "av", kind=DatasetError)
    position = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                detail = f"{stream.width} x {stream.height} pixels, and {MAX_PIXELS} are read"
                yield from _same(len(times), "image too_large", detail)
                return
            stream.thread_type = "AUTO"
            frames = _decode(av, container, stream, times[0], tolerance)
            previous: tuple[float, Any] | None = None
            for seconds, frame in frames:
                # A frame serves each time that is nearer to it than to the frame after it.
                while position < len(times) and previous is not None:
                    time = times[position]
                    if time - previous[0] > seconds - time:
                        break
                    yield _nearest(previous, time, tolerance)
                    position += 1
                if position == len(times):
                    return
                previous = seconds, frame
            for time in times[position:]:
                yield _nearest(previous, time, tolerance)
                position += 1
    except (av.error.FFmpegError, OSError, IndexError) as error:
        yield from _same(len(times) - position, "video unreadable", _reason(error))


def _decode(
    av: Any, container: Any, stream: Any, first: float, tolerance: float
) -> Iterator[tuple[float, Any]]:
    """Yield (seconds, frame) from the keyframe before `first` on, leaving damaged frames out."""
    base = float(stream.time_base)
    if first > 0:
        container.seek(max(0, int((first - tolerance) / base)), stream=stream, backward=True)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if frame.pts is not None and not frame.is_corrupt:
                yield frame.pts * base, frame


def _nearest(candidate: tuple[float, Any] | None, time: float, tolerance: float) -> Decoded:
    if candidate is None or abs(candidate[0] - time) > tolerance:
        nearest = "" if candidate is None else f", the nearest one is at {candidate[0]:.3f} s"
        return None, ("video frame missing", f"none at {time:.3f} s{nearest}")
    frame = candidate[1]
    image: UInt8Array = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return (np.ascontiguousarray(np.rot90(image, turns)) if turns else image), None


def _same(count: int, reason: str, detail: str) -> Iterator[Decoded]:
    for _ in range(count):
        yield None, (reason, detail)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
