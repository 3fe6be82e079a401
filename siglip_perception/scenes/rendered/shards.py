"""Rendered scenes on disk: tar shards in WebDataset's layout, rendered ahead, read in any order.

A shard holds the SHARD_SCENES scenes of one stage. Each scene is four files: KEY.jpg, the picture;
KEY.png, its instances (0 is background, n the n-th entry of "things"); KEY.json, what it shows;
KEY.txt, a caption. Scene i of a seed is the same in every run on one machine.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from siglip_perception.errors import PerceptionError
from siglip_perception.scenes.rendered.layout import MAX_OBJECTS, sample_layout
from siglip_perception.scenes.rendered.stage import Picture, Stage
from siglip_perception.scenes.vocabulary import LANGUAGES, sample_caption
from siglip_perception.types import UInt8Array
from siglip_perception.util.files import write_atomically

SHARD_SCENES = 128
WIDTH, HEIGHT = 480, 360
_TWINS = 0.12
_CAPTION_OBJECTS = 4
_QUALITY = 95
_NAME = re.compile(r"rendered-(\d+)-(\d{6})\.tar")


@dataclass(frozen=True)
class RenderedThing:
    """One thing of a stored scene; occlusion: share of its outline out of view, 0..1.

    named: a phrase may name its kind. color: "" for a muted color.
    """

    kind: str
    color: str
    named: bool
    occlusion: float


@dataclass(frozen=True)
class StoredScene:
    """image: uint8 [height, width, 3] RGB; instances: uint8 [height, width], n: things[n - 1]."""

    key: str
    image: UInt8Array
    instances: UInt8Array
    things: tuple[RenderedThing, ...]
    caption: str


def render_scene(stage: Stage, seed: int, index: int, *, depth: bool = False) -> Picture:
    """Draw scene `index` of a seed on the stage of its shard."""
    rng = np.random.default_rng((seed, index))
    twins = bool(rng.random() < _TWINS)
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    layout = sample_layout(rng, stage.stock, count, stage.grounds, stage.patterns, twins=twins)
    return stage.draw(layout, depth=depth)


def new_stage(seed: int, shard: int, width: int = WIDTH, height: int = HEIGHT) -> Stage:
    """Set up the stage of one shard of a seed."""
    return Stage((seed, shard, 0x57A6E), width, height)


def shard_path(folder: Path, seed: int, shard: int) -> Path:
    """Return the path of a shard's file."""
    return folder / f"rendered-{seed}-{shard:06d}.tar"


def write_shard(folder: Path, seed: int, shard: int) -> Path:
    """Render a shard, and write it whole or not at all."""
    path = shard_path(folder, seed, shard)
    buffer = io.BytesIO()
    with new_stage(seed, shard) as stage, tarfile.open(fileobj=buffer, mode="w") as tar:
        for index in range(shard * SHARD_SCENES, (shard + 1) * SHARD_SCENES):
            picture = render_scene(stage, seed, index)
            for suffix, data in _files(picture, seed, index):
                entry = tarfile.TarInfo(f"{index:08d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    write_atomically(path, buffer.getvalue())
    return path


def _files(picture: Picture, seed: int, index: int) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng((seed, index, 0xCA9))
    yield "jpg", simplejpeg.encode_jpeg(picture.image, quality=_QUALITY, colorspace="RGB")
    yield "png", cv2.imencode(".png", picture.instances)[1].tobytes()
    things = [
        {
            "kind": kind,
            "color": thing.color,
            "named": number < picture.objects,
            "occlusion": round(occlusion, 3),
        }
        for number, (thing, kind, occlusion) in enumerate(
            zip(picture.things, picture.kinds, picture.occlusion, strict=True)
        )
    ]
    yield "json", json.dumps({"things": things}).encode()
    pairs = [(t.color, k) for t, k in zip(picture.things, picture.kinds, strict=True)]
    pairs = pairs[: picture.objects]
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:_CAPTION_OBJECTS]]
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    yield "txt", (sample_caption(chosen, language, rng) if chosen else "").encode()


class RenderedShards:
    """The scenes of a folder's shards, by number; every file is indexed once."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise PerceptionError(
                f"There is no folder {str(folder)!r} of rendered scenes: make one with"
                " siglip-perception scenes -o."
            )
        paths = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
        if not paths:
            raise PerceptionError(
                f"{str(folder)!r} has no rendered scenes (rendered-SEED-NUMBER.tar): make some"
                " with siglip-perception scenes -o."
            )
        self._entries: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        for path in paths:
            self._entries.extend(_members(path))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> StoredScene:
        path, key, members = self._entries[index]
        with path.open("rb") as file:
            contents = {}
            for suffix, (offset, size) in members.items():
                file.seek(offset)
                contents[suffix] = file.read(size)
        try:
            image = simplejpeg.decode_jpeg(contents["jpg"], colorspace="RGB")
            png = np.frombuffer(contents["png"], np.uint8)
            instances = np.asarray(cv2.imdecode(png, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
            record: dict[str, Any] = json.loads(contents["json"])
            things = tuple(RenderedThing(**entry) for entry in record["things"])
            return StoredScene(key, image, instances, things, contents["txt"].decode())
        except (KeyError, TypeError, ValueError, cv2.error, AttributeError) as error:
            raise PerceptionError(
                f"Scene {key} of {path} cannot be read ({error}): delete the file and render it"
                " again."
            ) from error


def _members(path: Path) -> list[tuple[Path, str, dict[str, tuple[int, int]]]]:
    by_key: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                by_key.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise PerceptionError(
            f"{path} is no whole shard ({error}): delete it and render it again."
        ) from error
    return [(path, key, members) for key, members in sorted(by_key.items())]
