"""Open the source that a word on the command line names."""

from __future__ import annotations

import re
from pathlib import Path

from siglip_perception.bags.files import is_bag_folder
from siglip_perception.bags.mcap import MAGIC as MCAP
from siglip_perception.bags.recorder import ReplayOptions
from siglip_perception.bags.sqlite import MAGIC as SQLITE
from siglip_perception.errors import ImageError
from siglip_perception.images.formats import identify
from siglip_perception.view.bag import BagImages
from siglip_perception.view.files import PictureFiles, VideoFile
from siglip_perception.view.source import LiveSource, RecordedSource, SourceError
from siglip_perception.view.webcam import Webcam

_WEBCAM = re.compile(r"(?:webcam:?|/dev/video)(\d{1,3})?")
_BAG_SUFFIXES = (".mcap", ".db3", ".zst", ".zstd", ".bag")


def open_source(word: str, options: ReplayOptions, fps: float) -> RecordedSource | LiveSource:
    """Open a picture, a folder of them, a video, a bag, or a webcam (webcam, webcam:1).

    options: what of a bag is read, and how pictures are. fps: of a folder's pictures. Raises
    SourceError or BagError, one sentence, for what is none of these.
    """
    path = Path(word)
    if not path.exists() or path.is_char_device():
        webcam = _WEBCAM.fullmatch(word)
        if webcam is not None:
            return Webcam(int(webcam[1] or 0), options.max_pixels)
        raise SourceError(
            f"There is no file or folder {word!a}: give a picture, a folder of pictures, a video,"
            " a bag, webcam or webcam:1, or nothing for the node that runs."
        )
    if path.is_dir():
        if is_bag_folder(path):
            return BagImages(path, options)
        return PictureFiles(path, fps, options.max_pixels, options.mono16_white)
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise SourceError(
            f"Cannot read {path} ({error.strerror}): check its permissions."
        ) from error
    if (
        start.startswith((MCAP, SQLITE))
        or path.suffix in _BAG_SUFFIXES
        or path.name == "metadata.yaml"
    ):
        return BagImages(path, options)
    try:
        identify(memoryview(start))
    except ImageError as refusal:
        try:
            return VideoFile(path, options.max_pixels)
        except SourceError:
            if path.suffix.lower() in (".mp4", ".mov", ".mkv", ".avi", ".webm"):
                raise
            raise SourceError(f"{path}: {refusal}") from refusal
    return PictureFiles(path, fps, options.max_pixels, options.mono16_white)
