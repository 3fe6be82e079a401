"""Search over the pooled vectors: frames by a text, frames that are nearly equal, a map of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.features.reader import FeatureFolder
from siglip_perception.features.sources.frames import Stream
from siglip_perception.features.sources.open import open_corpus
from siglip_perception.types import FloatArray, UInt8Array
from siglip_perception.util import requirements

# Above so many frames an index answers, where faiss is installed; below, a product with all
# vectors takes less than reading them.
LARGE = 1_000_000
INDEX = "pooled.faiss"
# Links of a node in the graph, and nodes looked at in a search: recall of 0.95 and more, as
# measured by faiss's authors (https://github.com/facebookresearch/faiss/wiki).
_LINKS, _LOOKED_AT = 32, 256
# Hits that are looked at for each one shown, where nearly equal ones are left out.
_SPARE = 64
_BLOCK = 1024


@dataclass(frozen=True)
class Hit:
    """A row of the folder. cosine: of its pooled vector with the query. alike: nearly equal rows
    that it stands for, beside itself.
    """

    place: int
    cosine: float
    alike: int = 0


def search(
    folder: FeatureFolder, query: FloatArray, count: int, alike: float = 0.0, index: str = "auto"
) -> list[Hit]:
    """Find the rows nearest to a unit vector [D], the best first.

    alike: cosine from which two hits count as one; 0: all are listed. index: "exact", "faiss", or
    "auto", which takes faiss for more than LARGE rows where it is installed.
    """
    wanted = min(len(folder), count * _SPARE if alike else count)
    is_large = len(folder) > LARGE and requirements.is_there("faiss")
    if index == "faiss" or (index == "auto" and is_large):
        places, cosines = _search_index(folder, query, wanted)
    else:
        places, cosines = _search_all(folder, query, wanted)
    pairs = list(zip(places.tolist(), cosines.tolist(), strict=True))
    if not alike:
        return [Hit(place, cosine) for place, cosine in pairs]
    vectors = {place: _vector(folder, place) for place, _ in pairs}
    hits: list[Hit] = []
    counts: dict[int, int] = {}
    for place, cosine in pairs:
        twin = next(
            (hit.place for hit in hits if float(vectors[hit.place] @ vectors[place]) >= alike),
            None,
        )
        if twin is not None:
            counts[twin] = counts.get(twin, 0) + 1
        elif len(hits) < count:
            hits.append(Hit(place, cosine))
    return [Hit(hit.place, hit.cosine, counts.get(hit.place, 0)) for hit in hits]


def _search_all(
    folder: FeatureFolder, query: FloatArray, count: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The best of every shard, shard after shard, so that memory stays flat."""
    places = np.empty(0, np.int64)
    cosines = np.empty(0, np.float32)
    start = 0
    for vectors in folder.pooled_shards():
        cosines = np.concatenate([cosines, vectors @ query])
        places = np.concatenate([places, np.arange(start, start + len(vectors))])
        # Of equal ones the first comes first, whatever the shards are.
        best = np.lexsort((places, -cosines))[:count]
        places, cosines = places[best], cosines[best]
        start += len(vectors)
    return places, cosines


def _search_index(
    folder: FeatureFolder, query: FloatArray, count: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Search faiss's graph of all vectors, which is made once and kept in the folder."""
    faiss = requirements.load("--index faiss", "faiss")
    path = folder.path / INDEX
    graph: Any = None
    if path.is_file():
        graph = faiss.read_index(str(path))
    if graph is None or graph.ntotal != len(folder):
        graph = faiss.IndexHNSWFlat(folder.job.pooled_dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
        for vectors in folder.pooled_shards():
            graph.add(vectors)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            faiss.write_index(graph, str(temporary))
            temporary.replace(path)
        except (OSError, RuntimeError):
            temporary.unlink(missing_ok=True)  # it is searched all the same
    graph.hnsw.efSearch = max(_LOOKED_AT, count)
    cosines, places = graph.search(query[None], count)
    is_hit = places[0] >= 0
    return places[0][is_hit], cosines[0][is_hit]


def _vector(folder: FeatureFolder, place: int) -> FloatArray:
    pooled = folder[place].pooled
    assert pooled is not None
    vector: FloatArray = pooled.numpy()
    return vector


def unique_rows(folder: FeatureFolder, alike: float) -> list[Hit]:
    """Keep each row whose cosine with every row kept before is below `alike`, in their order.

    The cosine of a hit is that with the nearest row kept before, -1 for the first; `alike` of a
    hit counts the rows that were left out for it.
    """
    kept = np.empty((0, folder.job.pooled_dim), np.float32)
    places: list[int] = []
    nearest: list[float] = []
    counts: list[int] = []
    start = 0
    for vectors in folder.pooled_shards():
        for first in range(0, len(vectors), _BLOCK):
            block = vectors[first : first + _BLOCK]
            before = len(places)
            known = block @ kept.T if before else np.full((len(block), 1), -1.0, np.float32)
            best, cosine = known.argmax(axis=1), known.max(axis=1)
            fresh: list[int] = []
            for row in range(len(block)):
                twin, closeness = int(best[row]), float(cosine[row])
                if fresh:
                    inner = block[fresh] @ block[row]
                    if float(inner.max()) > closeness:
                        twin, closeness = before + int(inner.argmax()), float(inner.max())
                if closeness >= alike:
                    counts[twin] += 1
                    continue
                places.append(start + first + row)
                nearest.append(closeness)
                counts.append(0)
                fresh.append(row)
            kept = np.concatenate([kept, block[fresh]])
        start += len(vectors)
    return [Hit(*values) for values in zip(places, nearest, counts, strict=True)]


def project(vectors: FloatArray) -> FloatArray:
    """Project unit vectors [rows, D] to the plane in which they differ most: [rows, 2], [0, 1].

    Principal components; each axis is cut at its 1st and 99th percentile, so that a few outliers
    do not press all others together. Their signs are fixed, so that a map is the same each time.
    """
    if len(vectors) < 2:
        return np.full((len(vectors), 2), 0.5, np.float32)
    centered = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    plane = axes[:, ::-1][:, :2]
    plane *= np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    points = centered @ plane
    low, high = np.percentile(points, [1, 99], axis=0)
    span = np.where(high > low, high - low, 1.0)
    projected: FloatArray = np.clip((points - low) / span, 0, 1).astype(np.float32)
    return projected


class FrameFinder:
    """Reads the pictures of rows from the sources that they were made from.

    missing: sources that are not there any more, each with why.
    """

    def __init__(self, folder: FeatureFolder) -> None:
        self._folder = folder
        self._streams: dict[str, dict[tuple[str, str], Stream]] = {}
        self.missing: dict[str, str] = {}

    def images(self, places: Sequence[int]) -> Iterator[UInt8Array | None]:
        """Yield the picture of each row, uint8 [H, W, 3]; None where it cannot be read."""
        for place in places:
            row = self._folder[place]
            stream = self._open(row.source).get((row.episode_name, row.camera))
            if stream is None or row.frame >= stream.count:
                yield None
                continue
            frame = next(iter(stream.frames(row.frame, row.frame + 1, 1)), None)
            yield None if frame is None else frame.image

    def _open(self, source: str) -> dict[tuple[str, str], Stream]:
        if source not in self._streams:
            try:
                corpus = open_corpus([source], SkipReport())
                streams = {(stream.episode, stream.camera): stream for stream in corpus.streams}
            except PerceptionError as error:
                self.missing[source] = str(error)
                streams = {}
            self._streams[source] = streams
        return self._streams[source]


def check_pooled(folder: FeatureFolder) -> None:
    """Raise DatasetError for a folder without pooled vectors, which cannot be searched."""
    if "pooled" not in folder.job.outputs:
        raise DatasetError(
            f"{folder.path} has no pooled vectors to search: write them with --outputs pooled."
        )


def check_digest(folder: FeatureFolder, digest: str, model: str | Path) -> None:
    """Raise DatasetError unless a model's SigLIP is the one that the vectors were made with."""
    if digest != folder.job.siglip:
        raise DatasetError(
            f"The vectors in {folder.path} are of another SigLIP ({folder.job.siglip[:12]}) than"
            f" {model} has ({digest[:12] or 'none'}): name the model that they were made with."
        )
