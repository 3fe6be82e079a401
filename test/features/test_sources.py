"""Sources of frames: each kind gives the frames that are in it, and names what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import corpora
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import BagError, DatasetError
from siglip_perception.features.sources.frames import SourceFrame, Stream
from siglip_perception.features.sources.open import open_corpus

COUNT = 7
PICTURES = corpora.images(COUNT)
CAPTIONS = [f"caption {number}" for number in range(COUNT)]
Write = Callable[[Path], Path]


def number_of(frame: SourceFrame) -> int | None:
    """The number that a picture of corpora.image() tells by its gray."""
    return None if frame.image is None else round((float(frame.image.mean()) - 20) / 10)


def streams(*names: object, report: SkipReport | None = None) -> tuple[Stream, ...]:
    return open_corpus([str(name) for name in names], report or SkipReport()).streams


KINDS: dict[str, Write] = {
    "pictures": lambda tmp: corpora.write_folder(tmp / "pictures", PICTURES, CAPTIONS),
    "shard": lambda tmp: corpora.write_tar(tmp / "a.tar", PICTURES, CAPTIONS),
    "mcap": lambda tmp: corpora.write_bag(tmp / "bag", PICTURES),
    "sqlite3": lambda tmp: corpora.write_bag(tmp / "bag", PICTURES, "sqlite3"),
    "video": lambda tmp: corpora.write_video(tmp / "video.mp4", PICTURES),
    "lerobot v2.1": lambda tmp: corpora.write_lerobot(tmp / "data", [PICTURES], "v2.1"),
    "lerobot v3.0": lambda tmp: corpora.write_lerobot(tmp / "data", [PICTURES]),
    "lerobot pictures": lambda tmp: corpora.write_lerobot(
        tmp / "data", [PICTURES], as_video=False
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_its_frames_from_any_place_on(tmp_path: Path, kind: str) -> None:
    (stream,) = streams(KINDS[kind](tmp_path))
    assert stream.count == COUNT
    assert [number_of(frame) for frame in stream.frames(0, COUNT, 1)] == list(range(COUNT))
    frames = list(stream.frames(2, 6, 3))
    assert [frame.index for frame in frames] == [number_of(frame) for frame in frames] == [2, 5]


def test_a_lerobot_dataset_keeps_its_episodes_cameras_times_and_tasks(tmp_path: Path) -> None:
    """In v3.0 the second episode begins in the middle of the video."""
    for version in ("v2.1", "v3.0"):
        folder = corpora.write_lerobot(
            tmp_path / version,
            [PICTURES[:3], PICTURES[3:]],
            version,
            cameras=("front", "wrist"),
            tasks=("push", "빨간 컵을 집어라"),
        )
        opened = streams(folder)
        assert [(s.number, s.camera, s.count) for s in opened] == [
            (0, "front", 3),
            (0, "wrist", 3),
            (1, "front", 4),
            (1, "wrist", 4),
        ]
        frames = list(opened[3].frames(0, 4, 1))
        assert [number_of(frame) for frame in frames] == [3, 4, 5, 6]
        assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
        assert {frame.text for frame in frames} == {"빨간 컵을 집어라"}


def test_a_bags_frames_have_the_instruction_of_their_time(tmp_path: Path) -> None:
    bag = corpora.write_bag(tmp_path / "bag", PICTURES, instructions=[(2, "push"), (5, "pull")])
    frames = list(streams(bag)[0].frames(0, COUNT, 1))
    assert [frame.text for frame in frames] == ["", "", "push", "push", "push", "pull", "pull"]
    assert frames[3].timestamp == pytest.approx(0.3)
    assert frames[3].stamp_ns == 1_300_000_000


def test_samples_of_several_pictures_are_several_cameras(tmp_path: Path) -> None:
    shard = corpora.write_tar(tmp_path / "a.tar", PICTURES, CAPTIONS, cameras=("front", "wrist"))
    opened = streams(shard)
    assert [stream.camera for stream in opened] == ["front", "wrist"]
    frame = next(iter(opened[1].frames(4, 5, 1)))
    assert (number_of(frame), frame.key, frame.text) == (4, "000004", "caption 4")


def test_a_variable_frame_rate_is_noted_and_its_times_are_kept(tmp_path: Path) -> None:
    video = corpora.write_video(tmp_path / "v.mkv", PICTURES, lambda n: Fraction(n * n, 10))
    report = SkipReport()
    frames = list(streams(video, report=report)[0].frames(0, COUNT, 1))
    assert [number_of(frame) for frame in frames] == list(range(COUNT))
    assert [frame.timestamp for frame in frames] == pytest.approx(
        [n * n / 10 for n in range(COUNT)]
    )
    assert report.note_counts == {"video of variable frame rate": 1}


def test_a_damaged_part_of_a_video_costs_its_own_frames_only(tmp_path: Path) -> None:
    pictures = corpora.images(20)
    video = corpora.write_video(tmp_path / "v.mkv", pictures, codec="mjpeg")
    data = bytearray(video.read_bytes())
    frames = list(streams(video)[0].frames(0, 20, 1))
    assert all(frame.image is not None for frame in frames)
    start = data.index(b"\xff\xd8\xff", len(data) // 2)
    end = data.index(b"\xff\xd9", start)
    data[start:end] = bytes(end - start)
    video.write_bytes(data)
    frames = list(streams(video)[0].frames(0, 20, 1))
    lost = [frame for frame in frames if frame.image is None]
    assert 1 <= len(lost) <= 2
    assert all(frame.problem and frame.problem[0] == "video frame missing" for frame in lost)
    numbers = [frame.index for frame in frames if frame.image is not None]
    assert [number_of(frame) for frame in frames if frame.image is not None] == numbers


def test_a_video_shorter_than_its_rows_names_what_is_missing(tmp_path: Path) -> None:
    folder = corpora.write_lerobot(tmp_path / "data", [PICTURES], "v2.1")
    corpora.write_video(next(folder.rglob("*.mp4")), PICTURES[:5])
    frames = list(streams(folder)[0].frames(0, COUNT, 1))
    assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4, None, None]
    assert frames[5].problem is not None
    assert frames[5].problem[0] == "video frame missing"


def test_a_video_longer_than_its_rows_is_remarked(tmp_path: Path) -> None:
    folder = corpora.write_lerobot(tmp_path / "data", [PICTURES[:5]], "v2.1")
    corpora.write_video(next(folder.rglob("*.mp4")), PICTURES)
    frames = list(streams(folder)[0].frames(0, 5, 1))
    assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[-1].remarks == ("video with more frames than the parquet has rows",)


def test_timestamps_that_go_back_do_not_mix_frames_up(tmp_path: Path) -> None:
    folder = corpora.write_lerobot(tmp_path / "data", [PICTURES], "v2.1")
    path = next(folder.rglob("*.parquet"))
    table = pq.read_table(path)
    times = pa.array([0.0, 0.1, 0.2, 0.1, 0.4, 0.5, 0.6], pa.float32())
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", times), path)
    frames = list(streams(folder)[0].frames(0, COUNT, 1))
    assert [number_of(frame) for frame in frames] == list(range(COUNT))
    assert frames[3].timestamp == pytest.approx(0.1)


def test_an_episode_without_frames_is_noted(tmp_path: Path) -> None:
    folder = corpora.write_lerobot(tmp_path / "data", [PICTURES[:2], PICTURES[2:4]], "v2.1")
    path = folder / "meta" / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["length"] = 0
    path.write_text("\n".join(map(json.dumps, lines)))
    report = SkipReport()
    assert [stream.number for stream in streams(folder, report=report)] == [1]
    assert report.note_counts == {"episode without frames": 1}


def test_a_missing_parquet_or_video_is_a_problem_of_its_episode(tmp_path: Path) -> None:
    folder = corpora.write_lerobot(tmp_path / "data", [PICTURES[:2], PICTURES[2:4]], "v2.1")
    sorted(folder.rglob("*.mp4"))[0].unlink()
    sorted(folder.rglob("*.parquet"))[1].unlink()
    first, second = streams(folder)
    assert [f.problem and f.problem[0] for f in first.frames(0, 2, 1)] == ["video unreadable"] * 2
    assert [f.problem and f.problem[0] for f in second.frames(0, 2, 1)] == (
        ["parquet unreadable"] * 2
    )


def test_a_bag_cut_off_gives_what_it_holds_and_names_the_rest(tmp_path: Path) -> None:
    bag = corpora.write_bag(tmp_path / "bag", corpora.images(20))
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    report = SkipReport()
    (stream,) = streams(bag, report=report)
    frames = list(stream.frames(0, stream.count, 1))
    assert len(frames) == stream.count == 20
    read = [frame for frame in frames if frame.image is not None]
    assert read == frames[: len(read)]
    assert [number_of(frame) for frame in read] == list(range(len(read)))
    assert {frame.problem and frame.problem[0] for frame in frames[len(read) :]} == {
        "bag breaks off"
    }
    assert report.note_counts["bag"] >= 1


def test_a_folder_may_hold_sources_of_every_kind(tmp_path: Path) -> None:
    corpora.write_folder(tmp_path / "all" / "b" / "pictures", PICTURES[:2])
    corpora.write_bag(tmp_path / "all" / "a_bag", PICTURES)
    corpora.write_lerobot(tmp_path / "all" / "c_data", [PICTURES[:1], PICTURES[:2]])
    corpora.write_video(tmp_path / "all" / "d" / "v.mp4", PICTURES[:3])
    corpora.write_tar(tmp_path / "all" / "shard.tar", PICTURES[:4])
    (tmp_path / "all" / "notes.md").write_text("not a source")
    opened = open_corpus([str(tmp_path / "all")], SkipReport())
    assert {stream.kind: stream.count for stream in opened.streams} == {
        "webdataset": 4,
        "bag": 7,
        "pictures": 2,
        "lerobot": 2,
        "video": 3,
    }
    assert len(set(opened.episodes)) == 6


def test_episodes_of_a_folder_are_named_by_their_place_in_it(tmp_path: Path) -> None:
    """A report names them, and a search reads their pictures again."""
    for robot in ("a", "b"):
        corpora.write_lerobot(tmp_path / "all" / robot / "data", [PICTURES[:1], PICTURES[:1]])
        corpora.write_bag(tmp_path / "all" / robot / "run", PICTURES[:1])
        corpora.write_video(tmp_path / "all" / robot / "v.mp4", PICTURES[:1])
        corpora.write_folder(tmp_path / "all" / robot / "v", PICTURES[:1])
    corpora.write_tar(tmp_path / "all" / "v.tar", PICTURES[:1])
    names = [
        stream.episode for stream in open_corpus([str(tmp_path / "all")], SkipReport()).streams
    ]
    assert sorted(names) == [
        *("a/data, episode 0", "a/data, episode 1", "a/run", "a/v", "a/v.mp4"),
        *("b/data, episode 0", "b/data, episode 1", "b/run", "b/v", "b/v.mp4", "v.tar"),
    ]


def test_a_list_and_several_sources_number_their_episodes_on(tmp_path: Path) -> None:
    corpora.write_folder(tmp_path / "one", PICTURES[:2])
    corpora.write_lerobot(tmp_path / "two", [PICTURES[:1], PICTURES[:2]])
    (tmp_path / "list.txt").write_text("# mine\none\n\ntwo\n")
    opened = open_corpus([str(tmp_path / "list.txt"), str(tmp_path / "one")], SkipReport())
    assert opened.episodes == (0, 1, 2, 3)


def test_cameras_and_episodes_are_chosen_by_name_and_number(tmp_path: Path) -> None:
    folder = corpora.write_lerobot(
        tmp_path / "data", [PICTURES[:1], PICTURES[:2]], cameras=("front", "wrist")
    )
    for name in ("wrist", "observation.images.wrist"):
        opened = open_corpus([str(folder)], SkipReport(), (name,), frozenset([1]))
        assert [(s.camera, s.count) for s in opened.streams] == [("wrist", 2)]


def _unknown_version(tmp: Path) -> Path:
    folder = corpora.write_lerobot(tmp / "data", [PICTURES[:1]])
    path = folder / "meta" / "info.json"
    path.write_text(path.read_text().replace('"v3.0"', '"v4.2"'))
    return folder


def _broken_info(tmp: Path) -> Path:
    folder = corpora.write_lerobot(tmp / "data", [PICTURES[:1]])
    (folder / "meta" / "info.json").write_text('{"codebase_version": ')
    return folder


def _no_episodes(tmp: Path) -> Path:
    folder = corpora.write_lerobot(tmp / "data", [PICTURES[:1]])
    shutil.rmtree(folder / "meta" / "episodes")
    return folder


def _text(tmp: Path, name: str, content: str) -> Path:
    path = tmp / name
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda tmp: "s3://bucket/data", r"s3:// is not read: copy it here \(aws s3 sync\)"),
        (lambda tmp: "hf://user/data", "hf:// is not read: copy it here, or mount"),
        (lambda tmp: tmp / "nowhere", "There is no .*nowhere: name a bag"),
        (lambda tmp: tmp / "*.tar", r"No file matches .*\*\.tar"),
        (lambda tmp: tmp, "There is no frame in"),
        (lambda tmp: _text(tmp, "a.csv", "x"), "is no source of frames: name a bag"),
        (lambda tmp: _text(tmp, "l.txt", "# none"), "names no source: write one a line"),
        (lambda tmp: _text(tmp, "l.txt", "gone"), "which .*l.txt lists: correct its line"),
        (lambda tmp: _text(tmp, "v.mp4", "no video"), "cannot be read as a video"),
        (_unknown_version, "version 'v4.2', and v2.0, v2.1 and v3.0 are read: convert it"),
        (_broken_info, "is no LeRobot metadata that can be read"),
        (_no_episodes, "has no parquet file: copy the dataset again"),
    ],
)
def test_what_is_no_source_is_refused_in_a_sentence(
    tmp_path: Path, make: Callable[[Path], object], sentence: str
) -> None:
    with pytest.raises((DatasetError, BagError), match=sentence) as caught:
        streams(make(tmp_path))
    assert str(caught.value).count("\n") == 0


def test_a_source_that_cannot_be_read_does_not_keep_the_others_out(tmp_path: Path) -> None:
    report = SkipReport()
    good = corpora.write_folder(tmp_path / "good", PICTURES[:2])
    opened = streams(_unknown_version(tmp_path), good, report=report)
    assert [stream.count for stream in opened] == [2]
    assert report.skip_counts == {"source unreadable": 1}


@pytest.mark.parametrize(
    ("cameras", "episodes", "sentence"),
    [
        (("top",), None, "No source has a camera 'top': they have front"),
        ((), frozenset([7]), "None of the episodes 7 is there: the sources have 0 to 0"),
    ],
)
def test_a_choice_of_nothing_names_what_there_is(
    tmp_path: Path, cameras: tuple[str, ...], episodes: frozenset[int] | None, sentence: str
) -> None:
    folder = corpora.write_lerobot(tmp_path / "data", [PICTURES[:1]])
    with pytest.raises(DatasetError, match=sentence):
        open_corpus([str(folder)], SkipReport(), cameras, episodes)
