"""The commands, run as a user runs them, and what importing them loads."""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bag_files import Channel, write_mcap
from bag_files import image as gray_image
from models import write_random_model
from PIL import Image

from siglip_perception.bags import replay
from siglip_perception.bags.messages import RAW
from siglip_perception.commands import main
from siglip_perception.config import ModelSelection
from siglip_perception.images.files import read_image
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame
from siglip_perception.util import ros, ros_probe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture
def image(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return path


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line that a refused command says."""
    assert main.main([str(word) for word in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("siglip-perception: ")
    assert output.err.count("\n") == 1
    return output.err


def test_phrases_shows_what_a_sentence_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["phrases", "put the red cup left of the bowl", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["phrases"] == ["red cup", "bowl"]
    assert content["roles"] == ["target", "place"]
    assert main.main(["phrases", "왼쪽 빨간 컵을 집어", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["phrases"] == ["빨간 컵"]
    assert [(r["phrase"], r["where"], r["of"]) for r in content["relations"]] == [
        ("빨간 컵", "left", [])
    ]
    assert main.main(["phrases", "", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phrases"] == []
    assert main.main(["phrases", "take the second cup from the left of the bowl"]) == 0
    assert "cup, target" in capsys.readouterr().out
    assert "1024 bytes" in refusal(capsys, "phrases", "cup " * 500)


def test_tokens_are_the_pipelines(
    model: str, image: Path, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens.npz"
    argv = ["tokens", str(image), "--model", model, "--precision", "fp32", "-o", str(out)]
    assert main.main(argv) == 0
    assert "18 x 18 tokens of 384 channels" in capsys.readouterr().out
    pipeline = Pipeline.load(ModelSelection(model, precision="fp32"))
    reference = pipeline.process(Frame(pixels), None).tokens
    assert reference is not None
    with np.load(out, allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["tokens"], reference.data)
        assert stored["tokens"].dtype == np.float32
        assert stored["grid"].tolist() == [18, 18]
        assert str(stored["contract"]) == "tabletop"
        assert str(stored["fingerprint"]) == pipeline.fingerprint
    first = out.read_bytes()
    assert main.main(argv) == 0
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png", "tokens.npz"]


def test_ground_prints_json(
    model: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "out.png"
    sentence = "빨간 컵을 집어서 접시 위에 놓아라"
    argv = ["ground", str(image), sentence, "--model", model, "--threshold", "0", "--json"]
    assert main.main([*argv, "--overlay", str(overlay)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["phrases"] == ["빨간 컵", "접시"]
    assert content["instruction"] == sentence
    assert len(content["presence"]) == 2
    assert content["objects"]
    assert {item["phrase"] for item in content["objects"]} <= {"빨간 컵", "접시"}
    for item in content["objects"]:
        x, y, width, height = item["box"]
        assert 0 <= x < x + width <= 64
        assert 0 <= y < y + height <= 48
        assert item["score"] == pytest.approx(1 / (1 + np.exp(-item["logit"])), abs=1e-5)
        assert item["role"] in ("target", "place")
    with Image.open(overlay) as picture:
        assert picture.size == (64, 48)


def test_ground_looks_at_a_picture_as_people_see_it(
    model: str, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One taken with the camera turned gives the objects and the overlay of the upright one."""
    rotated_file, upright = tmp_path / "turned.png", tmp_path / "upright.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(rotated_file, exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(upright)
    objects, overlays = [], []
    for path in (rotated_file, upright):
        overlay = path.with_suffix(".out.png")
        argv = ["ground", str(path), "red cup", "--model", model, "--threshold", "0", "--json"]
        assert main.main([*argv, "--overlay", str(overlay)]) == 0
        objects.append(json.loads(capsys.readouterr().out))
        overlays.append(read_image(overlay).pixels)
    assert objects[0] == objects[1]
    assert overlays[0].shape == (64, 48, 3)
    np.testing.assert_array_equal(overlays[0], overlays[1])


def test_tokens_says_what_was_mended_and_takes_16_bit_gray(
    model: str, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens.npz"
    broken_file = tmp_path / "no end.jpg"
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG")
    broken_file.write_bytes(stored.getvalue()[:-2])
    assert main.main(["tokens", str(broken_file), "--model", model, "-o", str(out)]) == 0
    assert "no end.jpg was decoded, though it has faults: jpeg_repaired" in capsys.readouterr().err
    gray = tmp_path / "gray.png"
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 4).save(gray)
    argv = ["tokens", str(gray), "--model", model, "-o", str(out)]
    assert "--mono16-white" in refusal(capsys, *argv)
    assert main.main([*argv, "--mono16-white", "1023"]) == 0


def test_ground_prints_text_and_says_what_was_not_found(
    model: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["ground", str(image), "red cup", "--model", model, "--threshold", "1"]) == 0
    assert "red cup: in view 0." in capsys.readouterr().out
    assert main.main(["ground", str(image), "red cup", "--model", model, "--threshold", "0"]) == 0
    assert "  score 0." in capsys.readouterr().out


def test_replay_writes_a_bag_and_pictures(
    model: str, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG")
    frames = [(i * 10**8 + 1, stored.getvalue()) for i in range(3)]
    replay.write_sample_bag(tmp_path / "in", frames, [(0, "find the red cup")])
    argv = ["replay", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", model]
    argv += ["--overlay", str(tmp_path / "pictures"), "--overlay-every", "2", "--threshold", "0"]
    assert main.main(argv) == 0
    output = capsys.readouterr()
    assert "3 images in, 3 token and 3 object messages out, 0 dropped" in output.out
    assert "'find the red cup': 3 images, found in: red cup 3" in output.out
    assert "3 of 3 images" in output.err
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == [
        "000001.jpg",
        "000003.jpg",
    ]
    assert (tmp_path / "out" / "metadata.yaml").is_file()


def test_replay_lists_what_a_bag_has_and_counts_what_was_dropped(
    model: str, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG")
    frames = [(1, stored.getvalue()[:100]), (2, stored.getvalue())]
    replay.write_sample_bag(tmp_path / "in", frames, [])
    assert (
        main.main(["replay", str(tmp_path / "in"), "-o", f"{tmp_path}/out", "--model", model]) == 0
    )
    output = capsys.readouterr()
    assert re.search(r"/image/compressed +sensor_msgs/msg/CompressedImage +2\n", output.err)
    assert "images: /image/compressed\n" in output.err
    assert "2 images in, 1 token and 0 object messages out, 1 dropped (corrupt 1)" in output.out
    assert "/image/compressed: 1 dropped as corrupt: the JPEG" in output.out
    assert "/instruction holds no instruction: give one with --instruction" in output.out


def test_replay_takes_the_white_of_16_bit_gray(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = (Channel("/ir", RAW), 1, gray_image(encoding="mono16", sample=2))
    write_mcap(tmp_path / "ir.mcap", [row])
    argv = ["replay", str(tmp_path / "ir.mcap"), "-o", str(tmp_path / "out"), "--model", model]
    assert main.main(argv) == 2
    assert "give the value of white" in capsys.readouterr().err.splitlines()[-1]
    assert main.main([*argv, "--mono16-white", "255"]) == 0
    assert "1 images in, 1 token" in capsys.readouterr().out


def test_what_is_wrong_with_a_bag_is_said_before_pytorch_is_imported(tmp_path: Path) -> None:
    replay.write_sample_bag(tmp_path / "in", [], [(1, "red cup")])
    code = (
        "import sys; from siglip_perception.commands import main;"
        f"code = main.main(['replay', {str(tmp_path / 'in')!r}, '-o', {str(tmp_path / 'out')!r}]);"
        "sys.exit(100 if 'torch' in sys.modules else code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 2, process.stderr
    assert "/image/compressed  sensor_msgs/msg/CompressedImage  0" in process.stderr
    assert "has no images on /image/compressed" in process.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_a_user_got_wrong_is_one_line(
    model: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("no image")
    broken_file = tmp_path / "broken.png"
    broken_file.write_bytes(image.read_bytes()[:60])
    out = tmp_path / "t.npz"
    assert "no image file" in refusal(capsys, "tokens", tmp_path / "nope.jpg", "-o", out)
    assert "the file is text" in refusal(capsys, "tokens", text, "-o", out)
    assert "broken.png" in refusal(capsys, "tokens", broken_file, "-o", out)
    assert "no folder" in refusal(capsys, "tokens", image, "-o", tmp_path / "no" / "t.npz")
    assert "model folder" in refusal(capsys, "tokens", image, "-o", out, "--model", "nope")
    assert "token contract 'x'" in refusal(
        capsys, "tokens", image, "-o", out, "--model", model, "--contract", "x"
    )
    assert "hidden_size" in refusal(
        capsys, "tokens", image, "-o", out, "--model", model, "--contract", "openvla-224"
    )
    assert "names no object" in refusal(capsys, "ground", image, " ")
    assert "1024 bytes" in refusal(capsys, "ground", image, "cup " * 1000)
    assert ".png or .jpg" in refusal(
        capsys, "ground", image, "cup", "--model", model, "--overlay", tmp_path / "o.gif"
    )
    assert "no bag" in refusal(capsys, "replay", tmp_path / "nope", "-o", tmp_path / "out")
    assert not out.exists()


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["tokens", "image.png"],
        ["ground", "image.png", "cup", "--threshold", "2"],
        ["replay", "bag", "-o", "out", "--overlay-every", "0"],
        ["replay", "bag", "-o", "out", "--mono16-white", "65536"],
        ["replay", "bag", "-o", "out", "--grounding-rate", "-1"],
        ["tokens", "image.png", "-o", "t.npz", "--backend", "magic"],
    ],
)
def test_wrong_arguments_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as excinfo:
        main.main(argv)
    assert excinfo.value.code == 2


def test_ctrl_c_ends_with_130_and_one_line(
    model: str,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "process", interrupt)
    argv = ["tokens", str(image), "--model", model, "-o", str(tmp_path / "t.npz")]
    assert main.main(argv) == 130
    assert capsys.readouterr().err == "siglip-perception: interrupted\n"


def test_nan_is_withheld_with_a_sentence(
    model: str,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = Pipeline.load(ModelSelection(model))

    def withhold(*_: object, **__: object) -> list[FloatingPointError]:
        return [FloatingPointError("The encoders gave NaN or infinity; the tokens are withheld.")]

    monkeypatch.setattr(Pipeline, "load", lambda *_: loaded)
    monkeypatch.setattr(loaded, "process_batch", withhold)
    sentence = refusal(capsys, "tokens", image, "-o", tmp_path / "t.npz")
    assert "NaN" in sentence
    assert "use --precision fp32 --backend torch" in sentence
    assert not (tmp_path / "t.npz").exists()


def test_doctor_runs_the_main_job(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["doctor", "--model", model, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True
    assert report["model"]["contract"] == "tabletop"
    assert report["model"]["verified"] == "7 files by SHA-256"
    assert report["packages"]["torch"]
    assert report["backends"]["torch cpu"].startswith("ready")
    assert int(report["cpu"]["cores"]) >= 1
    assert main.main(["doctor", "--model", model]) == 0
    assert "The main job runs here." in capsys.readouterr().out


def test_doctor_refuses_a_library_that_is_too_old(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=99.0"])
    assert main.main(["doctor"]) == 1
    assert "pip install 'torch>=99.0'" in capsys.readouterr().out


def test_doctor_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["doctor", "--model", str(tmp_path)]) == 1
    assert "holds no model: it needs siglip/ and dinov2/" in capsys.readouterr().out
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package"])
    assert main.main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "no-such-package, for the main job: pip install no-such-package" in output


def test_doctor_says_once_that_there_is_no_ros(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    monkeypatch.setattr(ros, "probe_parts", dict)
    assert main.main(["doctor", "--model", model, "--json"]) == 0
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert [line for line in missing if "ROS 2" in line] == [
        line for line in missing if line.startswith("for the node: rclpy, which is part of ROS 2")
    ]
    assert len([line for line in missing if "rclpy" in line]) == 1


def test_doctor_names_a_part_of_ros_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    works = {"folder": "/opt/ros", "error": ""}
    parts = dict.fromkeys((*ros_probe.PARTS, *ros_probe.OPTIONAL_PARTS), works)
    broken_file = {"folder": "/opt/ros/cv_bridge", "error": "ImportError: built for another numpy"}
    monkeypatch.setattr(ros, "probe_parts", lambda: {**parts, "cv_bridge": broken_file})
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert main.main(["doctor", "--model", model, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ros"]["cv_bridge"] == "does not work: ImportError: built for another numpy"
    assert report["ros"]["rclpy"] == "installed"
    [line] = [line for line in report["missing"] if "cv_bridge" in line]
    assert line.startswith("for rare image encodings: cv_bridge, which /opt/ros/cv_bridge has and")


def doctor_with(folder: Path, package: str, content: str) -> str:
    """Return the output of doctor, which ends with 1, in a Python with a broken `package`."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(content)
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r});"
        "from siglip_perception.commands import main; sys.exit(main.main(['doctor', '--json']))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (process.returncode, process.stderr) == (1, "")
    report = json.loads(process.stdout)
    assert report["ready"] is False
    return "\n".join(report["missing"])


def test_doctor_reports_a_torch_that_does_not_import(tmp_path: Path) -> None:
    broken_file = "raise OSError('libcudart.so.12: cannot open shared object file\\nmore')"
    output = doctor_with(tmp_path, "torch", broken_file)
    assert (
        "PyTorch that starts: OSError: libcudart.so.12: cannot open shared object file;" in output
    )
    assert "more" not in output


def test_doctor_reports_a_library_built_for_another_one(tmp_path: Path) -> None:
    broken_file = "raise RuntimeError('numpy.dtype size changed, may indicate incompatibility')"
    output = doctor_with(tmp_path, "transformers", broken_file)
    assert "for the main job: RuntimeError: numpy.dtype size changed" in output


def test_an_image_file_is_read_as_the_node_reads_it(image: Path, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read_image(image).pixels, pixels)


def modules_after(statement: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after the statement."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(process.stdout.split())


def test_the_core_loads_no_ros() -> None:
    core = [
        f"siglip_perception.{path.relative_to(ROOT / 'siglip_perception').with_suffix('')}"
        for path in (ROOT / "siglip_perception").glob("*.py")
        if path.stem not in ("__init__", "demo")
    ]
    assert "siglip_perception.pipeline" in core
    loaded = modules_after(f"import {', '.join(core)}")
    assert set(core) <= loaded
    ros = {"rclpy", "sensor_msgs", "std_msgs", "siglip_perception_msgs", "ament_index_python"}
    assert not {name.split(".")[0] for name in loaded} & ros
    # Loading a model takes transformers, at seconds; the rest of the core does without it.
    assert not loaded & {"transformers", "scipy", "sympy"}


def test_help_is_quick_and_a_policys_import_light() -> None:
    heavy = {"torch", "transformers", "cv2", "rosbags"}
    parser = "import siglip_perception.commands.main as c; c.command_parser('')"
    assert not modules_after(parser) & heavy
    assert not modules_after("import siglip_perception.client") & heavy
