"""Sources of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from siglip_perception.bags.recorder import ReplayOptions
from siglip_perception.bags.replay import write_sample_bag
from siglip_perception.errors import BagError, PerceptionError
from siglip_perception.view.bag import BagImages
from siglip_perception.view.files import PictureFiles, VideoFile
from siglip_perception.view.open_source import open_source
from siglip_perception.view.phrases import common_phrases, read_phrases
from siglip_perception.view.source import LiveSource, RecordedSource, SourceError
from siglip_perception.view.webcam import Webcam

OPTIONS = ReplayOptions()
SECOND = 10**9


def jpeg(gray: int) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((24, 32, 3), gray, np.uint8))
    assert done
    return bytes(data)


def grays(source: RecordedSource, *indices: int) -> list[int]:
    return [round(float(source.read(index).decode().pixels.mean()) / 20) for index in indices]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames, 0.1 s apart, of gray 0, 20, ... 180; two of them share a time."""
    path = tmp_path_factory.mktemp("bag") / "gray"
    times = [0, 1, 2, 2, 3, 4, 5, 6, 7, 8]
    frames = [(time * SECOND // 10, jpeg(20 * i)) for i, time in enumerate(times)]
    words = [(SECOND // 4, "red cup"), (SECOND // 2, "plate")]
    write_sample_bag(path, frames, words)
    return path


def test_a_bag_is_read_in_any_order(bag: Path) -> None:
    source = BagImages(bag, OPTIONS)
    assert isinstance(source, RecordedSource)
    assert not isinstance(source, LiveSource)
    assert source.count == 10
    assert grays(source, 0, 5, 3, 2, 9, 4, 0) == [0, 5, 3, 2, 9, 4, 0]
    assert [source.time_s(i) for i in (0, 3, 9)] == [0.0, 0.2, 0.8]
    source.close()


def test_going_back_before_the_bag_is_known_and_on_again(bag: Path) -> None:
    source = BagImages(bag, OPTIONS)
    assert grays(source, 3, 1) == [3, 1]
    assert source.time_s(6) == pytest.approx(0.5)
    assert grays(source, 6, 2, 8) == [6, 2, 8]


def test_the_bags_instructions_hold_from_their_time_on(bag: Path) -> None:
    source = BagImages(bag, OPTIONS)
    said = {index: source.read(index).instruction for index in (0, 9, 3, 4, 6)}
    assert said == {0: None, 3: None, 4: "red cup", 6: "plate", 9: "plate"}


def test_beyond_the_bags_end_is_said(bag: Path) -> None:
    with pytest.raises(SourceError, match="gray has no image 10: it holds 10"):
        BagImages(bag, OPTIONS).read(10)


def test_a_bag_without_pictures_is_said(tmp_path: Path) -> None:
    write_sample_bag(tmp_path / "bag", [], [(0, "red cup")])
    with pytest.raises(BagError, match="no images"):
        open_source(str(tmp_path / "bag"), OPTIONS, 5)


def test_a_folders_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        (tmp_path / f"frame{number}.jpg").write_bytes(jpeg(20 * number))
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path), OPTIONS, 4)
    assert isinstance(source, PictureFiles)
    assert source.count == 3
    assert grays(source, 0, 1, 2) == [1, 9, 10]
    assert source.time_s(2) == 0.5


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "picture.dat"
    path.write_bytes(jpeg(100))
    source = open_source(str(path), OPTIONS, 5)
    assert isinstance(source, PictureFiles)
    assert (source.kind, source.count) == ("picture", 1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for number in range(9):
        writer.write(np.full((24, 32, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_a_video_is_read_in_any_order(video: Path) -> None:
    source = open_source(str(video), OPTIONS, 5)
    assert isinstance(source, VideoFile)
    assert (source.count, source.time_s(5)) == (9, 0.5)
    assert grays(source, 0, 1, 6, 2, 8) == [0, 1, 6, 2, 8]


def test_a_video_that_is_cut_off_says_where_it_ends(video: Path, tmp_path: Path) -> None:
    source = VideoFile(video, OPTIONS.max_pixels)
    with pytest.raises(SourceError, match="no frame 40"):
        source.read(40)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"hello", "notes.txt"),
        ("empty.mp4", b"", "neither a picture, a bag nor a video"),
        ("broken.mcap", b"\x89MCAP0\r\n", "broken.mcap"),
        ("old.bag", b"#ROSBAG V2.0\n", "rosbags-convert"),
    ],
)
def test_what_is_nothing_to_look_at_is_said(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PerceptionError, match=says):
        open_source(str(path), OPTIONS, 5)


def test_a_folder_without_pictures_and_a_missing_file_are_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no pictures"):
        open_source(str(tmp_path), OPTIONS, 5)
    with pytest.raises(SourceError, match="no file or folder"):
        open_source(str(tmp_path / "none"), OPTIONS, 5)


class FakeCapture:
    """A camera that gives pictures while it is plugged in."""

    plugged = True

    def __init__(self, number: int) -> None:
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return type(self).plugged

    def grab(self) -> bool:
        return type(self).plugged and not self.released

    def retrieve(self) -> tuple[bool, Any]:
        return True, np.zeros((24, 32, 3), np.uint8)

    def set(self, key: int, value: float) -> bool:
        return True

    def release(self) -> None:
        self.released = True


def test_a_webcam_that_vanishes_is_said_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    source = Webcam(0, OPTIONS.max_pixels, FakeCapture, lambda: now[0])
    assert isinstance(source, LiveSource)
    assert not isinstance(source, RecordedSource)
    frame = source.next(0.0)
    assert frame is not None
    assert frame.decode().pixels.shape == (24, 32, 3)
    monkeypatch.setattr(FakeCapture, "plugged", False)
    with pytest.raises(SourceError, match="webcam 0 has stopped"):
        source.next(0.0)
    assert source.next(0.0) is None  # not asked again at once
    monkeypatch.setattr(FakeCapture, "plugged", True)
    now[0] = 1.5
    assert source.next(0.0) is not None


def test_a_webcam_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCapture, "plugged", False)
    with pytest.raises(SourceError, match="no webcam 3"):
        Webcam(3, OPTIONS.max_pixels, FakeCapture)


def test_phrases_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("red cup\n\n 빨간 컵 \nred cup\n", encoding="utf-8")
    assert read_phrases(path) == ("red cup", "빨간 컵")
    assert {"red cup", "cup", "red object"} <= set(common_phrases())
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PerceptionError, match="UTF-8"):
        read_phrases(path)
    path.write_text("\n")
    with pytest.raises(PerceptionError, match="has no phrases"):
        read_phrases(path)


def test_a_picture_that_is_gone_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    source = open_source(str(path), OPTIONS, 5)
    path.unlink()
    assert isinstance(source, RecordedSource)
    with pytest.raises(PerceptionError, match="no image file"):
        source.read(0).decode()
