"""Open every named source as the kind that it is: streams of frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siglip_perception.bags.files import is_bag_folder
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.datasets.source_names import exists, expand_name
from siglip_perception.datasets.texts import decode_text
from siglip_perception.errors import BagError, DatasetError
from siglip_perception.features.sources import video
from siglip_perception.features.sources.bag import BagStream, open_bag
from siglip_perception.features.sources.frames import Stream, file_state
from siglip_perception.features.sources.lerobot import LeRobotStream, is_lerobot, open_lerobot
from siglip_perception.features.sources.pictures import PictureStream, natural_order
from siglip_perception.features.sources.webdataset import TarStream, open_shard
from siglip_perception.images.formats import SUFFIXES

_BAG_SUFFIXES = (".mcap", ".db3")
_LIST = ".txt"
KINDS = (
    "a bag, a LeRobot dataset, .tar shards, a folder of pictures or videos, or a .txt file that"
    " lists such"
)


_Opened = BagStream | LeRobotStream | PictureStream | TarStream | video.VideoStream


@dataclass(frozen=True)
class Corpus:
    """All streams in their order. episodes: number of each stream's episode in the whole corpus.

    A single source keeps its own numbers, so that a LeRobot dataset's rows join by them; each
    further source begins after the highest number of the one before.
    """

    streams: tuple[Stream, ...]
    episodes: tuple[int, ...]


def open_corpus(
    names: Sequence[str],
    report: SkipReport,
    cameras: Sequence[str] = (),
    episodes: frozenset[int] | None = None,
) -> Corpus:
    """Open sources: bags, LeRobot datasets, shards, folders of pictures or videos, lists of them.

    A source that cannot be read is skipped in the report, unless it is the only one.
    cameras: names, topics or LeRobot's keys to take; empty: all. episodes: numbers in the corpus
    to take; None: all.
    Raises DatasetError or BagError where nothing is left.
    """
    paths = _expand(names)
    streams: list[Stream] = []
    numbers: list[int] = []
    offset = 0
    failure: BagError | DatasetError | None = None
    for path in paths:
        try:
            opened = _open(path, report)
        except (BagError, DatasetError) as error:
            if len(paths) == 1:
                raise
            failure = failure or error
            report.skip("source unreadable", str(path), str(error))
            continue
        streams += opened
        numbers += [offset + stream.number for stream in opened]
        offset += max((stream.number for stream in opened), default=-1) + 1
    if not streams:
        raise failure or DatasetError(f"There is no frame in {', '.join(names)}: name {KINDS}.")
    kept = [
        place
        for place, stream in enumerate(streams)
        if (not cameras or _is_among(stream, cameras))
        and (episodes is None or numbers[place] in episodes)
    ]
    if not kept:
        raise _nothing_kept(streams, numbers, cameras, episodes)
    for camera in cameras:
        if not any(_is_among(stream, [camera]) for stream in streams):
            raise _no_camera(camera, streams)
    return Corpus(tuple(streams[place] for place in kept), tuple(numbers[place] for place in kept))


def _expand(names: Sequence[str]) -> list[Path]:
    """Paths of all sources: wildcards expanded, lists read."""
    paths: list[Path] = []
    for name in names:
        for entry in _local_names(name):
            path = Path(entry).expanduser()
            if not exists(path):
                raise DatasetError(f"There is no {path}: name {KINDS}.")
            if path.suffix.lower() == _LIST and path.is_file():
                paths += _listed(path)
            else:
                paths.append(path)
    return paths


def _local_names(name: str) -> Iterator[str]:
    if "://" in name:
        scheme = name.partition("://")[0]
        raise DatasetError(
            f"{name} is not on a disk, and {scheme}:// is not read: copy it here"
            f"{' (aws s3 sync)' if scheme == 's3' else ''}, or mount it as a folder."
        )
    yield from expand_name(name)


def _listed(path: Path) -> list[Path]:
    """Sources that a text file lists, one a line, relative to it; # begins a comment."""
    try:
        lines = [line.strip() for line in decode_text(path.read_bytes()).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The list {path} cannot be read ({error}).") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise DatasetError(f"The list {path} names no source: write one a line.")
    places = []
    for entry in entries:
        for name in _local_names(entry):
            place = path.parent / Path(name).expanduser()
            if not exists(place):
                raise DatasetError(f"There is no {place}, which {path} lists: correct its line.")
            places.append(place)
    return places


def _open(path: Path, report: SkipReport) -> list[Stream]:
    """Open one source; its episodes are numbered from 0 where it has no numbers of its own."""
    source = os.fspath(path.absolute())
    if path.is_dir() and is_lerobot(path):
        return list(open_lerobot(path, source, report))
    if path.suffix in _BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        return list(open_bag(path, source, 0, report))
    if path.is_file():
        return list(_open_file(path, source, 0, report))
    return _open_folder(path, source, report)


def _open_file(path: Path, source: str, number: int, report: SkipReport) -> list[_Opened]:
    ending = path.suffix.lower()
    if ending == ".tar":
        return list(open_shard(path, source, number, report))
    if ending in video.SUFFIXES:
        facts = video.video_facts(path)
        if facts.is_variable:
            report.note("video of variable frame rate", str(path), "timestamps are its own")
        if not facts.seconds:
            report.note("episode without frames", str(path))
            return []
        count = len(facts.seconds)
        return [video.VideoStream(source, path.stem, number, path, count, file_state([path]))]
    if ending in SUFFIXES:
        return [_pictures(path.parent, [path.name], source, path.stem, number)]
    raise DatasetError(f"{path} is no source of frames: name {KINDS}.")


def _open_folder(folder: Path, source: str, report: SkipReport) -> list[Stream]:
    """Open all that lies below a folder, folder after folder in the order of names.

    An episode's name is its place below the folder, so that no two have the same.
    """
    streams: list[Stream] = []
    number = 0

    def add(opened: Sequence[_Opened], place: Path) -> None:
        nonlocal number
        name = "" if place == Path() else place.as_posix()
        for stream in opened:
            inner = f", {stream.episode}" if stream.kind == "lerobot" else ""
            streams.append(replace(stream, episode=f"{name}{inner}"))
        number = max([number, *(stream.number + 1 for stream in opened)])

    for place, folders, names in os.walk(folder, followlinks=True):
        path = Path(place)
        relative = path.relative_to(folder)
        folders[:] = sorted((n for n in folders if not n.startswith(".")), key=natural_order)
        files = sorted((n for n in names if not n.startswith(".")), key=natural_order)
        if path != folder and (is_lerobot(path) or is_bag_folder(path)):
            folders.clear()
            try:
                if is_lerobot(path):
                    first = number
                    inner = open_lerobot(path, source, report)
                    add([replace(item, number=item.number + first) for item in inner], relative)
                else:
                    add(open_bag(path, source, number, report), relative)
            except (BagError, DatasetError) as error:
                report.skip("source unreadable", str(path), str(error))
            continue
        pictures = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
        if pictures:
            add([_pictures(path, pictures, source, "", number)], relative)
        for name in files:
            file = path / name
            ending = file.suffix.lower()
            try:
                if ending in _BAG_SUFFIXES:
                    add(open_bag(file, source, number, report), relative / name)
                elif ending == ".tar" or ending in video.SUFFIXES:
                    add(_open_file(file, source, number, report), relative / name)
            except (BagError, DatasetError) as error:
                report.skip("source unreadable", str(file), str(error))
    return streams


def _pictures(
    folder: Path, names: Sequence[str], source: str, episode: str, number: int
) -> PictureStream:
    state = file_state(folder / name for name in names)
    return PictureStream(source, episode, number, folder, tuple(names), state)


def _is_among(stream: Stream, cameras: Sequence[str]) -> bool:
    names = {stream.camera, getattr(stream, "topic", ""), getattr(stream, "column", "")}
    return any(camera in names for camera in cameras)


def _nothing_kept(
    streams: Sequence[Stream],
    numbers: Sequence[int],
    cameras: Sequence[str],
    episodes: frozenset[int] | None,
) -> DatasetError:
    for camera in cameras:
        if not any(_is_among(stream, [camera]) for stream in streams):
            return _no_camera(camera, streams)
    chosen = sorted(episodes or ())
    return DatasetError(
        f"None of the episodes {', '.join(map(str, chosen[:8]))} is there: the sources have"
        f" {min(numbers)} to {max(numbers)}; choose others with --episodes."
    )


def _no_camera(camera: str, streams: Sequence[Stream]) -> DatasetError:
    names = [name or '""' for name in dict.fromkeys(stream.camera for stream in streams)]
    return DatasetError(
        f"No source has a camera {camera!r}: they have {', '.join(names[:8])}; choose with"
        " --cameras."
    )
