"""`fingerprint` of data sets, and `replay` that compares a bag with one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from models import write_random_model
from PIL import Image

from siglip_perception.bags import replay
from siglip_perception.commands import main
from siglip_perception.images.fingerprint import FIELDS
from siglip_perception.types import UInt8Array

COUNT = 9


def picture(seed: int, darker: int = 1) -> UInt8Array:
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 240, (12, 16, 3), np.uint8) // darker
    return np.asarray(Image.fromarray(small).resize((128, 96), Image.Resampling.BICUBIC))


def jpeg(image: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_bag(path: Path, darker: int = 1) -> None:
    frames = [(i * 10**9 + 1, jpeg(picture(i, darker))) for i in range(COUNT)]
    replay.write_sample_bag(path, frames, [])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number}.jpg").write_bytes(jpeg(picture(number)))
    return folder


def test_a_folder_and_a_bag_of_the_same_pictures_give_the_same_reference(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    write_bag(tmp_path / "bag")
    for name in ("pictures", "bag"):
        argv = ["fingerprint", str(tmp_path / name), "-o", str(tmp_path / f"{name}.json")]
        assert main.main(argv) == 0
        said = capsys.readouterr()
        assert f"{name}.json: 9 of " in said.out
        assert all(f"  {field} " in said.out for field in FIELDS)
        assert ("left out: 1 as" in said.err) == (name == "pictures")
    folder, bag = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("pictures", "bag"))
    assert folder["fields"] == bag["fields"]
    assert sorted(folder["examples"]) == sorted(bag["examples"])


def test_replay_says_what_differs_from_the_reference(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "reference.json"
    assert main.main(["fingerprint", str(pictures), "-o", str(reference)]) == 0
    write_random_model(tmp_path / "model")
    for name, darker in (("honest", 1), ("dark", 3)):
        write_bag(tmp_path / name, darker)
        argv = ["replay", str(tmp_path / name), "-o", str(tmp_path / f"{name}.out")]
        argv += ["--model", str(tmp_path / "model"), "--pixel-reference", str(reference)]
        assert main.main(argv) == 0
        out = capsys.readouterr().out
        if name == "honest":
            assert "pixels: as in the training set" in out
        else:
            # From the third image on there are enough to judge.
            assert "pixels: /image/compressed: darker by 3." in out
            assert "(7 images, from image 3 on)" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("fingerprint {few} -o {out}", "at least 8 pictures, and there are 2"),
        ("fingerprint {none} -o {out}", "none"),
        ("replay {bag} -o {out} --pixel-reference {few}/0.jpg", "is not JSON and no reference"),
    ],
)
def test_errors_are_one_sentence_and_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: str, says: str
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number in range(2):
        (few / f"{number}.jpg").write_bytes(jpeg(picture(number)))
    write_bag(tmp_path / "bag")
    out = tmp_path / "out.json"
    names = {"few": few, "none": tmp_path / "none", "bag": tmp_path / "bag", "out": out}
    try:
        code = main.main([word.format(**names) for word in argv.split()])
    except SystemExit as error:  # of an argument's type
        code = int(error.code or 0)
    assert code == 2
    error_text = capsys.readouterr().err
    assert says in error_text
    assert "Traceback" not in error_text
    assert not out.exists()
