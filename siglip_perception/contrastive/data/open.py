"""What the user named as --data, opened as what it is."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from siglip_perception.contrastive.data.source_bag import NO_CAPTION_YET, BagOptions, bag_to_shard
from siglip_perception.contrastive.data.source_files import open_folder
from siglip_perception.contrastive.data.source_shards import ShardSource
from siglip_perception.contrastive.data.source_tables import (
    NAMED_TABLE_SUFFIXES,
    TABLE_SUFFIXES,
    open_table,
)
from siglip_perception.contrastive.data.sources import Joined, PairSource, SourceError
from siglip_perception.util.files import write_atomically

_SCENES = re.compile(r"scenes(?::(\d{1,9}))?(?:@(\d{1,18}))?")
_DEFAULT_SCENES = 20_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_PACKED = (".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar")
_PACKED_TAR = re.compile(r"\.tar\.\w+$", re.IGNORECASE)
_OTHER_TABLES = (".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".tfrecord")


def open_data(
    names: list[str], cache: Path, bag: BagOptions, captioned: bool, strict: bool = False
) -> PairSource:
    """All that was named, one after the other.

    A name is `scenes`, `scenes:COUNT` or `scenes:COUNT@SEED`; a table of captions; a tar shard or
    a folder of them; a bag; or a folder of images with their texts. Braces and stars in it are
    taken as a shell takes them. cache: a folder for the shards that bags become. captioned:
    whether captions are needed. strict: whether the first item that cannot be used is an error.
    Raises SourceError for what is none of them or holds nothing.
    """
    expanded = expand(names)
    shards = [Path(name).expanduser() for name in expanded if _is_shard(name)]
    sources: dict[str, PairSource] = {}
    for number, name in enumerate(expanded):
        if not _is_shard(name):
            sources[f"{number}:{name}"] = _open(name, cache, bag, captioned, strict)
    if shards:
        sources[":" + ", ".join(map(str, shards[:3]))] = ShardSource(shards, captioned, strict)
    for name, source in sources.items():
        if not len(source):
            raise SourceError(
                f"There is nothing to train on in {name.split(':', 1)[1]}: {_left_out(source)}."
            )
    return next(iter(sources.values())) if len(sources) == 1 else Joined(list(sources.values()))


def expand(names: list[str]) -> list[str]:
    """The names as a shell would write them out; SourceError for one that is not there."""
    expanded = [path for name in names for path in _expanded(name)]
    for name in expanded:
        if not _SCENES.fullmatch(name):
            _check_exists(name)
    return expanded


def _is_shard(name: str) -> bool:
    return name.lower().endswith(".tar") and not Path(name).expanduser().is_dir()


def _expanded(name: str) -> Iterator[str]:
    """The names that a shell would make of this one; itself if there is such a file."""
    path = Path(name).expanduser()
    if _exists(path) or "://" in name:
        yield name
        return
    for plain in dict.fromkeys(_without_braces(name)):  # inner braces first: some come twice
        path = Path(plain).expanduser()
        if not _exists(path) and any(character in plain for character in "*?["):
            matches = sorted(path.parent.glob(path.name)) if _exists(path.parent) else []
            if not matches:
                raise SourceError(f"No file matches {plain}: check --data.")
            yield from map(str, matches)
        else:
            yield plain


def _without_braces(name: str) -> Iterator[str]:
    """{a,b} and {00..12} written out, the numbers as wide as the wider end where one has zeros."""
    braces = next((m for m in _BRACES.finditer(name) if _choices(m[1])), None)
    if braces is None:
        yield name
        return
    for choice in _choices(braces[1]):
        yield from _without_braces(name[: braces.start()] + choice + name[braces.end() :])


def _choices(text: str) -> list[str]:
    ends = _RANGE.fullmatch(text)
    if ends is None:
        return text.split(",") if "," in text else []
    first, last = int(ends[1]), int(ends[2])
    zeros = any(end.startswith("0") and len(end) > 1 for end in ends.groups())
    width = max(map(len, ends.groups())) if zeros else 0
    step = 1 if first <= last else -1
    numbers = itertools.islice(range(first, last + step, step), 1_000_000)
    return [f"{number:0{width}d}" if width else str(number) for number in numbers]


def _open(name: str, cache: Path, bag: BagOptions, captioned: bool, strict: bool) -> PairSource:
    scenes = _SCENES.fullmatch(name)
    if scenes:
        from siglip_perception.contrastive.data.source_scenes import SceneSource  # PyTorch's

        return SceneSource(int(scenes[1] or _DEFAULT_SCENES), int(scenes[2] or 0))
    path = Path(name).expanduser()
    if _is_bag(path):
        return _open_bag(path, cache, bag, captioned, strict)
    if path.is_dir():
        return _open_folder(path, captioned, strict)
    if path.suffix.lower() in NAMED_TABLE_SUFFIXES:
        return open_table(path, captioned, strict)
    if _is_packed(path):
        raise SourceError(f"{path} is packed: unpack it; shards are read as plain .tar files.")
    if path.suffix.lower() in _OTHER_TABLES:
        raise SourceError(f"{path} is a table of a kind that is not read: write it as .csv.")
    raise SourceError(
        f"{path} is no training data: name a folder of images, a table (.csv, .tsv, .jsonl),"
        " .tar shards, a bag, or scenes."
    )


def _open_folder(path: Path, captioned: bool, strict: bool) -> PairSource:
    """The shards or the table in the folder, or its images with their captions."""
    inside = sorted(p for p in path.iterdir() if not p.name.startswith(".") and p.is_file())
    shards = [p for p in inside if p.suffix.lower() == ".tar"]
    tables = [p for p in inside if p.suffix.lower() in TABLE_SUFFIXES]
    others = [p for p in inside if _is_packed(p) or p.suffix.lower() in _OTHER_TABLES]
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
    elif others and not any(p.is_dir() for p in path.iterdir()) and len(others) == len(inside):
        return _open(str(others[0]), path, BagOptions(), captioned, strict)  # says what it is
    else:
        source = open_folder(path, captioned, strict)
    for other in others:
        source.report.skip("file of a kind that is not read", str(other), "unpack or convert it")
    return source


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in _PACKED or _PACKED_TAR.search(path.name) is not None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _check_exists(name: str) -> None:
    if "://" in name or name.startswith("pipe:"):
        raise SourceError(f"{name} is an address: download it, training reads files only.")
    path = Path(name).expanduser()
    if not _exists(path):
        raise SourceError(f"There is no {path} to train on: check --data.")


def _is_bag(path: Path) -> bool:
    return path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").is_file()


def _open_bag(
    path: Path, cache: Path, options: BagOptions, captioned: bool, strict: bool
) -> PairSource:
    """The bag's shard, made unless it is there; told apart by path, age and options."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    said = [[str(p.resolve()), p.stat().st_mtime_ns, p.stat().st_size] for p in files]
    key = json.dumps([said, asdict(options)])
    stem = f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    shard, left_out = cache / f"{stem}.tar", cache / f"{stem}.json"
    if not left_out.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        skipped = bag_to_shard(path, shard, options)
        write_atomically(left_out, json.dumps(skipped).encode())
    source = ShardSource([shard], captioned, strict)
    counts = json.loads(left_out.read_text())
    broken = ", ".join(f"{reason} {n}" for reason, n in counts.items() if reason != NO_CAPTION_YET)
    if strict and broken:
        raise SourceError(f"{path}: {broken}; without --strict they are skipped.")
    for reason, count in counts.items():
        source.report.count(reason, count)
    return source


def _left_out(source: PairSource) -> str:
    parts = (source.report.summary(), source.report.first())
    return "; ".join(part for part in parts if part) or "it is empty"
