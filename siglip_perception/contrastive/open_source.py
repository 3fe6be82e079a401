"""What the user named as --data, opened as what it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from siglip_perception.contrastive.source_bag import BagOptions, bag_to_shard
from siglip_perception.contrastive.source_files import TABLE_SUFFIXES, open_folder, open_table
from siglip_perception.contrastive.source_scenes import SceneSource
from siglip_perception.contrastive.source_shards import ShardSource
from siglip_perception.contrastive.sources import Joined, PairSource, SourceError
from siglip_perception.files import write_atomically

_SCENES = re.compile(r"scenes(?::(\d+))?(?:@(\d+))?")
_DEFAULT_SCENES = 20_000


def open_data(names: list[str], cache: Path, bag: BagOptions, captioned: bool) -> PairSource:
    """All that was named, one after the other.

    A name is `scenes`, `scenes:COUNT` or `scenes:COUNT@SEED`; a table of captions; a tar shard or
    a folder of them; a bag; or a folder of images with their texts. cache: a folder for the shards
    that bags become. captioned: whether captions are needed.
    Raises SourceError for what is none of them or holds nothing.
    """
    shards = [Path(name) for name in names if name.endswith(".tar")]
    others = [name for name in names if not name.endswith(".tar")]
    sources = [_open(name, cache, bag, captioned) for name in others]
    if shards:
        for shard in shards:
            _check_exists(shard)
        sources.append(ShardSource(shards, captioned))
    for name, source in zip([*others, "the shards"], sources, strict=False):
        if not len(source):
            raise SourceError(f"There is nothing to train on in {name}: {_left_out(source)}.")
    return sources[0] if len(sources) == 1 else Joined(sources)


def _open(name: str, cache: Path, bag: BagOptions, captioned: bool) -> PairSource:
    scenes = _SCENES.fullmatch(name)
    if scenes:
        return SceneSource(int(scenes[1] or _DEFAULT_SCENES), int(scenes[2] or 0))
    path = Path(name).expanduser()
    _check_exists(path)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return open_table(path, captioned)
    if _is_bag(path):
        return _open_bag(path, cache, bag, captioned)
    if not path.is_dir():
        raise SourceError(
            f"{path} is no training data: name a folder of images, a table (.csv, .tsv, .jsonl),"
            " .tar shards, a bag, or scenes."
        )
    shards = sorted(path.glob("*.tar"))
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in TABLE_SUFFIXES)
    if shards and tables:
        raise SourceError(f"{path} holds both shards and a table: name the one to use.")
    if len(tables) > 1:
        raise SourceError(
            f"{path} holds {len(tables)} tables of captions: name one, such as {tables[0]}."
        )
    if shards:
        return ShardSource(shards, captioned)
    return open_table(tables[0], captioned) if tables else open_folder(path, captioned)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"There is no {path} to train on: check --data.")


def _is_bag(path: Path) -> bool:
    return path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").is_file()


def _open_bag(path: Path, cache: Path, options: BagOptions, captioned: bool) -> PairSource:
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
    source = ShardSource([shard], captioned)
    source.skipped.update(Counter(json.loads(left_out.read_text())))
    return source


def _left_out(source: PairSource) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in source.skipped.items())
    return counts or "it is empty"
