"""The whole run: look, tell what it takes, encode what is not there yet, report."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siglip_perception import __version__
from siglip_perception.bags.replay import deterministic
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import BackendError, DatasetError
from siglip_perception.features.encode import Encoder
from siglip_perception.features.job import LOCK, MANIFEST, REPORT, Job, check_same, read_job
from siglip_perception.features.plan import RowSize, ShardPlan, plan_shards, source_digests
from siglip_perception.features.request import Request
from siglip_perception.features.shards import ErrorSums, ShardFacts, prepare_folder, shard_facts
from siglip_perception.features.sources.open import Corpus, open_corpus
from siglip_perception.types import Frame, Task
from siglip_perception.util.files import write_atomically

if TYPE_CHECKING:
    from siglip_perception.pipeline import Pipeline

# Frames that run together unless the user says otherwise: more gain nothing, as measured.
BATCHES = {"cpu": 8, "cuda": 32}
_VERSIONS = ("torch", "transformers", "numpy", "pillow", "pyarrow", "av", "safetensors")
# Beside the files themselves: the file system's own blocks, and the report.
_ROOM = 1.02


@dataclass(frozen=True)
class Estimate:
    """Cost of a run. frames, bytes, seconds: of what is left to do; seconds 0: unknown."""

    frames: int
    bytes: int
    free: int
    seconds: float


@dataclass(frozen=True)
class Finished:
    """State at the end of a run. written, left_out: frames, over all runs. seconds: of this one.

    report: what was left out and noted, of the sources and of every shard.
    """

    planned: int
    written: int
    left_out: int
    bytes: int
    seconds: float
    encoded: int
    report: SkipReport


class Run:
    """One run over a corpus into a folder; use it as a context, which locks the folder.

    done: shards that are there from runs before. todo: those that are not.
    """

    def __init__(
        self, request: Request, corpus: Corpus, report: SkipReport, pipeline: Pipeline
    ) -> None:
        self.request, self.corpus, self.pipeline = request, corpus, pipeline
        self._source_report = report
        _check_outputs(request, pipeline)
        self.row_size = _row_size(request, pipeline)
        shard_frames = request.shard_frames or self.row_size.shard_frames
        counts = [stream.count for stream in corpus.streams]
        self.shards = list(plan_shards(counts, request.every, shard_frames))
        self.frames = sum(shard.frames for shard in self.shards)
        self.job = _job(request, corpus, pipeline, self.row_size, shard_frames, self.shards)
        self.done: dict[int, ShardFacts] = {}
        self.todo = self.shards
        folder = request.folder
        if (folder / MANIFEST).is_file():
            old = read_job(folder)
            check_same(folder, old, self.job)
            # Shards tell the command that began the run, so that all are the same.
            self.job = replace(self.job, command=old.command, versions=old.versions)
            for shard in self.shards:
                facts = shard_facts(folder, shard.number, self.job)
                if facts is not None:
                    self.done[shard.number] = facts
            self.todo = [shard for shard in self.shards if shard.number not in self.done]

    def estimate(self, measure: bool = True) -> Estimate:
        """Tell what is left to do; measures the speed on one batch of the frames."""
        frames = sum(shard.frames for shard in self.todo)
        size = frames * self.row_size.bytes
        place = next(path for path in _parents(self.request.folder) if path.is_dir())
        free = shutil.disk_usage(place).free
        seconds = frames * self._seconds_a_frame() if measure and frames else 0.0
        return Estimate(frames, size, free, seconds)

    def check_disk(self, estimate: Estimate) -> None:
        """Raise DatasetError where the disk has no room for what is left."""
        needed = round(estimate.bytes * _ROOM)
        if needed > estimate.free:
            raise DatasetError(
                f"{self.request.folder} needs {size_text(needed)}, and its disk has"
                f" {size_text(estimate.free)}: name another disk, take fewer frames with --every,"
                " --cameras or --episodes, or store less with --dtype int8 or --outputs pooled."
            )

    def encode(self, progress: Callable[[int, int, int], None], ray: str = "") -> Finished:
        """Encode all shards that are not there yet; write report.json, also after an error.

        progress: called with the frames that are there, all of them, and those left out.
        ray: address of a Ray cluster, or "local"; "": in this process.
        """
        folder, total = self.request.folder, self.frames
        count = sum(facts.planned for facts in self.done.values())
        left_out = count - sum(facts.rows for facts in self.done.values())
        start, before = time.perf_counter(), count

        def step(frames: int, lost: int) -> None:
            nonlocal count, left_out
            count, left_out = count + frames, left_out + lost
            progress(count, total, left_out)

        with self._locked():
            try:
                if ray:
                    from siglip_perception.features.ray_run import encode_on_ray

                    encode_on_ray(self.request, self.corpus, self.job, self.todo, step, ray)
                else:
                    with deterministic():
                        encoder = Encoder(self.pipeline, self.corpus, self.job, folder)
                        encoder.run(self.todo, step)
            finally:
                with contextlib.suppress(OSError):
                    self._write_report(self._finished(0.0, 0))
            finished = self._finished(time.perf_counter() - start, count - before)
            try:
                # Workers that were killed have left what they had begun.
                prepare_folder(folder)
                self._write_report(finished)
            except OSError as error:
                raise _unwritable(folder, error) from error
        return finished

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder ready and keep other runs out of it; a kill ends the lock, too."""
        folder = self.request.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DatasetError(
                    f"Another run is writing to {folder}: wait for its end, or name another"
                    " folder."
                ) from error
            try:
                prepare_folder(folder)
                if not (folder / MANIFEST).is_file():
                    self.job.write(folder)
            except OSError as error:
                raise _unwritable(folder, error) from error
            # Another run may have gone on between our look and the lock.
            for shard in list(self.todo):
                facts = shard_facts(folder, shard.number, self.job)
                if facts is not None:
                    self.done[shard.number] = facts
            self.todo = [shard for shard in self.todo if shard.number not in self.done]
            yield
        finally:
            os.close(handle)

    def _seconds_a_frame(self) -> float:
        """Decode and encode one batch twice, and time the second pass."""
        frames = []
        stream = self.corpus.streams[self.shards[0].spans[0].stream]
        start = time.perf_counter()
        for frame in stream.frames(0, min(stream.count, self.job.batch), 1):
            if frame.image is not None:
                frames.append(frame)
        decoding = time.perf_counter() - start
        if not frames:
            return 0.0
        outputs = self.job.outputs
        query = None
        if "objects" in outputs:
            encoder = Encoder(self.pipeline, self.corpus, self.job, self.request.folder)
            query = encoder.query(frames[0].text)
        tasks = [Task(Frame(frame.image), query) for frame in frames if frame.image is not None]
        seconds = 0.0
        with deterministic():
            for _ in range(2):
                start = time.perf_counter()
                self.pipeline.process_batch(
                    tasks, with_tokens="tokens" in outputs, with_pooled="pooled" in outputs
                )
                seconds = time.perf_counter() - start
        # On a GPU decoding runs beside it; on a CPU it takes from the same cores.
        on_gpu = "cuda" in self.pipeline.backend
        total = max(seconds, decoding) if on_gpu else seconds + decoding
        return total / len(frames)

    def _finished(self, seconds: float, encoded: int) -> Finished:
        report = SkipReport()
        report.merge(self._source_report)
        planned = written = size = 0
        for shard in self.shards:
            facts = shard_facts(self.request.folder, shard.number, self.job)
            if facts is None:
                continue
            self.done[shard.number] = facts
            planned, written = planned + facts.planned, written + facts.rows
            size += facts.bytes
            report.merge(facts.report)
        return Finished(self.frames, written, planned - written, size, seconds, encoded, report)

    def _write_report(self, finished: Finished) -> None:
        errors = ErrorSums()
        for facts in self.done.values():
            errors.add(facts.error)
        storage = errors.result()
        content = {
            "finished": len(self.done) == len(self.shards),
            "contract": self.job.contract,
            "fingerprint": self.job.fingerprint,
            "frames": {
                "planned": finished.planned,
                "written": finished.written,
                "left_out": finished.left_out,
            },
            "shards": {"planned": len(self.shards), "written": len(self.done)},
            "bytes": finished.bytes,
            "stored_as": {"dtype": self.job.dtype, "error": storage and asdict(storage)},
            "this_run": {
                "frames": finished.encoded,
                "seconds": round(finished.seconds, 3),
                "frames_per_second": round(finished.encoded / finished.seconds, 2)
                if finished.seconds
                else None,
            },
            "left_out": finished.report.as_json()["skipped"],
            "remarks": finished.report.as_json()["noted"],
        }
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        write_atomically(self.request.folder / REPORT, text.encode())


def look(request: Request) -> tuple[Corpus, SkipReport]:
    """Open the sources, which needs no model; refuse a folder that is not for features.

    Raises DatasetError or BagError.
    """
    folder = request.folder
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        strangers = [path.name for path in sorted(folder.iterdir()) if path.name != LOCK]
        if strangers:
            raise DatasetError(
                f"{folder} holds other files, such as {strangers[0]}: name a new folder."
            )
    report = SkipReport()
    corpus = open_corpus(request.sources, report, request.cameras, request.episodes)
    if not sum(stream.count for stream in corpus.streams):
        names = ", ".join(request.sources)
        raise DatasetError(f"There is no frame in {names}: {report.first() or 'it is empty'}.")
    return corpus, report


def describe(corpus: Corpus) -> str:
    """Say in one line what a corpus holds."""
    kinds = ", ".join(dict.fromkeys(stream.kind for stream in corpus.streams))
    episodes = len(set(corpus.episodes))
    cameras = len(dict.fromkeys(stream.camera for stream in corpus.streams))
    frames = sum(stream.count for stream in corpus.streams)
    return (
        f"{frames} frames in {episodes} episode{'s' * (episodes != 1)},"
        f" {cameras} camera{'s' * (cameras != 1)} ({kinds})"
    )


def size_text(size: float) -> str:
    """Spell bytes: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


def time_text(seconds: float) -> str:
    """Spell a duration: 42 s, 7 min, 3.5 h, 12 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _check_outputs(request: Request, pipeline: Pipeline) -> None:
    if not pipeline.can_ground and {"pooled", "objects"} & set(request.outputs):
        raise BackendError(
            f"{pipeline.grounding_status.rstrip('.')}; or take --outputs tokens alone."
        )
    contract = pipeline.contract
    if (contract.crops or contract.has_free_grid) and "tokens" in request.outputs:
        raise BackendError(
            f"The contract {contract.name} gives as many tokens as an image's size asks for, and"
            " all rows of features have the same number: name another contract."
        )


def _row_size(request: Request, pipeline: Pipeline) -> RowSize:
    contract = pipeline.contract
    with_tokens = "tokens" in request.outputs
    return RowSize(
        contract.rows * contract.cols if with_tokens else 0,
        contract.dim,
        request.dtype,
        pipeline.pooled_dim if "pooled" in request.outputs else 0,
        "objects" in request.outputs,
    )


def _job(
    request: Request,
    corpus: Corpus,
    pipeline: Pipeline,
    size: RowSize,
    shard_frames: int,
    shards: Sequence[ShardPlan],
) -> Job:
    device = "cuda" if "cuda" in pipeline.backend else "cpu"
    contract = pipeline.contract
    pixels: dict[str, Any] = json.loads(json.dumps(contract.preprocessing()))
    return Job(
        request.selection.model,
        request.selection.grounding_model,
        contract.name,
        pipeline.fingerprint,
        pipeline.siglip_digest,
        pixels,
        # What follows in brackets says why it was chosen.
        pipeline.backend.partition(" (")[0],
        request.outputs,
        request.dtype,
        (contract.rows, contract.cols),
        contract.dim,
        size.pooled,
        request.phrases,
        pipeline.common_threshold,
        request.every,
        request.batch or BATCHES[device],
        shard_frames,
        request.cameras,
        tuple(sorted(request.episodes or ())),
        source_digests(corpus),
        sum(shard.frames for shard in shards),
        len(shards),
        _versions(),
        request.command,
    )


def _versions() -> dict[str, str]:
    versions = {"siglip_perception": __version__, "python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _parents(path: Path) -> Iterator[Path]:
    path = path.absolute()
    yield path
    yield from path.parents


def _unwritable(folder: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"Cannot write to {folder} ({error.strerror or error}): name a folder that can be written."
    )
