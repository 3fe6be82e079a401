"""Shards of a corpus through the encoders: decoding runs ahead in a thread of its own.

The frames of a batch depend on the plan alone, so a shard has the same bytes whoever computes it,
and however often it was begun before.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siglip_perception.errors import DatasetError
from siglip_perception.features.job import Job
from siglip_perception.features.plan import ShardPlan
from siglip_perception.features.shards import Row, ShardWriter
from siglip_perception.features.sources.frames import SourceFrame, Stream
from siglip_perception.features.sources.open import Corpus
from siglip_perception.language import instruction as language
from siglip_perception.types import FloatArray, Frame, Task

if TYPE_CHECKING:
    from siglip_perception.pipeline import Pipeline, Query

# Batches that are decoded and wait: enough that a slow frame does not stop the model.
_AHEAD = 3
_LONGEST_DETAIL = 300
Progress = Callable[[int, int], None]
"""Called with the frames done since the last call, and how many of them are left out."""


@dataclass
class _Batch:
    """Frames of one shard, decoded. inputs: of the encoders. is_last: the shard's last one.

    rows: place of each frame. problems: frames without an image: place, reason, detail.
    """

    shard: ShardPlan
    frames: list[SourceFrame] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    inputs: Any = None
    is_last: bool = False


class Encoder:
    """Encodes shards of one job with one loaded pipeline.

    folder: of the features, which prepare_folder() has made ready.
    query: a frame's text -> what to look for in it; None: nothing.
    """

    def __init__(self, pipeline: Pipeline, corpus: Corpus, job: Job, folder: Path) -> None:
        self._pipeline, self._corpus, self._job, self._folder = pipeline, corpus, job, folder
        self.query = functools.lru_cache(maxsize=256)(self._new_query)

    def run(self, shards: Iterable[ShardPlan], progress: Progress) -> None:
        """Encode and write the shards, in order.

        Raises DatasetError where one cannot be written; those before it stay.
        """
        writer: ShardWriter | None = None
        try:
            for batch in _ahead(self._batches(shards)):
                if writer is None:
                    shard = batch.shard
                    writer = ShardWriter(self._folder, self._job, shard.number, shard.frames)
                left_out = self._write(batch, writer)
                progress(len(batch.frames) + len(batch.problems), left_out)
                if batch.is_last:
                    writer.finish()
                    writer = None
        except OSError as error:
            raise DatasetError(
                f"Cannot write to {self._folder} ({error.strerror or error}): make room, or mend"
                " that, and run it again to go on; what is done is kept."
            ) from error
        finally:
            if writer is not None:
                writer.abandon()

    def _batches(self, shards: Iterable[ShardPlan]) -> Iterator[_Batch]:
        """Decode all frames of the shards into batches, none of which has frames of two."""
        for shard in shards:
            batch = _Batch(shard)
            for place, frame, remarks in self._frames(shard):
                batch.remarks += remarks
                if frame.image is None:
                    reason, detail = frame.problem or ("unreadable", "")
                    name = self._name(place, frame)
                    batch.problems.append((reason, name, detail[:_LONGEST_DETAIL]))
                else:
                    batch.frames.append(frame)
                    batch.places.append(place)
                if len(batch.frames) == self._job.batch:
                    yield self._prepared(batch)
                    batch = _Batch(shard)
            batch.is_last = True
            yield self._prepared(batch)

    def _prepared(self, batch: _Batch) -> _Batch:
        if batch.frames:
            images = [frame.image for frame in batch.frames if frame.image is not None]
            batch.inputs = self._pipeline.preprocess(images)
        return batch

    def _frames(self, shard: ShardPlan) -> Iterator[tuple[int, SourceFrame, list[Any]]]:
        """Yield (stream's place, frame, remarks) of a shard, exactly as many as it is to have."""
        for span in shard.spans:
            stream = self._corpus.streams[span.stream]
            numbers = range(span.start, span.stop, self._job.every)
            previous: SourceFrame | None = None
            for frame in _whole(stream, numbers):
                name = self._name(span.stream, frame)
                remarks = [(remark, name) for remark in frame.remarks]
                if previous is not None and _goes_back(previous, frame):
                    remarks.append(("timestamp that goes back", name))
                previous = frame if frame.timestamp is not None else previous
                yield span.stream, frame, remarks

    def _name(self, place: int, frame: SourceFrame) -> str:
        """Where a frame is, for reports."""
        stream = self._corpus.streams[place]
        parts = [stream.source]
        parts += [stream.episode] if stream.episode else []
        parts += [f"camera {stream.camera}"] if stream.camera else []
        key = f" ({frame.key})" if frame.key and frame.key != str(frame.index) else ""
        return f"{', '.join(parts)}, frame {frame.index}{key}"

    def _write(self, batch: _Batch, writer: ShardWriter) -> int:
        """Encode a batch into the shard; return how many frames are left out."""
        for remark, name in batch.remarks:
            writer.report.note(remark, name)
        for reason, name, detail in batch.problems:
            writer.report.skip(reason, name, detail)
        left_out = len(batch.problems)
        if not batch.frames:
            return left_out
        outputs = self._job.outputs
        tasks = [
            Task(Frame(frame.image), self.query(frame.text) if "objects" in outputs else None)
            for frame in batch.frames
            if frame.image is not None
        ]
        results = self._pipeline.process_batch(
            tasks,
            with_tokens="tokens" in outputs,
            with_pooled="pooled" in outputs,
            with_fingerprints=False,
            inputs=batch.inputs,
        )
        rows: list[Row] = []
        tokens: list[FloatArray] = []
        for place, frame, result in zip(batch.places, batch.frames, results, strict=True):
            problem = _not_finite(result, self._job)
            if problem or isinstance(result, FloatingPointError):
                writer.report.skip("features not finite", self._name(place, frame), problem)
                left_out += 1
                continue
            rows.append(self._row(place, frame, result))
            if result.tokens is not None:
                tokens.append(result.tokens.data.astype(np.float32, copy=False))
        if rows:
            writer.add(rows, np.stack(tokens) if tokens else None)
        return left_out

    def _row(self, place: int, frame: SourceFrame, result: Any) -> Row:
        stream = self._corpus.streams[place]
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        return Row(
            self._corpus.episodes[place],
            stream.episode,
            frame.index,
            frame.timestamp,
            frame.stamp_ns,
            stream.camera,
            frame.key,
            stream.source,
            frame.text,
            width,
            height,
            result.pooled,
            result.grounding,
        )

    def _new_query(self, text: str) -> Query | None:
        """Choose what to look for in a frame: the job's phrases, or what its own text names."""
        if self._job.phrases:
            request = language.from_phrases(list(self._job.phrases))
        elif text:
            request = language.parse(text)
        else:
            return None
        return self._pipeline.query(request) if request.phrases else None


def _whole(stream: Stream, numbers: range) -> Iterator[SourceFrame]:
    """Yield a stream's frame of each number; one that its source does not give has a problem."""
    frames = stream.frames(numbers[0], numbers[-1] + 1, numbers.step)
    position = 0
    problem = "frame missing", "the source ends before it"
    try:
        for frame in frames:
            yield frame
            position += 1
    except (DatasetError, OSError) as error:
        problem = "source unreadable", str(error)
    for number in numbers[position:]:
        yield SourceFrame(number, problem=problem)


def _goes_back(previous: SourceFrame, frame: SourceFrame) -> bool:
    pairs = ((previous.timestamp, frame.timestamp), (previous.stamp_ns, frame.stamp_ns))
    return any(a is not None and b is not None and b < a for a, b in pairs)


def _not_finite(result: Any, job: Job) -> str:
    """Why a result cannot be stored; "" where it can."""
    if isinstance(result, FloatingPointError):
        return str(result)
    if result.tokens is not None and job.dtype == "fp16":
        most = float(np.abs(result.tokens.data).max())
        if most > np.finfo(np.float16).max:
            return f"a value of {most:.3g} is beyond fp16: store bf16"
    return ""


def _ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Run an iterator in a thread of its own, at most _AHEAD items ahead; pass its errors on."""
    ready: queue.Queue[_Batch | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: _Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            put(error)

    thread = threading.Thread(target=produce, name="decode", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
