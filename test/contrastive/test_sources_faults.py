"""Training data with real-world defects: each is skipped, named and counted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tarfile
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pair_files import open_pairs, pairs, picture, write_shard

from siglip_perception.contrastive.data.open import open_data
from siglip_perception.contrastive.data.samples import Order, PairDataset, Share, batches
from siglip_perception.contrastive.data.source_bag import BagOptions
from siglip_perception.contrastive.data.sources import SEVERAL_CAPTIONS, SourceError
from siglip_perception.errors import DatasetError
from siglip_perception.images.squares import SquareSpec

SQUARE = SquareSpec.squash("bicubic", 8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write 10.jpg and 20.jpg, each with the gray level in its name."""
    for gray in (10, 20):
        (tmp_path / f"{gray}.jpg").write_bytes(picture(gray))
    return tmp_path


# Tables


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_separators_are_found_in_the_header(pictures: Path, separator: str, suffix: str) -> None:
    table = pictures / f"captions.{suffix}"
    header = separator.join(["Id", " FilePath", "Title"])
    table.write_text(f"{header}\n1{separator}10.jpg{separator}a cup\n")
    assert pairs(open_pairs(table)) == [(10, "a cup")]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_encodings_and_quoted_newlines(pictures: Path, encoding: str, ends: str) -> None:
    text = ends.join(["filepath,title", f'10.jpg,"빨간 컵,{ends}""big"""', "20.jpg,ball", ""])
    table = pictures / "captions.csv"
    table.write_bytes(text.encode(encoding))
    source = open_pairs(table)
    assert pairs(source) == [(10, '빨간 컵, "big"'), (20, "ball")]
    assert source.report.lines() == []


@pytest.mark.parametrize(
    "rows",
    [
        '10.jpg,"a cup\n20.jpg,ball\n',  # never closed
        '10.jpg,a cup\n20.jpg,"ball',
        '10.jpg,"a cup\n20.jpg,ball\n10.jpg,"a plate\n',  # closed by another stray one
        '10.jpg,"a cup\n20.jpg,a ball"\n',  # closed, and a row is in it
        '10.jpg,"a cup\n' + "20.jpg,ball\n" * 20_000,
    ],
)
def test_a_quote_that_takes_in_rows_is_an_error_with_its_line(pictures: Path, rows: str) -> None:
    table = pictures / "captions.csv"
    table.write_text("filepath,title\n" + rows)
    line = 3 if rows.startswith("10.jpg,a cup") else 2
    with pytest.raises(SourceError, match=rf"captions.csv, line {line}: a quote opens here"):
        open_pairs(table)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('20.jpg,"a "big" ball"', "row that is no CSV"),
        ("20.jpg,a ball, a cup", "row with another number of columns"),
        ("20.jpg", "row with another number of columns"),
        ("20.jpg,", "row without a caption"),
        ("20.jpg,  ", "row without a caption"),
        (",a ball", "row without an image"),
        ("30.jpg,a ball", "picture missing"),
        ("10.jpg,a cup", "row listed twice"),
        (b"20.jpg,caf\xe9", "row not UTF-8"),
        ("20.jpg," + "x" * 100_000, "caption too long"),
        ("20.jpg," + "x" * 200_000, "row that is no CSV"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(
    pictures: Path, row: str | bytes, reason: str
) -> None:
    table = pictures / "captions.csv"
    data = row if isinstance(row, bytes) else row.encode()
    table.write_bytes(b"filepath,title\n10.jpg,a cup\n" + data + b"\n\n20.jpg,ball\n")
    source = open_pairs(table)
    assert pairs(source) == [(10, "a cup"), (20, "ball")]
    assert source.report.skip_counts == {reason: 1}
    assert source.report.names(reason) == ["captions.csv, line 3"]
    with pytest.raises(DatasetError, match=r"captions.csv, line 3: .*without --strict"):
        open_data([str(table)], pictures, BagOptions(), True, strict=True)


def test_a_row_in_latin_1_is_told_for_what_it_is(pictures: Path) -> None:
    table = pictures / "captions.csv"
    table.write_bytes(b"filepath,title\n10.jpg,caf\xe9\n20.jpg,ball\n")
    assert "in Latin-1: 10.jpg,café; save it as UTF-8" in open_pairs(table).report.first()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("10.jpg,a cup\n", "has no header.* file_name,text"),
        ("10.jpg\ta cup\n", "has no header.*tab"),
        ("url,alt\nx,y\n", "call the columns file_name"),
        ("", "names no columns"),
        ("filepath,title\n", "nothing to train on"),
        ("filepath,title\n30.jpg,a cup\n", "No row of .*30.jpg"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(pictures: Path, content: str, words: str) -> None:
    table = pictures / "captions.csv"
    table.write_text(content)
    with pytest.raises(SourceError, match=words):
        open_pairs(table)


def test_pictures_of_a_table_by_other_spellings_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    name = unicodedata.normalize("NFD", "컵 1.jpg")
    (tmp_path / "images" / name).write_bytes(picture(10))
    spellings = [
        "images\\컵 1.jpg",
        "images/%EC%BB%B5%201.jpg",
        "컵 1.jpg",
        "/old/images/컵 1.jpg",
    ]
    spellings += [str(tmp_path / "images" / name), "../" + tmp_path.name + "/images/" + name]
    table = tmp_path / "t.csv"
    table.write_text("image,text\n" + "".join(f"{s},cup {n}\n" for n, s in enumerate(spellings)))
    source = open_pairs(table)
    assert pairs(source) == [(10, f"cup {n}") for n in range(len(spellings))]


def test_a_list_in_json_and_several_captions_of_an_image(pictures: Path) -> None:
    rows = [{"image": "10.jpg", "captions": ["a cup", "a mug"]}, {"image": "20.jpg", "text": "b"}]
    table = pictures / "captions.json"
    table.write_text(json.dumps(rows))
    source = open_pairs(table)
    assert [source.read(0, epoch).caption for epoch in range(3)] == ["a cup", "a mug", "a cup"]
    assert source.read(0).remarks == (SEVERAL_CAPTIONS,)
    for content, words in (
        ({"images": [], "annotations": []}, "COCO's annotations"),
        (3, "no list"),
    ):
        table.write_text(json.dumps(content))
        with pytest.raises(SourceError, match=words):
            open_pairs(table)
    table.write_text("{")
    with pytest.raises(SourceError, match="not JSON"):
        open_pairs(table)


FIELD = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n",;\t|'))


@settings(deadline=None, max_examples=60)
@given(st.lists(FIELD.filter(str.strip), min_size=1, max_size=4), st.sampled_from("\t,;|"))
def test_any_caption_that_a_csv_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], separator: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "1.jpg").write_bytes(picture(10))
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator="\n")
    writer.writerows([("filepath", "title"), *(("1.jpg", caption) for caption in captions)])
    (folder / "t.csv").write_text(buffer.getvalue(), encoding="utf-8", newline="")
    clean = [" ".join(caption.split()) for caption in captions]
    if "\ufffd" in "".join(captions):
        return
    source = open_pairs(folder / "t.csv")
    assert [source.read(n).caption for n in range(len(source))] == list(dict.fromkeys(clean))


# Folders


def test_a_folder_from_a_mac_with_all_kinds_of_files(tmp_path: Path) -> None:
    files = {
        "a.JPG": picture(10),
        "a.TXT": b"\xef\xbb\xbfone",
        "b.webp.jpeg": picture(20),
        "b.webp.txt": "둘".encode("utf-16"),
        unicodedata.normalize("NFD", "컵.png"): picture(30, "PNG"),
        unicodedata.normalize("NFC", "컵.caption"): b"three",
        "d.jpg": picture(40),
        "d.jpg.txt": b"four\n\nvier\n",
        "._a.JPG": b"Mac",
        ".DS_Store": b"Mac",
        "Thumbs.db": b"Windows",
        ".cache/e.jpg": picture(50),
        "f.heic": b"?",
        "g.jpg": picture(60),
        "h.txt": b"no image",
        "notes.md": b"",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "i.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "j.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    source = open_pairs(tmp_path)
    assert sorted(pairs(source)) == [(10, "one"), (20, "둘"), (30, "three"), (40, "four")]
    index = next(n for n in range(4) if source.read(n).caption == "four")
    assert source.read(index, epoch=1).caption == "vier"
    assert source.report.skip_counts == {
        "image of a kind that is not read (.heic)": 1,
        "image without a caption": 1,
        "file unreadable": 2,
    }
    assert source.report.note_counts == {
        "hidden or a system's file": 4,
        "text without an image": 1,
        "neither an image nor a caption": 1,
    }
    assert source.report.total == 4


def test_a_linked_folder_of_images_is_read(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.jpg").write_bytes(picture(10))
    (tmp_path / "store" / "a.txt").write_text("one")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "store")
    assert pairs(open_pairs(tmp_path / "data")) == [(10, "one")]


# Shards


def shard(tmp_path: Path, *files: tuple[str, bytes]) -> Path:
    write_shard(tmp_path / "s.tar", list(files))
    return tmp_path / "s.tar"


JPG, PNG = picture(10), picture(90, "PNG")


@pytest.mark.parametrize(
    ("files", "read", "skips"),
    [
        ([("a.b/1.jpg", JPG), ("a.b/1.txt", b"x")], ["x"], {}),
        ([("./1.JPG", JPG), ("./1.TXT", b"x")], ["x"], {}),
        ([("../../1.jpg", JPG), ("../../1.caption", b"x")], ["x"], {}),
        ([("/abs/1.webp", JPG), ("/abs/1.json", b'{"text": "x"}')], ["x"], {}),
        ([("1.jpg", JPG), ("1.json", b'{"captions": ["x", "y"]}')], ["x"], {}),
        ([("1.seg.png", PNG), ("1.jpg", JPG), ("1.txt", b"x")], ["x"], {}),
        # One key, by the rule: neither may become an image of the other's caption.
        (
            [("a.b.jpg", JPG), ("a.b.txt", b"x"), ("a.c.jpg", JPG), ("a.c.txt", b"y")],
            [],
            {"sample whose image has a second dot (the key ends at the first)": 1},
        ),
        (
            [("x/1.front.jpg", JPG), ("x/1.txt", b"x")],
            [],
            {"sample whose image has a second dot (the key ends at the first)": 1},
        ),
        (
            [("1.jpg", JPG), ("1.en.txt", b"x")],
            [],
            {"sample whose caption has a second dot (the key ends at the first)": 1},
        ),
        ([("1.jpg", JPG), ("1.txt", b"x"), ("1.JPG", PNG)], [], {"sample with a file twice": 1}),
        ([("1.txt", b"x")], [], {"sample without image": 1}),
        (
            [("1.jpg", JPG), ("2.txt", b"x")],
            [],
            {"sample without caption": 1, "sample without im": 1},
        ),
    ],
)
def test_names_in_a_shard(
    tmp_path: Path, files: list[tuple[str, bytes]], read: list[str], skips: dict[str, int]
) -> None:
    good = [("zz.jpg", JPG), ("zz.txt", b"good")]
    source = open_pairs(shard(tmp_path, *files, *good))
    assert [caption for _, caption in pairs(source)] == [*read, "good"]
    reasons = source.report.skip_counts
    assert len(reasons) == len(skips)
    for reason, count in skips.items():
        assert [c for name, c in reasons.items() if name.startswith(reason)] == [count]


def write_members(
    path: Path, members: list[tuple[tarfile.TarInfo, bytes]], **options: Any
) -> None:
    with tarfile.open(path, "w", **options) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_links_devices_and_hidden_files_in_a_shard(tmp_path: Path) -> None:
    members = [
        (member("x", tarfile.DIRTYPE), b""),
        (member("._x/1.jpg"), b"Mac"),
        (member("x/._1.jpg"), b"Mac"),
        (member("x/1.jpg"), JPG),
        (member("x/1.txt"), b"one"),
        (member("x/2.jpg", tarfile.LNKTYPE, "x/1.jpg"), b""),
        (member("x/2.txt", tarfile.SYMTYPE, "1.txt"), b""),
        (member("x/3.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (member("x/3.txt"), b"three"),
        (member("x/4.jpg", tarfile.CHRTYPE), b""),
        (member("x/4.txt"), b"four"),
        (member("README"), b"no ending"),
    ]
    write_members(tmp_path / "s.tar", members)
    source = open_pairs(tmp_path / "s.tar")
    # "._x/1" is a folder's name: its picture is a sample's of its own.
    assert pairs(source) == [(10, "one"), (10, "one")]
    assert source.report.skip_counts == {
        "sample without caption": 1,
        "sample with a link to nothing before it": 1,
        "sample with a device or a pipe": 1,
    }
    assert sum(source.report.note_counts.values()) == 2


def test_pax_names_and_nuls(tmp_path: Path) -> None:
    long = "d" * 120 + "/" + "컵" * 60
    members = [(member(f"{long}.jpg"), JPG), (member(f"{long}.txt"), b"long")]
    for name, data in (("2\0x.jpg", JPG), ("2\0x.txt", b"nul")):
        info = member("2.jpg")
        info.pax_headers = {"path": name}
        members.append((info, data))
    write_members(tmp_path / "s.tar", members, format=tarfile.PAX_FORMAT)
    source = open_pairs(tmp_path / "s.tar")
    assert pairs(source) == [(10, "long")]
    assert source.report.skip_counts == {"sample with a NUL in a name": 1}


def test_sparse_files_are_named_not_read_as_they_lie(tmp_path: Path) -> None:
    """GNU tar stores only the data of a sparse file: here 512 of 1024 bytes."""
    info = member("1.jpg", tarfile.GNUTYPE_SPARSE)
    info.size = 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (512, 512)  # at 512 come 512 bytes
    header[483:495] = b"%011o\0" % 1024
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    write_shard(tmp_path / "s.tar", [("1.txt", b"one"), ("2.jpg", JPG), ("2.txt", b"two")])
    remainder = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(bytes(header) + b"x" * 512 + remainder)
    source = open_pairs(tmp_path / "s.tar")
    assert pairs(source) == [(10, "two")]
    (reason,) = source.report.skip_counts
    assert "sparse" in reason


def good_shard(path: Path, count: int = 2) -> bytes:
    files = [(f"{n}.{e}", d) for n in range(count) for e, d in (("jpg", JPG), ("txt", b"t"))]
    write_shard(path, files)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("bad.tar", lambda data: b"", "shard is empty"),
        ("bad.tar", lambda data: b"\0" * 10240, "shard without files"),
        ("bad.tar", lambda data: b"no tar " * 200, "shard is not a tar file"),
        ("bad.tar", gzip.compress, "shard is compressed (gzip)"),
        ("bad.tar", lambda data: b"PK\3\4" + data, "shard is compressed (zip)"),
        ("bad.tar", lambda data: data[:700], "sample cut off with its shard"),
        ("bad.tar", lambda data: data[:100], "shard is not a tar file"),
        ("bad.TAR.GZ", gzip.compress, "file of a kind that is not read"),
        ("bad.tgz", gzip.compress, "file of a kind that is not read"),
        ("bad.tar.zst", lambda data: data, "file of a kind that is not read"),
        ("bad.zip", lambda data: data, "file of a kind that is not read"),
        ("bad.parquet", lambda data: data, "file of a kind that is not read"),
    ],
)
def test_a_bad_shard_is_passed_over_among_good_ones(
    tmp_path: Path, name: str, change: Any, reason: str
) -> None:
    data = good_shard(tmp_path / "good.tar")
    (tmp_path / name).write_bytes(change(data))
    source = open_pairs(tmp_path)
    assert len(source) == 2
    assert list(source.report.skip_counts) == [reason]
    (place,) = source.report.names(reason)
    assert name in place
    with pytest.raises(SourceError, match=name):
        open_pairs(tmp_path / name)
    with pytest.raises(DatasetError, match="without --strict"):
        open_data([str(tmp_path)], tmp_path, BagOptions(), True, strict=True)


def test_what_follows_a_broken_header_or_the_end_is_not_lost_in_silence(tmp_path: Path) -> None:
    data = bytearray(good_shard(tmp_path / "s.tar", 3))
    third = data.index(b"1.jpg")
    data[third] ^= 1  # its checksum is wrong now
    (tmp_path / "s.tar").write_bytes(data)
    source = open_pairs(tmp_path / "s.tar")
    assert (len(source), source.report.skip_counts) == (1, {"shard that breaks off": 1})
    shard = good_shard(tmp_path / "s.tar", 3)
    (tmp_path / "s.tar").write_bytes(shard + shard)
    source = open_pairs(tmp_path / "s.tar")
    assert (len(source), source.report.skip_counts) == (3, {"shard with more after its end": 1})


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_bytes_in_a_shard_end_in_pairs_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    data = bytearray(good_shard(path))
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    began = time.process_time()
    try:
        source = open_pairs(path)
    except SourceError:
        return
    pairs(source)
    assert time.process_time() - began < 5


# Names


def test_braces_and_stars_that_no_shell_expanded(tmp_path: Path) -> None:
    for n in (8, 9, 10):
        good_shard(tmp_path / f"s-{n:04d}.tar", 1)
    for name, count in (
        ("s-{0008..0010}.tar", 3),
        ("s-{0010..0008}.tar", 3),
        ("s-00{08,10}.tar", 2),
        ("s-{0008,{0009..0010}}.tar", 3),
        ("s-*.tar", 3),
        ("s-000[89].tar", 2),
    ):
        assert len(open_pairs(tmp_path / name)) == count
    with pytest.raises(SourceError, match=r"There is no .*s-0011\.tar"):
        open_pairs(tmp_path / "s-{0008..0011}.tar")
    with pytest.raises(SourceError, match="No file matches"):
        open_pairs(tmp_path / "t-*.tar")
    literal = tmp_path / "odd{1,2}.tar"
    good_shard(literal, 2)
    assert len(open_pairs(literal)) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://example.com/s-{000..009}.tar", "is not a local file: download it"),
        ("s3://bucket/s.tar", "is not a local file"),
        ("pipe:cat x.tar", "is not a local file"),
        ("x\0y", "There is no"),
        ("x" * 5000, "There is no"),
    ],
)
def test_names_that_are_no_files(name: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_pairs(name)


def test_repaired_and_broken_pairs_are_told_with_every_batch(tmp_path: Path) -> None:
    without_end = picture(10)[:-2]
    for n, data in enumerate((without_end, b"", picture(30))):
        (tmp_path / f"{n}.jpg").write_bytes(data)
        (tmp_path / f"{n}.txt").write_text("one\nanother")
    source = open_pairs(tmp_path)
    (batch,) = batches(PairDataset(source, Order(3, seed=0), SQUARE), Share(6), 0, 1, 0)
    assert batch.captions[:3] == ["one"] * 3
    assert batch.captions[3:] == ["another"] * 3
    assert {name for name, _, _ in batch.broken} == {str(tmp_path / "1.jpg")}
    assert {remark for _, remark in batch.remarks} == {"jpeg_repaired", SEVERAL_CAPTIONS}
    strict = PairDataset(source, Order(3, seed=0), SQUARE, strict=True)
    with pytest.raises(SourceError, match=r"1\.jpg: image .*without --strict"):
        list(batches(strict, Share(6), 0, 1, 0))
