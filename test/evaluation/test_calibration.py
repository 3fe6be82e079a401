"""Calibrating a model on somebody's pictures, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siglip_perception.checkpoints import resolve
from siglip_perception.checkpoints.calibration_file import (
    CalibrationFile,
    find_calibration,
    user_file,
    write_calibration,
)
from siglip_perception.checkpoints.grounding_settings import (
    Calibration,
    GroundingSettings,
    MeasuredOn,
)
from siglip_perception.commands.main import main
from siglip_perception.config import ModelSelection
from siglip_perception.errors import CheckpointError
from siglip_perception.evaluation.calibration import fit, fit_with_share
from siglip_perception.evaluation.platt import MeasuredQuestion, best_threshold
from siglip_perception.evaluation.reliability import Panel, reliability_picture
from siglip_perception.evaluation.samples import scene_samples
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import FloatArray, Frame

pytestmark = pytest.mark.numeric

LINES = {"en": Calibration(4.0, -8.0, 0.4)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def write_pictures(folder: Path, count: int) -> Path:
    """COCO annotations of generated scenes, with their pictures beside."""
    folder.mkdir(parents=True)
    names: dict[str, int] = {}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, sample in enumerate(scene_samples(count, 3, 5, 6_100_000)):
        Image.fromarray(sample.image).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for question in sample.questions:
            if question.language != "en":
                continue
            category = names.setdefault(question.phrase, len(names) + 1)
            for truth in question.truths:
                box = truth.box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        "bbox": [box.x, box.y, box.width, box.height],
                    }
                )
    categories = [{"id": number, "name": name} for name, number in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_the_command_calibrates_a_model_in_the_users_folder(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, picture = write_pictures(tmp_path / "mine", 10), tmp_path / "r.png"
    assert main(["calibrate", "--coco", str(mine), "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("en: scale ")
    (written,) = (home / "siglip_perception" / "calibrations").iterdir()
    assert f"wrote {written} and {picture}" in out
    assert Image.open(picture).size[0] > 900  # before and after
    content = json.loads(written.read_text())
    assert content["pictures"] == 10
    pipeline = Pipeline.load(ModelSelection(device="cpu", precision="fp32"))
    line = pipeline.grounder.settings.calibration["en"]
    assert pipeline.thresholds["en"] == line.threshold == content["calibration"]["en"]["threshold"]
    assert f"best threshold {line.threshold:.2f}" in out
    assert len(content["phrases"]) > 10
    assert len(content["picture_range"]) == 3
    assert line.scale == pytest.approx(content["calibration"]["en"]["scale"])


def test_too_few_objects_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = write_pictures(tmp_path / "mine", 1)
    assert main(["calibrate", "--coco", str(mine), "--picture", str(tmp_path / "r.png")]) == 2
    error = capsys.readouterr().err
    assert "3 present and 3 absent phrases, and 20 of each are needed" in error or (
        "too little to calibrate on" in error
    )
    assert not (tmp_path / "r.png").exists()


def test_a_calibration_lies_beside_the_model_and_belongs_to_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    path = write_calibration(model, "a" * 64, CalibrationFile(LINES, True), pictures=20)
    assert path == model / "calibration.json"
    assert find_calibration(model, "a" * 64) == CalibrationFile(LINES, True)
    assert find_calibration(model, "b" * 64) is None
    assert "measured on other weights" in caplog.text


def test_a_calibration_keeps_what_it_was_measured_on(tmp_path: Path) -> None:
    measured = CalibrationFile(LINES, True, MeasuredOn(("red cup",), (0.25, 0.5, 0.125)))
    write_calibration(tmp_path, "a" * 64, measured, pictures=20)
    assert find_calibration(tmp_path, "a" * 64) == measured


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"head_mlp": 1}, "head_mlp in .*calibration.json is 1 and must be true or false"),
        ({"calibration": {}}, "calibration in .*calibration.json is {} and must be of some"),
        ({"calibration": {"en": {"scale": 0}}}, "calibration.en.scale in .*calibration.json"),
        ({"phrases": "cup"}, "phrases in .* must be a list of texts"),
        ({"picture_range": [1, 2]}, "picture_range in .* must be a list of three numbers"),
        ({"picture_range": [1, 2, "x"]}, "picture_range in .* a number"),
    ],
)
def test_a_calibration_that_is_none_is_named(
    content: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = write_calibration(tmp_path, "a" * 64, CalibrationFile(LINES, True))
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(CheckpointError, match=words) as error:
        find_calibration(tmp_path, "a" * 64)
    assert str(error.value).endswith("remove it, or run siglip-perception calibrate again.")


def test_a_user_without_a_home_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert find_calibration(tmp_path, "a" * 64) is None
    path = write_calibration(tmp_path, "a" * 64, CalibrationFile(LINES, True))
    assert path == tmp_path / "calibration.json"


def test_the_threshold_of_a_language_is_applied_and_one_that_is_set_goes_before_it() -> None:
    options = ModelSelection(device="cpu", precision="fp32")
    pipeline = Pipeline.load(options)
    assert pipeline.grounding_model is not None
    digest, lines = (
        pipeline.grounding_model.grounding_digest,
        pipeline.grounder.settings.calibration,
    )
    assert pipeline.thresholds == {"en": 0.5, "ko": 0.5}
    strict = Calibration(lines["en"].scale, lines["en"].bias, 1 - 1e-9)
    write_calibration(resolve("tabletop"), digest, CalibrationFile({"en": strict}, True))
    calibrated = Pipeline.load(options)
    assert calibrated.thresholds == {"en": 1 - 1e-9, "ko": 0.5}
    assert calibrated.grounder.settings.calibration["ko"] == lines["ko"]  # not measured: kept
    (sample,) = scene_samples(1, 3, 3, 6_200_000)
    phrases = [question.phrase for question in sample.questions if question.truths]

    def languages() -> set[str]:
        query = calibrated.query(from_phrases(phrases))
        grounding = calibrated.process(Frame(sample.image), query, with_tokens=False).grounding
        assert grounding is not None
        return {"en" if item.phrase.isascii() else "ko" for item in grounding.objects}

    assert languages() == {"ko"}
    calibrated.threshold = 0.5
    assert languages() == {"en", "ko"}
    assert calibrated.thresholds == {"en": 0.5, "ko": 0.5}


def test_where_the_model_cannot_be_written_it_lies_in_the_users_folder(tmp_path: Path) -> None:
    file_in_the_way = tmp_path / "model"
    file_in_the_way.write_text("no folder")
    path = write_calibration(file_in_the_way, "a" * 64, CalibrationFile(LINES, False))
    assert path == user_file("a" * 64)
    (tmp_path / "other").mkdir()
    assert find_calibration(tmp_path / "other", "a" * 64) == CalibrationFile(LINES, False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"calibration": {"en": {"scale": -1.0, "bias": 0.0}}}, "calibration.en.scale"),
        ({"calibration": {"en": {"scale": 1.0, "bias": "x"}}}, "calibration.en.bias"),
        ({"calibration": {"en": {"scale": 1.0, "bias": 0, "threshold": 1.5}}}, "threshold"),
        ({"calibration": [1]}, "calibration"),
        ({"head_mlp": 1}, "head_mlp"),
        ({"templates": {"en": ["no place"]}}, "templates.en"),
    ],
)
def test_settings_that_are_none_are_named(content: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        GroundingSettings.from_mapping(content)


def test_the_best_threshold_is_that_of_the_greatest_f1() -> None:
    probability = np.array([0.9, 0.8, 0.6, 0.3], np.float32)
    # Above 0.7: both true ones, F1 1.
    assert best_threshold(probability, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0.7)
    # All but the last: 3 of 3 true ones.
    assert best_threshold(probability, np.array([1.0, 1.0, 1.0, 0.0])) == pytest.approx(0.45)


def test_the_share_of_the_whole_image_is_the_one_that_predicts_best() -> None:
    rng = np.random.default_rng(0)
    truths = (np.arange(200) % 2).astype(np.float32)
    told, untold = (
        (truths * height + rng.normal(0, 0.5, 200)).astype(np.float32) for height in (2, 0)
    )

    def share(region: FloatArray, image: FloatArray) -> float:
        questions = [
            MeasuredQuestion("cup", "en", float(r), float(i), 0.5, float(t), n // 4)
            for n, (r, i, t) in enumerate(zip(region, image, truths, strict=True))
        ]
        line, _ = fit_with_share(questions, truths, [q.sample for q in questions])
        assert line is not None
        return line.image_share

    assert share(untold, told) == 1.0
    assert share(told, untold - 5) == 0.0
    assert share(told, told) == 0.0  # where both tell the same, the regions do


def test_a_standing_that_tells_nothing_has_no_line() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    assert fit(values, np.array([1.0, 1.0, 0.0, 0.0], np.float32)) is None


def test_a_reliability_picture_has_a_panel_for_each() -> None:
    panel = Panel("en, before", [0.1, 0.9, 0.8], [False, True, False])
    one, two = reliability_picture([panel]), reliability_picture([panel, panel])
    assert two.shape[1] > one.shape[1]
    assert one.dtype == np.uint8
