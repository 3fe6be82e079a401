"""Sources of image-text pairs, written for the tests that read them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from siglip_perception.bags.replay import write_sample_bag
from siglip_perception.contrastive.data.open import open_data
from siglip_perception.contrastive.data.source_bag import BagOptions
from siglip_perception.contrastive.data.sources import BrokenPairError, PairSource


def picture(gray: int, kind: str = "JPEG") -> bytes:
    """Encode an image of one gray level."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), gray, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def open_pairs(
    *names: object, captioned: bool = True, cache: Path = Path("/nowhere")
) -> PairSource:
    return open_data([str(name) for name in names], cache, BagOptions(), captioned)


def pairs(source: PairSource) -> list[tuple[int, str]]:
    """List gray level and caption of every readable pair."""
    contents = []
    for index in range(len(source)):
        try:
            pair = source.read(index)
        except BrokenPairError:
            continue
        assert pair.image is not None
        contents.append((int(pair.image.mean().round()), pair.caption))
    return contents


def write_shard(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def write_bag(path: Path, captions: list[tuple[float, str]], frames: int = 8) -> None:
    """Write frames at 0, 0.25, 0.5 ... s, each brighter, and captions at the given seconds."""
    write_sample_bag(
        path,
        [(round((1 + n / 4) * 1e9), picture(10 * n)) for n in range(frames)],
        [(round((1 + at) * 1e9), text) for at, text in captions],
    )
