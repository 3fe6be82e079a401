"""The figures by hand, COCO's format, the methods that are compared, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import write_random_model
from PIL import Image

from siglip_perception.cli import main
from siglip_perception.evaluation.coco import CocoError, CocoFolder, unpack
from siglip_perception.evaluation.figures import (
    Answer,
    area_under_roc,
    breakdown,
    calibration_error,
    figures,
    judge,
)
from siglip_perception.evaluation.measure import OURS, measure
from siglip_perception.evaluation.methods import Regions, ablation, compared
from siglip_perception.evaluation.samples import Question, Truth, generated
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Box, GroundedObject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    write_random_model(made)
    return made


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.load(PipelineOptions(model=str(folder), max_objects=4, precision="fp32"))


def test_area_under_roc_by_hand() -> None:
    assert area_under_roc([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert area_under_roc([0.1], [0.9]) == 0.0
    assert area_under_roc([0.5], [0.5]) == 0.5
    assert area_under_roc([0.9, 0.3], [0.5]) == 0.5
    assert math.isnan(area_under_roc([], [0.5]))


def test_calibration_error_by_hand() -> None:
    assert calibration_error([0.99, 0.99, 0.01], [True, True, False]) == pytest.approx(0.01)
    # Two bins: half the time 0.9 and right half of it, half the time 0.1 and never.
    error = calibration_error([0.9, 0.9, 0.1, 0.1], [True, False, False, False])
    assert error == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert calibration_error([1.0], [True]) == 0.0
    assert math.isnan(calibration_error([], []))


def filled(box: Box) -> np.ndarray:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[box.y : box.y + box.height, box.x : box.x + box.width] = 1
    return mask


def published(box: Box, phrase: str = "cup", score: float = 0.9) -> GroundedObject:
    return GroundedObject(phrase, score, 0.0, box, 0.1)


def test_the_best_published_object_is_judged() -> None:
    left, right = Box(0, 0, 20, 20), Box(60, 0, 20, 20)
    question = Question(
        "cup", "en", (Truth(left, filled(left), 0.0), Truth(right, filled(right), 0.3))
    )
    near = Box(60, 0, 20, 10)
    objects = [published(near), published(Box(0, 50, 20, 20)), published(left, "plate")]
    answer = judge(question, 0.8, 3, objects, [filled(o.box) for o in objects])
    assert (answer.iou, answer.mask_iou, answer.hidden) == (0.5, 0.5, 0.3)
    assert (answer.found, answer.score, answer.presence) == (0.5, 0.9, 0.8)
    assert (answer.shown, answer.fit) == (2, 1)
    assert answer.wrong == 0.0
    nothing = judge(question, 0.2, 3, objects[2:], [filled(left)])
    assert (nothing.published, nothing.iou, nothing.mask_iou) == (False, 0.0, 0.0)
    assert nothing.wrong == 0.8
    absent = judge(Question("cup", "en", ()), 0.3, 3, objects, [filled(o.box) for o in objects])
    assert (absent.present, absent.wrong, absent.mask_iou) == (False, 0.9, None)


def answer(**changes: Any) -> Answer:
    fields: dict[str, Any] = {
        "language": "en",
        "objects": 2,
        "hidden": 0.0,
        "present": True,
        "presence": 0.9,
        "published": True,
        "score": 0.9,
        "iou": 0.8,
        "mask_iou": 0.7,
        "found": 1.0,
        "shown": 1,
        "fit": 1,
    }
    return Answer(**{**fields, **changes})


def test_figures_by_hand() -> None:
    nothing = {"hidden": None, "iou": 0.0, "mask_iou": None, "found": 0.0, "fit": 0}
    answers = [
        answer(),
        answer(language="ko", hidden=0.3, iou=0.4, mask_iou=0.3, found=0.0, shown=2, fit=0),
        answer(present=False, presence=0.2, **nothing),
        answer(**{**nothing, "present": False, "presence": 0.1, "published": False, "shown": 0}),
    ]
    found = figures(answers)
    assert (found.present, found.absent) == (2, 2)
    assert (found.top1, found.recall, found.false, found.auroc) == (0.5, 0.5, 0.5, 1.0)
    assert found.mask_iou == pytest.approx(0.5)
    assert found.precision == 0.25
    assert found.score_ece == pytest.approx(0.9 - 1 / 3)
    parts = breakdown(answers)
    assert parts["language"]["ko"].top1 == 0.0
    assert set(parts["hidden"]) == {"under 5 %", "25 % or more"}
    assert math.isnan(parts["hidden"]["under 5 %"].auroc)


def test_scenes_are_asked_for_what_they_show_and_for_as_much_that_they_do_not() -> None:
    samples = list(generated(16, 2, 4))
    assert [sample.objects for sample in samples[:4]] == [2, 3, 4, 2]
    assert any(len(q.truths) == 2 for sample in samples for q in sample.questions)  # twins
    for sample in samples:
        for language in ("en", "ko"):
            asked = [q for q in sample.questions if q.language == language]
            assert len({q.phrase for q in asked}) == len(asked)
            assert 2 * sum(bool(q.truths) for q in asked) == len(asked)
    again = next(iter(generated(1, 2, 4)))
    np.testing.assert_array_equal(again.image, samples[0].image)
    assert [q.phrase for q in again.questions] == [q.phrase for q in samples[0].questions]


def test_our_own_method_is_the_first_switch_of_the_ablation(pipeline: Pipeline) -> None:
    sample = next(iter(generated(1, 2, 2)))
    siglip, dino = pipeline.features([sample.image])
    embeddings = torch.nn.functional.normalize(torch.randn(3, siglip.shape[-1]), dim=-1)
    assert pipeline.sight is not None
    ours = pipeline.grounder.score(siglip[0], dino[0], embeddings)
    same = Regions(pipeline.sight)(siglip[0], dino[0], embeddings)
    np.testing.assert_allclose(ours.logits, same.logits, atol=1e-4)
    np.testing.assert_allclose(ours.presence(), same.presence(), atol=1e-4)


def test_every_method_answers_every_question(pipeline: Pipeline) -> None:
    assert pipeline.sight is not None
    methods = {**compared(pipeline.sight), **ablation(pipeline.sight)}
    samples = list(generated(1, 2, 3))
    measured = measure(pipeline, samples, 1, methods, keep=2)
    asked = sum(len(sample.questions) for sample in samples)
    assert {name: len(answers) for name, answers in measured.answers.items()} == dict.fromkeys(
        [OURS, *methods], asked
    )
    assert 0 < len(measured.failures) <= 2  # random weights
    # DINO alone knows no language: every phrase of a sample has the same presence.
    blind = [answer.presence for answer in measured.answers["DINO alone"]]
    assert len(set(blind)) <= len(samples)


def annotations(tmp_path: Path, **changes: Any) -> Path:
    """Two images of 20 x 10, three categories; a polygon, and packed and plain run lengths."""
    Image.new("RGB", (20, 10), (90, 90, 90)).save(tmp_path / "one.png")
    Image.new("RGB", (20, 10), (10, 90, 90)).save(tmp_path / "two.png")
    plain = {"size": [10, 20], "counts": [20, 10, 170]}
    content = {
        "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("cup", "plate", "dog"))],
        "annotations": [
            {
                "image_id": 1,
                "category_id": 0,
                "bbox": [2, 1, 4, 5],
                "segmentation": [[2, 1, 5, 1, 5, 5, 2, 5]],
            },
            {"image_id": 1, "category_id": 0, "bbox": [-3, 2, 6, 4], "segmentation": plain},
            {"image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_coco_boxes_and_masks(tmp_path: Path) -> None:
    first, second = CocoFolder(annotations(tmp_path), tmp_path, 0, 10_000)
    (cup,) = [question for question in first.questions if question.truths]
    assert (cup.phrase, first.objects, second.objects) == ("cup", 2, 0)
    assert [truth.box for truth in cup.truths] == [Box(2, 1, 4, 5), Box(0, 2, 3, 4)]
    polygon, columns = (truth.mask for truth in cup.truths)
    assert polygon is not None
    assert polygon[1:6, 2:6].all()
    assert polygon.sum() == 20
    assert columns is not None
    assert columns[:, 2].all()
    assert columns.sum() == 10
    assert all(not question.truths for question in second.questions)
    assert len(first.questions) == 2


def packed(lengths: list[int]) -> str:
    """As COCO's rleToString does it."""
    text = ""
    for index, length in enumerate(lengths):
        number = length - (lengths[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@given(st.lists(st.integers(0, 100_000), max_size=40))
def test_packed_run_lengths(lengths: list[int]) -> None:
    assert packed([29, 3, 6, 3, 6, 3, 6, 3, 22]) == "m03600000`0"
    assert unpack(packed(lengths)) == lengths


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [], "annotations": []}, "no image"),
        ({"categories": None}, "COCO's format"),
        ({"annotations": [{"image_id": 9, "category_id": 0}]}, "COCO's format"),
        ({"annotations": [{"image_id": 1, "category_id": 7}]}, "COCO's format"),
        ({"annotations": [{"image_id": 1, "category_id": 0, "bbox": [1, 2]}]}, "bbox"),
        ({"images": [{"id": 1, "file_name": "../one.png"}], "annotations": []}, "outside"),
        ({"images": [{"id": 1, "file_name": "three.png"}], "annotations": []}, "--images"),
    ],
)
def test_bad_annotations_are_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = annotations(tmp_path, **changes)
    with pytest.raises(CocoError, match=words):
        list(CocoFolder(path, tmp_path, 0, 10_000))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(CocoError, match="not JSON"):
        CocoFolder(tmp_path / "broken.json", tmp_path, 0, 10_000)


def test_the_command_measures_own_images_and_scenes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures_file, sheet, table = (tmp_path / name for name in ("f.json", "s.png", "a.md"))
    written = ["--json", str(figures_file), "--failures", str(sheet)]
    model = ["--model", str(folder), "--contract", "tabletop"]
    own = ["--coco", str(annotations(tmp_path)), "--images", str(tmp_path)]
    assert main(["evaluate", *model, *own, *written]) == 0
    parts = json.loads(figures_file.read_text())["methods"]
    assert parts[OURS]["all"]["all"]["present"] == 1
    assert set(parts) == {OURS, "SigLIP alone", "DINO alone", "max patch"}
    scenes = ["--scenes", "1", "--objects", "2", "2", "--ablation", str(table)]
    assert main(["evaluate", *model, *scenes, *written]) == 0
    parts = json.loads(figures_file.read_text())["methods"]
    assert set(parts[OURS]["language"]) == {"en", "ko"}
    assert "| dense, with MLP |" in table.read_text()
    assert "| regions of one cut |" in table.read_text()
    with Image.open(sheet) as opened:
        assert opened.width == 1920
    capsys.readouterr()
    for wrong in (["--coco", "x.json"], ["--scenes", "0"], ["--objects", "5", "2"]):
        assert main(["evaluate", *model, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_embedded_model_finds_what_is_named(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["evaluate", "--scenes", "40", "--json", str(path)]) == 0
    parts = json.loads(path.read_text())["methods"]
    for language in ("en", "ko"):
        ours = parts[OURS]["language"][language]
        assert ours["top1"] >= 0.8
        assert ours["false"] <= 0.05
        assert ours["auroc"] >= 0.95
    for name in ("SigLIP alone", "DINO alone", "max patch"):
        assert parts[OURS]["all"]["all"]["top1"] > parts[name]["all"]["all"]["top1"]
