"""Recordings on a disk: one picture, a folder of them, a video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import check_size
from siglip_perception.images.files import Picture, read_image
from siglip_perception.images.formats import SUFFIXES
from siglip_perception.view.source import SourceError, SourceFrame


class PictureFiles:
    """Pictures as frames of a recording: one file, or a folder's, in the order a person counts.

    fps: frames a second when they are played. Raises SourceError for a folder without pictures,
    ImageError for a file that cannot be decoded.
    """

    cameras: Sequence[str] = ("",)
    notes: Sequence[str] = ()

    def __init__(self, path: Path, fps: float, max_pixels: int, mono16_white: int) -> None:
        self.title = path.name or str(path.resolve())
        self.kind = "folder" if path.is_dir() else "picture"
        self._fps = fps
        self._read = partial(read_image, max_pixels=max_pixels, mono16_white=mono16_white)
        self._paths = [path]
        if path.is_dir():
            self._paths = sorted(
                (file for file in path.iterdir() if file.suffix.lower() in SUFFIXES),
                key=natural_order,
            )
        if not self._paths:
            raise SourceError(
                f"The folder {path} has no pictures: name one with JPEG, PNG, WebP, TIFF, BMP, GIF"
                " or PNM files in it, or a bag or video."
            )
        if path.is_file():
            self._read(path)  # a single picture that is damaged leaves nothing to show
        self.count = len(self._paths)

    def choose(self, camera: str) -> None:
        """Do nothing: there is one camera."""

    def time_s(self, index: int) -> float:
        return index / self._fps

    def read(self, index: int) -> SourceFrame:
        path = self._paths[index]
        return SourceFrame(index, self.time_s(index), path.name, partial(self._read, path))

    def close(self) -> None:
        """Do nothing: no file stays open."""


class VideoFile:
    """A video as a recording, decoded by OpenCV. Raises SourceError for what it cannot read."""

    kind = "video"
    cameras: Sequence[str] = ("",)

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.title = path.name
        self.notes: Sequence[str] = ()
        self._path = path
        self._max_pixels = max_pixels
        self._capture = _quiet_capture(str(path))
        # A damaged header may claim 0, -1 or 2^63 frames, or a rate that is no number.
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        if not self._capture.isOpened() or not self._capture.grab():
            raise SourceError(
                f"{path} is neither a picture, a bag nor a video that can be read: convert it, as"
                f" in `ffmpeg -i {path.name} video.mp4`."
            )
        self.count = int(claimed) if 1 <= claimed < 2**31 else 1
        self._fps = float(fps) if 0.1 <= fps <= 1000 else 30.0
        self._grabbed = 0

    def choose(self, camera: str) -> None:
        """Do nothing: there is one camera."""

    def time_s(self, index: int) -> float:
        return index / self._fps

    def read(self, index: int) -> SourceFrame:
        if index < self._grabbed or index > self._grabbed + 64:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            self._grabbed = index - 1
        while self._grabbed < index:
            if not self._capture.grab():
                # The header promised more than there is.
                self.count = max(self._grabbed + 1, 1)
                self.notes = (
                    f"The video ends after {self.count} frames, before its header says.",
                )
                raise SourceError(f"{self.title} has no frame {index}: it ends before.")
            self._grabbed += 1
        return SourceFrame(index, self.time_s(index), self.title, self._retrieve)

    def _retrieve(self) -> Picture:
        return captured_picture(self._capture, self._max_pixels)

    def close(self) -> None:
        self._capture.release()


def _quiet_capture(name: str) -> Any:
    """Open a file with OpenCV, which else prints its backends' complaints."""
    logging: Any = getattr(cv2.utils, "logging", None)  # absent from builds without it
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    return cv2.VideoCapture(name)


def captured_picture(capture: Any, max_pixels: int) -> Picture:
    """Decode what a capture has grabbed; ImageError where it is damaged or too large."""
    decoded, pixels = capture.retrieve()
    if not decoded or pixels is None or pixels.ndim != 3:
        raise ImageError("corrupt", "the frame cannot be decoded.")
    check_size(pixels.shape[0], pixels.shape[1], max_pixels)
    return Picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), 1, "video")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sort key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
