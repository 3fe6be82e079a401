"""Plan of a run: which frames are in which shard, and what the whole will take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from siglip_perception.features.sources.frames import Stream
from siglip_perception.features.sources.open import Corpus

Output = Literal["tokens", "pooled", "objects"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
StoredDtype = Literal["bf16", "fp16", "int8"]
DTYPES: tuple[StoredDtype, ...] = get_args(StoredDtype)
ITEM_BYTES = {"bf16": 2, "fp16": 2, "int8": 1}
# A shard is what a kill costs, what a retry repeats, and one object in a store: large enough that
# few are needed, small enough that one takes minutes at most.
_SHARD_BYTES = 256 * 2**20
_MOST_SHARD_FRAMES = 4096
# Parquet's columns of a frame beside its vectors, and of an object, as measured.
_ROW_BYTES, _OBJECT_BYTES = 120, 40


@dataclass(frozen=True)
class Span:
    """Frames range(start, stop, every) of a stream, by its place in the corpus."""

    stream: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShardPlan:
    """Frames of one shard, in order. frames: their number."""

    number: int
    spans: tuple[Span, ...]
    frames: int


@dataclass(frozen=True)
class RowSize:
    """Size of a frame's outputs. tokens, dim: of its sequence. pooled: channels, 0 without."""

    tokens: int
    dim: int
    dtype: StoredDtype
    pooled: int
    with_objects: bool

    @property
    def token_bytes(self) -> int:
        scales = 4 * self.tokens if self.dtype == "int8" else 0
        return self.tokens * self.dim * ITEM_BYTES[self.dtype] + scales if self.tokens else 0

    @property
    def bytes(self) -> int:
        objects = 4 * _OBJECT_BYTES if self.with_objects else 0
        return self.token_bytes + 4 * self.pooled + _ROW_BYTES + objects

    @property
    def shard_frames(self) -> int:
        """Frames in a shard unless the user says otherwise."""
        return max(1, min(_MOST_SHARD_FRAMES, _SHARD_BYTES // self.bytes))


def plan_shards(counts: Sequence[int], every: int, shard_frames: int) -> Iterator[ShardPlan]:
    """Cut streams of so many frames into shards, in order; one shard may hold several streams."""
    spans: list[Span] = []
    size = number = 0
    for stream, count in enumerate(counts):
        start = 0
        while start < count:
            room = shard_frames - size
            stop = min(count, start + room * every)
            spans.append(Span(stream, start, stop))
            size += len(range(start, stop, every))
            start += len(range(start, stop, every)) * every
            if size == shard_frames:
                yield ShardPlan(number, tuple(spans), size)
                number, spans, size = number + 1, [], 0
    if spans:
        yield ShardPlan(number, tuple(spans), size)


def source_digests(corpus: Corpus) -> dict[str, str]:
    """Digest each source's streams: what is read, in which order, from which files."""
    facts: dict[str, list[object]] = {}
    for stream, episode in zip(corpus.streams, corpus.episodes, strict=True):
        facts.setdefault(stream.source, []).append(_facts(stream, episode))
    return {
        source: hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]
        for source, entries in facts.items()
    }


def _facts(stream: Stream, episode: int) -> list[object]:
    fields = (stream.kind, stream.episode, stream.camera, stream.count, stream.state)
    return [episode, *fields]
