"""Metrics computed by hand, the baselines, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import write_annotations
from models import write_random_model
from PIL import Image

from siglip_perception.commands.main import main
from siglip_perception.config import ModelSelection
from siglip_perception.datasets.class_names import read_classes
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.baselines import Regions, ablation, baselines
from siglip_perception.evaluation.measure import PIPELINE_METHOD, measure
from siglip_perception.evaluation.metrics import (
    Answer,
    area_under_roc,
    breakdown,
    calibration_error,
    compute_metrics,
    judge,
)
from siglip_perception.evaluation.samples import Question, Truth, scene_samples
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Box, GroundedObject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.load(
        ModelSelection(str(folder), precision="fp32"), PipelineOptions(max_objects=4)
    )


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


def box_mask(box: Box) -> np.ndarray:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[box.y : box.y + box.height, box.x : box.x + box.width] = 1
    return mask


def detection(box: Box, phrase: str = "cup", score: float = 0.9) -> GroundedObject:
    return GroundedObject(phrase, score, 0.0, box, 0.1)


def test_the_best_published_object_is_judged() -> None:
    left_box, right_box = Box(0, 0, 20, 20), Box(60, 0, 20, 20)
    question = Question(
        "cup",
        "en",
        (Truth(left_box, box_mask(left_box), 0.0), Truth(right_box, box_mask(right_box), 0.3)),
    )
    near = Box(60, 0, 20, 10)
    objects = [detection(near), detection(Box(0, 50, 20, 20)), detection(left_box, "plate")]
    answer = judge(question, 0.8, 3, objects, [box_mask(o.box) for o in objects])
    assert (answer.iou, answer.mask_iou, answer.occlusion) == (0.5, 0.5, 0.3)
    assert (answer.recall, answer.score, answer.presence) == (0.5, 0.9, 0.8)
    assert (answer.detections, answer.true_positives) == (2, 1)
    assert answer.size == 0.04
    assert answer.wrong == 0.0
    no_result = judge(question, 0.2, 3, objects[2:], [box_mask(left_box)])
    assert (no_result.detected, no_result.iou, no_result.mask_iou) == (False, 0.0, 0.0)
    assert no_result.wrong == 0.8
    question = Question("cup", "en", (), "other kind")
    absent = judge(question, 0.3, 3, objects, [box_mask(o.box) for o in objects])
    assert (absent.present, absent.wrong, absent.mask_iou) == (False, 0.9, None)
    assert (absent.size, absent.miss) == (None, "other kind")


def answer(**changes: Any) -> Answer:
    fields: dict[str, Any] = {
        "language": "en",
        "objects": 2,
        "occlusion": 0.0,
        "present": True,
        "presence": 0.9,
        "detected": True,
        "score": 0.9,
        "iou": 0.8,
        "mask_iou": 0.7,
        "recall": 1.0,
        "detections": 1,
        "true_positives": 1,
    }
    return Answer(**{**fields, **changes})


def test_figures_by_hand() -> None:
    no_result = {
        "occlusion": None,
        "iou": 0.0,
        "mask_iou": None,
        "recall": 0.0,
        "true_positives": 0,
    }
    answers = [
        answer(),
        answer(
            language="ko",
            occlusion=0.3,
            size=0.007,
            iou=0.4,
            mask_iou=0.3,
            recall=0.0,
            detections=2,
            true_positives=0,
        ),
        answer(present=False, presence=0.2, miss="swapped", **no_result),
        answer(
            **{**no_result, "present": False, "presence": 0.1, "detected": False, "detections": 0}
        ),
    ]
    actual = compute_metrics(answers)
    assert (actual.present, actual.absent) == (2, 2)
    assert (actual.top1, actual.recall, actual.false, actual.auroc) == (0.5, 0.5, 0.5, 1.0)
    assert actual.mask_iou == pytest.approx(0.5)
    assert actual.precision == 0.25
    assert actual.score_ece == pytest.approx(0.9 - 1 / 3)
    parts = breakdown(answers)
    assert parts["language"]["ko"].top1 == 0.0
    assert set(parts["hidden"]) == {"under 5 %", "25 % or more"}
    assert math.isnan(parts["hidden"]["under 5 %"].auroc)
    assert {name: row.top1 for name, row in parts["picture"].items()} == {"0.5 to 1 %": 0.0}
    assert {name: row.false for name, row in parts["absent"].items()} == {"swapped": 1.0}


def test_scenes_are_asked_for_what_they_show_and_for_as_much_that_they_do_not() -> None:
    samples = list(scene_samples(16, 2, 4))
    assert [sample.objects for sample in samples[:4]] == [2, 3, 4, 2]
    assert any(len(q.truths) == 2 for sample in samples for q in sample.questions)  # twins
    for sample in samples:
        for language in ("en", "ko"):
            question_count = [q for q in sample.questions if q.language == language]
            assert len({q.phrase for q in question_count}) == len(question_count)
            assert 2 * sum(bool(q.truths) for q in question_count) == len(question_count)
    again = next(iter(scene_samples(1, 2, 4)))
    np.testing.assert_array_equal(again.image, samples[0].image)
    assert [q.phrase for q in again.questions] == [q.phrase for q in samples[0].questions]


def test_an_absent_phrase_says_what_it_misses() -> None:
    misses = set()
    for sample in scene_samples(16, 2, 4):
        words = [q.phrase.split() for q in sample.questions if q.language == "en" and q.truths]
        colors, kinds = {color for color, _ in words}, {kind for _, kind in words}
        for question in sample.questions:
            if question.language == "en" and not question.truths:
                color, kind = question.phrase.split()
                expected = {
                    (True, True): "swapped",
                    (True, False): "other kind",
                    (False, True): "other color",
                    (False, False): "far",
                }[color in colors, kind in kinds]
                assert question.miss == expected
                misses.add(question.miss)
    assert misses == {"swapped", "other kind", "other color", "far"}


def test_our_own_method_is_the_first_switch_of_the_ablation(pipeline: Pipeline) -> None:
    sample = next(iter(scene_samples(1, 2, 2)))
    siglip, dino = pipeline.features([sample.image])
    embeddings = torch.nn.functional.normalize(torch.randn(3, siglip.shape[-1]), dim=-1)
    assert pipeline.grounding_model is not None
    scores = pipeline.grounder.score(siglip[0], dino[0], embeddings)
    direct_scores = Regions(pipeline.grounding_model)(siglip[0], dino[0], embeddings)
    np.testing.assert_allclose(scores.logits, direct_scores.logits, atol=1e-4)
    np.testing.assert_allclose(scores.presence(), direct_scores.presence(), atol=1e-4)


def test_every_method_answers_every_question(pipeline: Pipeline) -> None:
    assert pipeline.grounding_model is not None
    methods = {**baselines(pipeline.grounding_model), **ablation(pipeline.grounding_model)}
    samples = list(scene_samples(1, 2, 3))
    measurement = measure(pipeline, samples, 1, methods, keep=2)
    question_count = sum(len(sample.questions) for sample in samples)
    assert {name: len(answers) for name, answers in measurement.answers.items()} == dict.fromkeys(
        [PIPELINE_METHOD, *methods], question_count
    )
    assert 0 < len(measurement.failures) <= 2  # random weights
    # DINO alone knows no language: every phrase of a sample has the same presence.
    blind = [answer.presence for answer in measurement.answers["DINO alone"]]
    assert len(set(blind)) <= len(samples)


def test_the_command_measures_own_images_and_scenes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures_file, sheet, table = (tmp_path / name for name in ("f.json", "s.png", "a.md"))
    options = ["--json", str(figures_file), "--failures", str(sheet)]
    model = ["--model", str(folder), "--contract", "tabletop"]
    boxes = write_annotations(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "three.png")
    content = json.loads(boxes.read_text())
    content["images"] += [{"id": 3, "file_name": "three.png"}, {"id": 4, "file_name": "four.png"}]
    boxes.write_text(json.dumps(content))
    (tmp_path / "three.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    own_options = ["--coco", str(boxes), "--images", str(tmp_path)]
    assert main(["evaluate", *model, *own_options, *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert any(line.startswith("COCO's AP 0.0") for line in out)
    end = out[out.index("left out: 2") :]
    assert [line for line in end if "three.png" in line or "four.png" in line]
    measurement = json.loads(figures_file.read_text())
    assert measurement["left_out"]["total"] == 2
    assert measurement["left_out"]["skipped"]["picture missing"]["items"][0]["name"] == "four.png"
    assert set(measurement["coco"]) == {"AP", "AP50", "AP75"}  # the crowd has no mask
    assert measurement["measured_on"] == f"2 images of {boxes}"
    parts = measurement["methods"]
    assert parts[PIPELINE_METHOD]["all"]["all"]["present"] == 1
    assert set(parts) == {
        *(PIPELINE_METHOD, "SigLIP alone", "DINO alone", "max patch", "ProxyCLIP"),
        *("value path (MaskCLIP)", "self-correlation (RADSeg)"),
    }
    scenes = ["--scenes", "1", "--objects", "2", "2", "--ablation", str(table)]
    assert main(["evaluate", *model, *scenes, *options]) == 0
    parts = json.loads(figures_file.read_text())["methods"]
    assert set(parts[PIPELINE_METHOD]["language"]) == {"en", "ko"}
    assert "| dense, with MLP |" in table.read_text()
    assert "| regions of one cut |" in table.read_text()
    with Image.open(sheet) as picture:
        assert picture.width == 1920
    capsys.readouterr()
    for wrong, words in (
        (["--coco", "x.json"], "x.json"),
        (["--coco", str(tmp_path)], "boxes.json"),
        ([*own_options, "--strict"], "four.png"),
        (["--images", str(tmp_path)], "--coco"),
        (["--seed", "-1"], "--seed"),
        (["--scenes", "0"], "--scenes"),
        (["--objects", "5", "2"], "--objects"),
    ):
        # The data are looked at before the model, which is not there.
        assert main(["evaluate", "--model", "none", *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.mark.numeric
@pytest.mark.slow
def test_the_embedded_model_finds_what_is_named(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["evaluate", "--scenes", "40", "--json", str(path)]) == 0
    parts = json.loads(path.read_text())["methods"]
    for language in ("en", "ko"):
        row = parts[PIPELINE_METHOD]["language"][language]
        assert row["top1"] >= 0.8
        assert row["false"] <= 0.05
        assert row["auroc"] >= 0.95
    for name in ("SigLIP alone", "DINO alone", "max patch"):
        assert parts[PIPELINE_METHOD]["all"]["all"]["top1"] > parts[name]["all"]["all"]["top1"]


def test_classes_are_two_or_more_and_each_counts_once(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(" red  cup\n\ncup\nred cup\n")
    assert read_classes(tmp_path / "classes.txt") == ("red cup", "cup")
    (tmp_path / "one.txt").write_text("cup\ncup\n")
    with pytest.raises(PerceptionError, match=r"one\.txt has to list two or more classes"):
        read_classes(tmp_path / "one.txt")
