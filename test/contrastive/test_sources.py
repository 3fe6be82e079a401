"""Every source of pairs, with usable and broken items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pair_files import open_pairs, pairs, picture, write_bag, write_shard
from rosbags.rosbag2 import StoragePlugin, Writer

from siglip_perception.bags.replay import typestore
from siglip_perception.contrastive.data.open import open_data
from siglip_perception.contrastive.data.samples import Order, PairDataset, Share, batches
from siglip_perception.contrastive.data.source_bag import BagOptions
from siglip_perception.contrastive.data.sources import (
    BrokenPairError,
    SourceError,
    read_captions,
)
from siglip_perception.errors import BagError
from siglip_perception.images.squares import SquareSpec

SQUARE = SquareSpec.squash("bicubic", 8)


def write_folder(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, gray, text in (("a", 10, "red cup"), ("b", 20, "파란 컵\n"), ("c", 30, None)):
        (folder / f"{name}.jpg").write_bytes(picture(gray))
        if text is not None:
            (folder / f"{name}.txt").write_text(text)
    (folder / "below").mkdir()
    (folder / "below" / "d.PNG").write_bytes(picture(40, "PNG"))
    (folder / "below" / "d.txt").write_text("  two  words \n\n")


def test_a_folder_of_images_with_texts_beside_them(tmp_path: Path) -> None:
    write_folder(tmp_path)
    source = open_pairs(tmp_path)
    assert pairs(source) == [(10, "red cup"), (20, "파란 컵"), (40, "two words")]
    assert source.report.skip_counts == {"image without a caption": 1}
    assert source.report.names("image without a caption") == [str(tmp_path / "c.jpg")]
    images_only = pairs(open_pairs(tmp_path, captioned=False))
    assert sorted(images_only) == [(10, ""), (20, ""), (30, ""), (40, "")]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_of_captions(tmp_path: Path, suffix: str) -> None:
    for gray in (10, 20):
        (tmp_path / f"{gray}.jpg").write_bytes(picture(gray))
    rows = [("10.jpg", "a, cup"), ("20.jpg", "ball"), ("gone.jpg", "lost"), ("", "no image")]
    table = tmp_path / f"captions.{suffix}"
    if suffix == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        table.write_text("\n".join([*lines, "{broken", "[]"]) + "\n")
    else:
        mark = "," if suffix == "csv" else "\t"
        rows_in_quotes = [f'{name}{mark}"{text}"' for name, text in rows]
        table.write_text("\n".join([f"filepath{mark}title", *rows_in_quotes]) + "\n")
    for path in (table, tmp_path):
        source = open_pairs(path)
        assert pairs(source) == [(10, "a, cup"), (20, "ball")]
        assert len(source) == 2
        skip_names = {"picture missing": 1, "row without an image": 1}
        extra = {"row is no JSON": 1, "row is no object": 1} if suffix == "jsonl" else {}
        assert source.report.skip_counts == skip_names | extra
        line = 3 if suffix == "jsonl" else 4
        assert source.report.names("picture missing") == [f"{table.name}, line {line}"]


def test_a_table_without_the_columns_says_which(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("url,alt\nx,y\n")
    with pytest.raises(SourceError, match="call the columns file_name"):
        open_pairs(tmp_path / "t.csv")


def test_tar_shards(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "0.tar",
        [
            ("x/a.b/001.jpg", picture(10)),
            ("x/a.b/001.txt", b"one"),
            ("x/a.b/002.seg.png", picture(99, "PNG")),  # the key ends at the first dot
            ("x/a.b/002.json", json.dumps({"caption": "two"}).encode()),
            ("x/a.b/002.png", picture(20, "PNG")),
            ("003.txt", b"no image"),
            ("004.jpg", picture(40)),
        ],
    )
    write_shard(
        tmp_path / "1.tar",
        [("5.jpg", picture(50)), ("5.txt", b"five"), ("6.jpg", b"\xff\xd8\xff?"), ("6.txt", b"")],
    )
    for source in (open_pairs(tmp_path), open_pairs(tmp_path / "0.tar", tmp_path / "1.tar")):
        assert pairs(source) == [(10, "one"), (20, "two"), (50, "five")]
        assert len(source) == 4
        assert source.report.skip_counts == {
            "sample without image": 1,
            "sample without caption": 1,
        }


def test_a_shard_that_was_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    files = [(f"{n}.{e}", d) for n in range(3) for e, d in (("jpg", picture(n)), ("txt", b"t"))]
    write_shard(tmp_path / "s.tar", files)
    data = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(data[:5000])
    source = open_pairs(tmp_path)
    assert 0 < len(source) < 3
    assert source.report.total
    (tmp_path / "s.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(SourceError, match="not a tar file"):
        open_pairs(tmp_path)


def test_a_bag_gives_frames_with_the_words_of_their_time(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", [(0.3, "pick up the cup"), (1.0, "put it down"), (1.7, "  ")])
    source = open_pairs(tmp_path / "bag", cache=tmp_path / "cache")
    # Frames at 0.5 (20), then every half second. Until 0.3 s there were no words.
    assert pairs(source) == [(20, "pick up the cup"), (40, "put it down"), (60, "put it down")]
    assert source.report.skip_counts == {"without caption": 2, "caption empty": 1}
    (shard,) = (tmp_path / "cache").glob("*.tar")
    before = shard.stat().st_mtime_ns
    assert pairs(open_pairs(tmp_path / "bag", cache=tmp_path / "cache")) == pairs(source)
    assert shard.stat().st_mtime_ns == before  # made once


def test_a_bag_without_words_says_so(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", [])
    with pytest.raises(SourceError, match="--caption-topic"):
        open_pairs(tmp_path / "bag", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "broken.mcap").write_bytes(b"nothing")
    with pytest.raises(BagError, match="cannot be read"):
        open_pairs(tmp_path / "broken.mcap", cache=tmp_path / "cache")


def test_raw_frames_of_a_bag_lose_nothing(tmp_path: Path) -> None:
    store = typestore()
    types = store.types
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    header = types["std_msgs/msg/Header"](
        stamp=types["builtin_interfaces/msg/Time"](sec=1, nanosec=0), frame_id=""
    )
    raw, text = "sensor_msgs/msg/Image", "std_msgs/msg/String"
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        image = writer.add_connection("/camera/image_raw", raw, typestore=store)
        words = writer.add_connection("/words", text, typestore=store)
        message = types[text](data="the cup")
        writer.write(words, 1, store.serialize_cdr(message, text))
        for stamp, step in (
            (2, 18),
            (10**9, 5),
            (2 * 10**9, 18),
        ):  # the second one's step is wrong
            message = types[raw](
                header=header,
                height=4,
                width=6,
                encoding="rgb8",
                is_bigendian=0,
                step=step,
                data=pixels.ravel(),
            )
            writer.write(image, stamp, store.serialize_cdr(message, raw))
    options = BagOptions(("/camera/image_raw",), "/words", interval=0.0)
    source = open_data([str(tmp_path / "bag")], tmp_path / "cache", options, True)
    assert len(source) == 2
    assert source.report.skip_counts == {"image malformed": 1}
    np.testing.assert_array_equal(source.read(0).image, pixels)
    assert source.read(1).caption == "the cup"


def test_scenes_and_several_sources_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "f")
    source = open_pairs("scenes:3@7", tmp_path / "f")
    assert len(source) == 6
    assert source.read(1).caption == open_pairs("scenes:2@7").read(1).caption
    assert source.read(1).caption != open_pairs("scenes:2@8").read(1).caption
    assert source.read(5).caption == "two words"


@pytest.mark.parametrize("name", ["nothing-there", "file.dat", "empty"])
def test_what_is_no_source_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.dat").write_bytes(b"?")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        open_pairs(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"caf\xe9", "UTF-8"), (b" \n", "empty"), (b"x" * 70_000, "too long")],
)
def test_broken_captions(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenPairError, match=reason):
        read_captions("n", data)


def test_every_epoch_is_a_shuffle_of_all_pairs() -> None:
    order = Order(10, seed=3)
    epochs = [[order(10 * e + n) for n in range(10)] for e in range(2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_a_batch_between_them() -> None:
    full = [p for step in range(3) for p in Share(6).places(step)]
    assert full == list(range(18))
    parts = [list(Share(6, rank, 2).places(1)) for rank in range(2)]
    assert parts == [[6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_pair_is_replaced_and_named(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff and no more")
    dataset = PairDataset(open_pairs(tmp_path), Order(3, seed=0), SQUARE)
    (batch,) = batches(dataset, Share(6), 0, 1, workers)
    assert batch.images.shape == (6, 3, 8, 8)
    assert len(batch.captions) == 6
    assert "파란 컵" not in batch.captions
    assert {reason for _, reason, _ in batch.broken} == {"image corrupt"}
    assert all(name.endswith("b.jpg") for name, _, _ in batch.broken)
    again = next(batches(dataset, Share(6), 0, 1, 0))
    assert again.captions == batch.captions


def test_data_that_is_all_broken_ends_in_one_sentence(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for path in (p for p in tmp_path.rglob("*.*") if p.suffix != ".txt"):
        path.write_bytes(b"")
    dataset = PairDataset(open_pairs(tmp_path), Order(3, seed=0), SQUARE)
    with pytest.raises(SourceError, match=r"^50 pairs one after the other .* check the data\.$"):
        list(batches(dataset, Share(2), 0, 1, 1))
