"""WebDataset shards: each shard is an episode, each sample a frame of every picture in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.datasets.tar_shards import Place, TarSample, read_samples
from siglip_perception.datasets.texts import decode_text
from siglip_perception.features.sources.frames import SourceFrame, decode_bytes, file_state
from siglip_perception.images.formats import SUFFIXES

_TEXTS = ("txt", "caption", "json")
_FIELDS = ("caption", "text", "task", "instruction")


@dataclass(frozen=True)
class TarStream:
    """One picture of each sample of a shard.

    keys, pictures, texts: of each sample; a text of size 0 is none. text_kinds: their endings.
    """

    source: str
    episode: str
    number: int
    camera: str
    path: Path
    state: str
    keys: tuple[str, ...]
    pictures: tuple[Place | tuple[str, str], ...]
    texts: tuple[tuple[Place, str] | None, ...]
    kind: str = "webdataset"

    @property
    def count(self) -> int:
        return len(self.keys)

    def frames(self, start: int, stop: int, step: int) -> Iterator[SourceFrame]:
        for number in range(start, stop, step):
            key, picture = self.keys[number], self.pictures[number]
            if isinstance(picture[0], str):
                reason, detail = picture
                yield SourceFrame(number, key=key, problem=(str(reason), str(detail)))
                continue
            try:
                with self.path.open("rb") as file:
                    data = _read(file, (int(picture[0]), int(picture[1])))
                    text = self._text(number, file)
            except OSError as error:
                problem = "shard unreadable", error.strerror or ""
                yield SourceFrame(number, key=key, problem=problem)
                continue
            decoded = decode_bytes(data, key)
            if isinstance(decoded, tuple):
                yield SourceFrame(number, key=key, problem=decoded)
            else:
                yield SourceFrame(
                    number, decoded.pixels, key=key, text=text, remarks=decoded.repairs
                )

    def _text(self, number: int, file: object) -> str:
        entry = self.texts[number]
        if entry is None:
            return ""
        place, ending = entry
        try:
            text = decode_text(_read(file, place))
            if ending == "json":
                fields = json.loads(text)
                text = next(str(fields[name]) for name in _FIELDS if name in fields)
        except (ValueError, TypeError, StopIteration, RecursionError):
            return ""
        return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")


def open_shard(path: Path, source: str, number: int, report: SkipReport) -> list[TarStream]:
    """Index a shard: a stream for each picture that its samples have.

    0001.jpg is the picture of the camera ""; 0001.front.jpg and 0001.wrist.png those of "front"
    and "wrist". A sample that lacks a picture which others have is a frame with a problem.
    """
    samples = list(read_samples(path, report))
    cameras = dict.fromkeys(camera for sample in samples for camera in _pictures(sample))
    if not cameras:
        report.note("shard without pictures", str(path))
    state = file_state([path])
    keys = tuple(sample.key for sample in samples)
    texts = tuple(_text_place(sample) for sample in samples)
    streams = []
    for camera in cameras:
        pictures = tuple(
            sample.problem
            or _pictures(sample).get(camera)
            or ("sample without this picture", f"it has {', '.join(sorted(sample.files))}")
            for sample in samples
        )
        streams.append(
            TarStream(source, path.name, number, camera, path, state, keys, pictures, texts)
        )
    return streams


def _pictures(sample: TarSample) -> dict[str, Place]:
    """Find a sample's pictures by camera; of two endings of one camera the first counts."""
    pictures: dict[str, Place] = {}
    for extension, place in sample.files.items():
        camera, _, ending = extension.rpartition(".")
        if f".{ending}" in SUFFIXES:
            pictures.setdefault(camera, place)
    return pictures


def _text_place(sample: TarSample) -> tuple[Place, str] | None:
    return next(
        ((sample.files[ending], ending) for ending in _TEXTS if ending in sample.files), None
    )


def _read(file: object, place: Place) -> bytes:
    file.seek(place[0])  # type: ignore[attr-defined]
    data: bytes = file.read(place[1])  # type: ignore[attr-defined]
    return data
