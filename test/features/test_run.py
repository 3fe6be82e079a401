"""Runs over a corpus: what is written, what is left out, and how a run goes on after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception import features
from siglip_perception.commands.main import main
from siglip_perception.config import ModelSelection
from siglip_perception.errors import DatasetError
from siglip_perception.features.plan import plan_shards
from siglip_perception.features.request import Request
from siglip_perception.features.run import Finished, Run, look, size_text, time_text
from siglip_perception.features.shards import quantize
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame, Task

FRAMES = 7


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return corpora.write_folder(
        tmp_path / "pictures", corpora.images(FRAMES), ["red cup"] * FRAMES
    )


def request(source: Path, folder: Path, **options: Any) -> Request:
    settings: dict[str, Any] = {
        "selection": ModelSelection("random", "tabletop"),
        "outputs": ("tokens", "pooled"),
        "dtype": "bf16",
        "batch": 2,
        "shard_frames": 3,
        **options,
    }
    return Request((str(source),), folder, **settings)


def prepare(wish: Request, pipeline: Pipeline) -> Run:
    return Run(wish, *look(wish), pipeline)


def encode(wish: Request, pipeline: Pipeline) -> tuple[Finished, list[tuple[int, int, int]]]:
    """Run to the end; also what progress was told."""
    steps: list[tuple[int, int, int]] = []
    finished = prepare(wish, pipeline).encode(lambda *step: steps.append(step))
    return finished, steps


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every shard's files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*"))
    }


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 7), st.integers(1, 12))
def test_shards_have_every_frame_once_in_order(
    counts: list[int], every: int, shard_frames: int
) -> None:
    shards = list(plan_shards(counts, every, shard_frames))
    frames = [
        (span.stream, number)
        for shard in shards
        for span in shard.spans
        for number in range(span.start, span.stop, every)
    ]
    assert frames == [(s, n) for s, count in enumerate(counts) for n in range(0, count, every)]
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert all(shard.frames == shard_frames for shard in shards[:-1])
    assert sum(shard.frames for shard in shards) == len(frames)


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "int8"])
def test_rows_hold_the_pipelines_own_tokens_and_vectors(
    tmp_path: Path, pictures: Path, pipeline: Pipeline, dtype: str
) -> None:
    encode(request(pictures, tmp_path / "out", dtype=dtype), pipeline)
    folder = features.open(tmp_path / "out")
    tasks = [Task(Frame(frame.image)) for frame in look_frames(pictures)[2:3]]
    result = pipeline.process_batch(tasks, with_pooled=True)[0]
    assert not isinstance(result, FloatingPointError)
    assert result.tokens is not None
    exact = torch.from_numpy(result.tokens.data)
    row = folder[0, 2]
    assert row.tokens is not None
    assert row.pooled is not None
    error = (row.tokens.float() - exact).abs()
    bound = {
        "bf16": exact.abs() * 2**-8,
        "fp16": exact.abs() * 2**-10,
        "int8": exact.abs().amax(dim=-1, keepdim=True) / 254,
    }[dtype]
    # Rounding, and what another batch changes in the last bits of float32.
    assert (error <= bound + 1e-3).all()
    assert torch.allclose(row.pooled, torch.from_numpy(result.pooled), atol=1e-4)
    assert row.pooled.norm() == pytest.approx(1)
    stored = report(tmp_path / "out")["stored_as"]
    assert stored["dtype"] == dtype
    assert 0 < stored["error"]["relative_rms"] < 0.02
    assert 0.999 < stored["error"]["min_cosine"] <= 1
    # One frame of each batch: 2 + 1, 2 + 1, 1.
    assert stored["error"]["frames"] == 5


def look_frames(source: Path) -> list[Any]:
    corpus, _ = look(request(source, Path("/nowhere/out")))
    return list(corpus.streams[0].frames(0, FRAMES, 1))


def test_int8_is_off_by_half_a_step_at_most() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4, 16)).astype(np.float32)
    values[2, 1] = 0
    quantized, scales = quantize(values)
    assert quantized.dtype == np.int8
    assert np.isfinite(scales).all()
    assert (np.abs(values - quantized * scales[..., None]) <= scales[..., None] * 0.5001).all()
    assert np.abs(quantized).max() == 127


def test_a_folder_says_what_it_is_to_whoever_opens_its_files(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    finished, steps = encode(request(pictures, tmp_path / "out"), pipeline)
    assert (finished.planned, finished.written, finished.left_out) == (FRAMES, FRAMES, 0)
    assert steps[-1] == (FRAMES, FRAMES, 0)
    table = pq.read_table(tmp_path / "out" / "rows")
    assert table["frame_index"].to_pylist() == list(range(FRAMES))
    assert table["key"][3].as_py() == "frame_000003.jpg"
    assert table["text"][0].as_py() == "red cup"
    assert table["width"][0].as_py() == 48
    assert str(table.schema.field("pooled").type) == "fixed_size_list<element: float>[192]"
    facts = json.loads(table.schema.metadata[b"siglip_perception"])
    assert facts["contract"] == "tabletop"
    assert facts["fingerprint"] == pipeline.fingerprint
    assert facts["pixels"]["resize"] == "squash"
    assert {"torch", "pyarrow", "siglip_perception"} <= set(facts["versions"])
    from safetensors.torch import load_file

    tokens = load_file(tmp_path / "out" / table["tokens_shard"][4].as_py())["tokens"]
    row = features.open(tmp_path / "out")[4].tokens
    assert row is not None
    assert torch.equal(tokens[table["tokens_row"][4].as_py()], row)


def test_objects_are_looked_for_by_phrases_or_by_the_frames_own_text(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    for name, phrases in (("by_text", ()), ("by_phrases", ("plate", "접시"))):
        wish = request(pictures, tmp_path / name, outputs=("objects",), phrases=phrases)
        encode(wish, pipeline)
        table = pq.read_table(tmp_path / name / "rows")
        found = {item["phrase"] for row in table["objects"].to_pylist() for item in row}
        assert found <= set(phrases or ("red cup",))
        assert found, "a threshold of 0 lets every region through"
    assert not list((tmp_path / "by_text" / "tokens").iterdir())


def test_a_run_that_died_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    whole, partial = tmp_path / "whole", tmp_path / "partial"
    encode(request(pictures, whole), pipeline)
    encode(request(pictures, partial), pipeline)
    # As kills leave it: a shard whose rows were not yet there, one cut off, files begun.
    (partial / "rows" / "part-000001.parquet").unlink()
    cut = partial / "tokens" / "part-000002.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    (partial / "tokens" / ".part-000001.1-ab.safetensors").write_bytes(b"begun")
    (partial / "report.json").unlink()
    finished, steps = encode(request(pictures, partial), pipeline)
    assert digests(partial) == digests(whole)
    assert steps[0][0] == 3 + 2
    assert finished.encoded == 4
    assert report(partial)["finished"] is True
    assert encode(request(pictures, partial), pipeline)[0].encoded == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": "int8"}, "was begun with dtype bf16, and this is int8"),
        ({"outputs": ("tokens",)}, "was begun with outputs"),
        ({"every": 2}, "was begun with every 1, and this is 2"),
        ({"batch": 4}, "was begun with batch 2"),
    ],
)
def test_another_job_into_the_same_folder_is_refused(
    tmp_path: Path, pictures: Path, pipeline: Pipeline, change: dict[str, Any], sentence: str
) -> None:
    wish = request(pictures, tmp_path / "out")
    encode(wish, pipeline)
    before = digests(tmp_path / "out")
    with pytest.raises(DatasetError, match=sentence):
        prepare(replace(wish, **change), pipeline)
    assert digests(tmp_path / "out") == before


def test_other_weights_and_changed_sources_are_refused(
    tmp_path: Path, pictures: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = request(pictures, tmp_path / "out")
    encode(wish, pipeline)
    monkeypatch.setattr(pipeline, "fingerprint", "f" * 64)
    with pytest.raises(DatasetError, match=r"was begun with fingerprint .{12}, and this is f{12}"):
        prepare(wish, pipeline)
    monkeypatch.undo()
    (pictures / "frame_000000.jpg").write_bytes(corpora.jpeg(corpora.image(9)))
    with pytest.raises(DatasetError, match=r"other frames than .*pictures has now"):
        prepare(wish, pipeline)


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    (pictures / "frame_000004.jpg").write_bytes(b"\xff\xd8\xff no picture")
    finished, steps = encode(request(pictures, tmp_path / "out"), pipeline)
    assert (finished.written, finished.left_out) == (FRAMES - 1, 1)
    assert steps[-1] == (FRAMES, FRAMES, 1)
    content = report(tmp_path / "out")
    assert content["frames"] == {"planned": FRAMES, "written": FRAMES - 1, "left_out": 1}
    ((reason, entry),) = content["left_out"].items()
    assert reason == "image corrupt"
    (item,) = entry["items"]
    assert item["name"] == f"{pictures}, frame 4 (frame_000004.jpg)"
    assert item["detail"]
    folder = features.open(tmp_path / "out")
    assert [key[1] for key in folder.keys()] == [0, 1, 2, 3, 5, 6]  # noqa: SIM118 - no dict
    with pytest.raises(DatasetError, match=r"no frame 4 of episode 0: report.json"):
        folder[0, 4]


def test_features_that_are_not_finite_are_left_out(
    tmp_path: Path, pictures: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = pipeline.process_batch

    def broken(tasks: list[Task], **options: Any) -> list[Any]:
        results: list[Any] = process(tasks, **options)
        gray = [int(task.frame.image.mean()) for task in tasks]
        return [
            FloatingPointError("NaN") if value == 30 else result
            for value, result in zip(gray, results, strict=True)
        ]

    monkeypatch.setattr(pipeline, "process_batch", broken)
    encode(request(pictures, tmp_path / "out"), pipeline)
    assert report(tmp_path / "out")["left_out"]["features not finite"]["count"] == 1


def test_a_run_does_nothing_that_no_row_holds(
    tmp_path: Path, pictures: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fingerprints of pixels, and values in memory that is written anyway."""
    memory: Any = torch.utils.deterministic
    seen: list[tuple[bool, bool]] = []
    process = pipeline.process_batch

    def watched(tasks: list[Task], **options: Any) -> list[Any]:
        filled = memory.fill_uninitialized_memory
        seen.append((torch.are_deterministic_algorithms_enabled(), filled))
        results: list[Any] = process(tasks, **options)
        assert all(result.tokens.pixel_fingerprint == () for result in results)
        return results

    monkeypatch.setattr(pipeline, "process_batch", watched)
    before = memory.fill_uninitialized_memory
    encode(request(pictures, tmp_path / "out"), pipeline)
    assert set(seen) == {(True, False)}
    assert memory.fill_uninitialized_memory == before


def test_two_cameras_of_different_sizes_share_their_batches(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    corpora.write_folder(tmp_path / "all" / "a", corpora.images(1, (48, 32)))
    corpora.write_folder(tmp_path / "all" / "b", corpora.images(1, (20, 60)))
    encode(request(tmp_path / "all", tmp_path / "out"), pipeline)
    rows = list(features.open(tmp_path / "out"))
    assert [(row.width, row.height) for row in rows] == [(48, 32), (20, 60)]


def test_times_that_go_back_are_remarked(tmp_path: Path, pipeline: Pipeline) -> None:
    import pyarrow as pa

    folder = corpora.write_lerobot(tmp_path / "data", [corpora.images(4)], "v2.1")
    path = next(folder.rglob("*.parquet"))
    table = pq.read_table(path)
    times = pa.array([0.0, 0.1, 0.0, 0.3], pa.float32())
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", times), path)
    encode(request(folder, tmp_path / "out"), pipeline)
    assert report(tmp_path / "out")["remarks"]["timestamp that goes back"]["count"] == 1


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_in_mid_shard_loses_nothing(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    wish = request(pictures, tmp_path / "out")
    encode(wish, pipeline)
    before = digests(tmp_path / "out")
    (tmp_path / "out" / "rows" / "part-000001.parquet").unlink()
    with (
        file_size_limit(300_000),
        pytest.raises(DatasetError, match=r"Cannot write to .*make room.*run it again to go on"),
    ):
        encode(wish, pipeline)
    assert not [p for p in (tmp_path / "out").glob("*/*") if p.name.startswith(".")]
    assert report(tmp_path / "out")["finished"] is False
    encode(wish, pipeline)
    assert digests(tmp_path / "out") == before


def test_a_disk_too_small_is_refused_before_the_work(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    run = prepare(request(pictures, tmp_path / "out"), pipeline)
    estimate = run.estimate()
    assert estimate.frames == FRAMES
    assert estimate.seconds > 0
    encode(run.request, pipeline)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*/*"))
    assert estimate.bytes == pytest.approx(written, rel=0.1)
    with pytest.raises(DatasetError, match=r"needs 1\.8 MB, and its disk has 1\.0 MB"):
        run.check_disk(replace(estimate, free=10**6))


def test_two_runs_into_one_folder_are_kept_apart(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    wish = request(pictures, tmp_path / "out")
    run = prepare(wish, pipeline)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="Another run is writing to"):
            run.encode(lambda *step: None)
    run.encode(lambda *step: None)


def test_a_folder_that_cannot_be_made_or_holds_other_files_is_refused(
    tmp_path: Path, pictures: Path, pipeline: Pipeline
) -> None:
    run = prepare(request(pictures, Path("/proc/features")), pipeline)
    with pytest.raises(DatasetError, match=r"Cannot write to /proc/features"):
        run.encode(lambda *step: None)
    with pytest.raises(DatasetError, match=r"holds other files, such as frame_000000.jpg"):
        look(request(pictures, pictures))


def test_sizes_and_times_are_spelled_for_people() -> None:
    assert [size_text(n) for n in (12, 2500, 12e12)] == ["12 bytes", "2.5 kB", "12.0 TB"]
    assert [time_text(n) for n in (5, 420, 9000, 300_000)] == ["5 s", "7 min", "2.5 h", "3 days"]


def command(source: Path, folder: Path, model: Path, *more: str) -> list[str]:
    arguments = ["features", str(source), "-o", str(folder), "--model", str(model)]
    settings = ["--contract", "tabletop", "--precision", "fp32", "--backend", "torch"]
    return [*arguments, *settings, "--batch", "2", "--shard-frames", "2", *more]


def test_the_command_tells_what_it_takes_and_its_exit_code_what_was_left_out(
    tmp_path: Path, pictures: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "frame_000001.jpg").write_bytes(b"no picture at all")
    arguments = command(pictures, tmp_path / "out", model, "--every", "3")
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    out = capsys.readouterr().out
    assert "7 frames in 1 episode, 1 camera (pictures)" in out
    assert "324 tokens of 384 channels in bf16, 248.8 kB a frame" in out
    assert "to do: 3 frames in 2 shards" in out
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "3 of 3 frames" in captured.out
    assert "frames/s" in captured.err
    assert main(command(pictures, tmp_path / "all", model, "--outputs", "pooled")) == 1
    assert "report.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--outputs", "token"), "did you mean tokens?"),
        (("--episodes", "4-2"), "has to be numbers such as 0,3,7-9"),
        (("--every", "0"), "has to be a whole number of 1 or more"),
        (("--phrases", "cup"), "--phrases has an effect only with --outputs objects"),
        (("-o", "s3://bucket/out"), "is not on a disk: name a local or mounted folder"),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence(
    tmp_path: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    sentence: str,
) -> None:
    try:
        code: object = main(["features", str(pictures), "-o", str(tmp_path / "out"), *more])
    except SystemExit as end:
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(
    tmp_path: Path, model: Path
) -> None:
    """Each kill waits for one more shard, then strikes somewhere in the next."""
    source = corpora.write_bag(tmp_path / "bag", corpora.images(20))
    script = Path(__file__).with_name("killing.py")
    folders = [str(tmp_path / name) for name in ("whole", "killed")]
    done = subprocess.run(
        [sys.executable, str(script), str(source), str(model), *folders, "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shards = [int(line) for line in done.stdout.split()]
    assert len(shards) == 4
    assert shards[-1] < 10, "the last kill came too late to matter"
    assert len(digests(tmp_path / "whole")) == 20
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
