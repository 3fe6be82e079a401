"""Open each name given to --data as the kind of source it is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from siglip_perception.contrastive.data.source_bag import NO_CAPTION, BagOptions, bag_to_shard
from siglip_perception.contrastive.data.source_features import FeatureSource, is_features
from siglip_perception.contrastive.data.source_files import open_folder
from siglip_perception.contrastive.data.source_scenes import SceneSource
from siglip_perception.contrastive.data.source_shards import ShardSource
from siglip_perception.contrastive.data.source_tables import (
    NAMED_TABLE_SUFFIXES,
    TABLE_SUFFIXES,
    open_table,
)
from siglip_perception.contrastive.data.sources import ConcatSource, PairSource, SourceError
from siglip_perception.datasets.source_names import exists, expand_name
from siglip_perception.errors import DatasetError
from siglip_perception.util.files import write_atomically

_SCENES = re.compile(r"scenes(?::(\d{1,9}))?(?:@(\d{1,18}))?")
_DEFAULT_SCENES = 20_000
_ARCHIVE_SUFFIXES = (".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar")
_COMPRESSED_TAR = re.compile(r"\.tar\.\w+$", re.IGNORECASE)
_OTHER_TABLES = (".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".tfrecord")


def open_data(
    names: list[str], cache: Path, bag: BagOptions, captioned: bool, strict: bool = False
) -> PairSource:
    """Open every named source and concatenate them in order.

    A name is `scenes`, `scenes:COUNT` or `scenes:COUNT@SEED`; a caption table; a tar shard or a
    folder of shards; a bag; a folder of features; or a folder of images with text files. Braces
    and wildcards expand as in a shell. cache: folder for shards converted from bags.
    captioned: require captions. strict: fail on the first unusable item instead of skipping it.
    Raises SourceError for an unknown kind of source, or an empty one.
    """
    paths = expand(names)
    shards = [Path(name).expanduser() for name in paths if _is_shard(name)]
    sources: dict[str, PairSource] = {}
    for number, name in enumerate(paths):
        if not _is_shard(name):
            sources[f"{number}:{name}"] = _open(name, cache, bag, captioned, strict)
    if shards:
        sources[":" + ", ".join(map(str, shards[:3]))] = ShardSource(shards, captioned, strict)
    for name, source in sources.items():
        if not len(source):
            raise SourceError(
                f"There is nothing to train on in {name.split(':', 1)[1]}:"
                f" {_skip_summary(source)}."
            )
    return (
        next(iter(sources.values())) if len(sources) == 1 else ConcatSource(list(sources.values()))
    )


def expand(names: list[str]) -> list[str]:
    """Expand names as a shell does; raise SourceError for one that does not exist."""
    try:
        paths = [path for name in names for path in expand_name(name)]
    except DatasetError as error:
        raise SourceError(f"{str(error).rstrip('.')}: check --data.") from error
    for name in paths:
        if not _SCENES.fullmatch(name):
            _check_exists(name)
    return paths


def feature_folders(names: list[str]) -> list[Path]:
    """Return those of the sources that `siglip-perception features` has written."""
    paths = [Path(name).expanduser() for name in expand(names)]
    return [path for path in paths if is_features(path)]


def check_features(names: list[str], frozen: Sequence[str], objective: str) -> None:
    """Raise SourceError where stored features cannot stand in for images in a training."""
    folders = feature_folders(names)
    if not folders:
        return
    if objective == "dino":
        raise SourceError(f"{folders[0]} holds features, and --objective dino needs pictures.")
    if len(folders) < len(expand(names)):
        raise SourceError(
            f"{folders[0]} holds features and other sources pictures: train on one kind at a time."
        )
    if "image" not in frozen:
        raise SourceError(
            f"{folders[0]} holds features, of which the image tower cannot learn: add --freeze"
            " image, or train on the pictures."
        )


def _is_shard(name: str) -> bool:
    return name.lower().endswith(".tar") and not Path(name).expanduser().is_dir()


def _open(name: str, cache: Path, bag: BagOptions, captioned: bool, strict: bool) -> PairSource:
    scenes = _SCENES.fullmatch(name)
    if scenes:
        return SceneSource(int(scenes[1] or _DEFAULT_SCENES), int(scenes[2] or 0))
    path = Path(name).expanduser()
    if is_features(path):
        return FeatureSource(path, strict)
    if _is_bag(path):
        return _open_bag(path, cache, replace(bag, captioned=captioned), strict)
    if path.is_dir():
        return _open_folder(path, captioned, strict)
    if path.suffix.lower() in NAMED_TABLE_SUFFIXES:
        return open_table(path, captioned, strict)
    if _is_archive(path):
        raise SourceError(f"{path} is compressed: unpack it, only plain .tar shards are read.")
    if path.suffix.lower() in _OTHER_TABLES:
        raise SourceError(f"{path} is a table in an unsupported format: convert it to .csv.")
    raise SourceError(
        f"{path} is not training data: name a folder of images, a table (.csv, .tsv, .jsonl),"
        " .tar shards, a bag, or scenes."
    )


def _open_folder(path: Path, captioned: bool, strict: bool) -> PairSource:
    """Open a folder's shards or its table, or else its images with their caption files."""
    files = sorted(
        entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file()
    )
    shards = [entry for entry in files if entry.suffix.lower() == ".tar"]
    tables = [entry for entry in files if entry.suffix.lower() in TABLE_SUFFIXES]
    unread = [
        entry for entry in files if _is_archive(entry) or entry.suffix.lower() in _OTHER_TABLES
    ]
    if shards and tables:
        raise SourceError(f"{path} holds both shards and a table: name the one to use.")
    if len(tables) > 1:
        raise SourceError(
            f"{path} holds {len(tables)} tables of captions: name one, such as {tables[0]}."
        )
    source: PairSource
    if shards:
        source = ShardSource(shards, captioned, strict)
    elif tables:
        source = open_table(tables[0], captioned, strict)
    elif (
        unread
        and not any(entry.is_dir() for entry in path.iterdir())
        and len(unread) == len(files)
    ):
        # Nothing but archives or foreign tables: raises an error that names their kind.
        return _open(str(unread[0]), path, BagOptions(), captioned, strict)
    else:
        source = open_folder(path, captioned, strict)
    for file in unread:
        source.report.skip("file of a kind that is not read", str(file), "unpack or convert it")
    return source


def _is_archive(path: Path) -> bool:
    return (
        path.suffix.lower() in _ARCHIVE_SUFFIXES or _COMPRESSED_TAR.search(path.name) is not None
    )


def _check_exists(name: str) -> None:
    if "://" in name or name.startswith("pipe:"):
        raise SourceError(f"{name} is not a local file: download it first.")
    path = Path(name).expanduser()
    if not exists(path):
        raise SourceError(f"There is no {path} to train on: check --data.")


def _is_bag(path: Path) -> bool:
    return path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").is_file()


def _open_bag(path: Path, cache: Path, options: BagOptions, strict: bool) -> PairSource:
    """Open the bag's cached shard, converting the bag first if needed.

    The cache key covers the files' paths, sizes and modification times, and the options. Of
    several processes that share the cache, the first converts the bag and the others wait.
    """
    files = [path] if path.is_file() else sorted(path.iterdir())
    stats = [[str(p.resolve()), p.stat().st_mtime_ns, p.stat().st_size] for p in files]
    key = json.dumps([stats, asdict(options)])
    stem = f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    shard, report = cache / f"{stem}.tar", cache / f"{stem}.json"
    with _locked(cache):
        if not report.is_file():
            counts = bag_to_shard(path, shard, options)
            write_atomically(report, json.dumps(counts).encode())
    source = ShardSource([shard], options.captioned, strict)
    counts = json.loads(report.read_text())
    broken = ", ".join(f"{reason} {n}" for reason, n in counts.items() if reason != NO_CAPTION)
    if strict and broken:
        raise SourceError(f"{path}: {broken}; without --strict they are skipped.")
    for reason, count in counts.items():
        source.report.count(reason, count)
    return source


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; one that is created for this goes again if it stays empty."""
    existed = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
        if not existed:
            with suppress(OSError):
                folder.rmdir()


def _skip_summary(source: PairSource) -> str:
    parts = (source.report.summary(), source.report.first())
    return "; ".join(part for part in parts if part) or "it is empty"
