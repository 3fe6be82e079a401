"""Film of a run: a clip for each episode, which survives the process, and all of them in one."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from siglip_perception.errors import PerceptionError
from siglip_perception.types import UInt8Array

FILM = "film.mp4"
FRAME_RATE_HZ = 5
SIZE = (480, 360)
"""Of each half, in pixels: the scene, and the node's overlay."""
_CODE = cv2.VideoWriter.fourcc(*"mp4v")


def clip_path(folder: Path, number: int) -> Path:
    """Path of an episode's clip in the output folder."""
    return folder / "clips" / f"{number:04d}.mp4"


class Clip:
    """Writer of one episode's clip; an mp4 file can be read only once it is closed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._writer = cv2.VideoWriter(str(path), _CODE, FRAME_RATE_HZ, (2 * SIZE[0], SIZE[1]))
        if not self._writer.isOpened():
            raise PerceptionError(f"{path} cannot be written: name another --out.")

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.release()

    def write(self, scene: UInt8Array, overlay: UInt8Array | None) -> None:
        """Add a frame; scene: RGB. overlay: BGR, None where there is none yet. Any size."""
        left = cv2.resize(scene[..., ::-1], SIZE)
        right = np.zeros_like(left) if overlay is None else cv2.resize(overlay, SIZE)
        self._writer.write(np.concatenate([left, right], axis=1))


def join_clips(folder: Path) -> int:
    """Write film.mp4 of all readable clips, in order; return the number of frames."""
    film = cv2.VideoWriter(str(folder / FILM), _CODE, FRAME_RATE_HZ, (2 * SIZE[0], SIZE[1]))
    count = 0
    for path in sorted(folder.glob("clips/*.mp4")):
        clip = cv2.VideoCapture(str(path))
        while True:
            is_frame, frame = clip.read()
            if not is_frame:
                break
            film.write(frame)
            count += 1
        clip.release()
    film.release()
    return count
