"""Public benchmarks on hand-made folders of their published layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score  # type: ignore[import-untyped]

from siglip_perception.commands.main import main
from siglip_perception.contracts.steps import SQUASH
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError
from siglip_perception.evaluation.benchmarks.ade20k import (
    Ade20k,
    ConfusionCounts,
    classify_pixels,
)
from siglip_perception.evaluation.benchmarks.lvis import Lvis
from siglip_perception.evaluation.benchmarks.refcoco import (
    Accuracy,
    Expression,
    RefCoco,
    overlap,
)
from siglip_perception.evaluation.samples import Sample, scene_samples
from siglip_perception.grounding.scores import Scores
from siglip_perception.images.geometry import Geometry
from siglip_perception.types import Box, GroundedObject

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A scene of three objects, asked for in English."""
    (scene,) = scene_samples(1, 3, 3, 6_400_000)
    return scene


def truths(sample: Sample) -> dict[str, tuple[Box, Any]]:
    return {
        question.phrase: (question.truths[0].box, question.truths[0].mask)
        for question in sample.questions
        if question.language == "en" and question.truths
    }


# --- ADE20K


def write_ade20k(folder: Path, sample: Sample) -> Path:
    """Classes 1 to 3 are the scene's objects, the others are of no image."""
    objects = truths(sample)
    names = [*objects, *(f"thing number {number}" for number in range(150 - len(objects)))]
    rows = [f"{n}\t0.1\t10\t10\t0\t{name}, synonym" for n, name in enumerate(names, start=1)]
    for part in ("images", "annotations"):
        (folder / part / "validation").mkdir(parents=True)
    header = "Idx\tRatio\tTrain\tVal\tStuff\tName"
    (folder / "objectInfo150.txt").write_text("\n".join([header, *rows]) + "\n")
    labels = np.zeros(sample.image.shape[:2], np.uint8)
    for number, (_, mask) in enumerate(objects.values(), start=1):
        labels[mask > 0] = number
    Image.fromarray(sample.image).save(folder / "images/validation/ADE_val_00000001.jpg")
    Image.fromarray(labels).save(folder / "annotations/validation/ADE_val_00000001.png")
    return folder


def test_mean_iou_is_that_of_all_images_together() -> None:
    # Class 1: 2 of 3 pixels, union 4. Class 2: 1 of 1, union 2. A pixel is not labeled.
    truth = np.array([[1, 1, 1, 2, 0]], np.uint8)
    prediction = np.array([[1, 1, 2, 2, 1]], np.uint8)
    counts = ConfusionCounts(4)
    counts.add(truth, prediction)
    assert counts.metrics() == {
        "mIoU": pytest.approx((2 / 3 + 1 / 2) / 2),
        "mAcc": pytest.approx((2 / 3 + 1) / 2),
        "aAcc": pytest.approx(3 / 4),
    }
    counts.add(np.array([[3]], np.uint8), np.array([[1]], np.uint8))
    assert counts.metrics()["mIoU"] == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)


def test_mean_iou_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    counts, pairs = ConfusionCounts(6), []
    for _ in range(3):
        truth, prediction = rng.integers(0, 7, (20, 30)), rng.integers(1, 7, (20, 30))
        counts.add(truth.astype(np.uint8), prediction.astype(np.uint8))
        pairs.append((truth[truth > 0], prediction[truth > 0]))
    true, given = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    assert counts.metrics()["mIoU"] == pytest.approx(jaccard_score(true, given, average="macro"))


def test_a_pixel_gets_the_class_of_its_best_region_or_of_the_whole_image() -> None:
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, :, 0] = 1  # the left half
    scores = Scores(maps, np.array([[3.0], [1.0]], np.float32), np.array([-2.0, -1.0], np.float32))
    labels = classify_pixels(scores, Geometry.of(SQUASH, 2, 4, 4), 1)
    assert (labels[:, 0] == 1).all()
    assert (labels[:, 3] == 2).all()


def test_evaluate_ade20k(
    tmp_path: Path, sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_ade20k(tmp_path / "ADEChallengeData2016", sample)
    out = tmp_path / "ade.json"
    assert (
        main(["evaluate", "--ade20k", str(folder), "--precision", "fp32", "--json", str(out)]) == 0
    )
    content = json.loads(out.read_text())
    # Only labeled pixels count, and most of those are found; by chance it would be under 1 %.
    assert content["figures"]["aAcc"] > 0.5
    assert content["published"][1]["figures"] == {"mIoU": 0.202}
    printed = capsys.readouterr().out
    assert "ProxyCLIP, CLIP-B/16" in printed
    assert f"{content['figures']['mIoU']:.1%}" in printed


def test_an_ade20k_of_another_layout_is_named(tmp_path: Path, sample: Sample) -> None:
    with pytest.raises(DatasetError, match=r"objectInfo150\.txt is missing"):
        Ade20k(tmp_path, SkipReport())
    folder = write_ade20k(tmp_path / "ade", sample)
    report = SkipReport()
    Image.new("L", (3, 3)).save(folder / "annotations/validation/ADE_val_00000001.png")
    with pytest.raises(DatasetError, match="No image of"):
        list(Ade20k(folder, report))
    assert report.skip_counts == {"annotation of another size": 1}
    lines = (folder / "objectInfo150.txt").read_text().splitlines()
    (folder / "objectInfo150.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(DatasetError, match="names 149 classes"):
        Ade20k(folder, SkipReport())


# --- LVIS


def write_lvis(folder: Path, sample: Sample) -> Path:
    """The scene, of val2017, with a category that is not judged and one that is not there."""
    (folder / "val2017").mkdir(parents=True)
    Image.fromarray(sample.image).save(folder / "val2017/000000000001.jpg")
    objects = truths(sample)
    names = [*objects, "green banana", "purple bottle"]
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "bbox": [box.x, box.y, box.width, box.height],
            "area": box.width * box.height,
            "segmentation": [],
        }
        for number, (box, _) in enumerate(objects.values(), start=1)
    ]
    height, width = sample.image.shape[:2]
    image = {
        "id": 1,
        "width": width,
        "height": height,
        "coco_url": "http://images.cocodataset.org/val2017/000000000001.jpg",
        "neg_category_ids": [len(names)],
        "not_exhaustive_category_ids": [],
    }
    categories = [
        {"id": n, "name": name.replace(" ", "_"), "frequency": "rcf"[n % 3]}
        for n, name in enumerate(names, start=1)
    ]
    content = {"images": [image], "annotations": annotations, "categories": categories}
    (folder / "lvis_v1_val.json").write_text(json.dumps(content))
    return folder


def detection(phrase: str, score: float, box: Box) -> GroundedObject:
    return GroundedObject(phrase, score, 0.0, box, 0.1)


def test_lvis_judges_a_category_only_where_the_image_says_so(
    tmp_path: Path, sample: Sample
) -> None:
    objects = truths(sample)
    data = Lvis(write_lvis(tmp_path, sample), SkipReport())
    (image,) = data
    first, *rest = objects
    data.add(
        image,
        [
            # Its true box comes after a false one: a precision of 1/2 at every recall.
            detection(first, 0.9, Box(0, 0, 5, 5)),
            detection(first, 0.8, objects[first][0]),
            *(detection(phrase, 0.9, objects[phrase][0]) for phrase in rest),
            detection("green banana", 0.9, Box(0, 0, 9, 9)),  # neither there nor negative
        ],
    )
    figures = data.metrics()
    assert figures["AP"] == pytest.approx((0.5 + len(rest)) / len(objects), abs=1e-6)
    # Category 1 is common, 2 frequent and 3 rare.
    assert figures["APc"] == pytest.approx(0.5, abs=1e-6)
    assert figures["APf"] == figures["APr"] == pytest.approx(1.0)


def test_evaluate_lvis(tmp_path: Path, sample: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_lvis(tmp_path / "lvis", sample), tmp_path / "lvis.json"
    assert (
        main(["evaluate", "--lvis", str(folder), "--precision", "fp32", "--json", str(out)]) == 0
    )
    figures = json.loads(out.read_text())["figures"]
    assert figures["AP50"] > 0.6
    assert "OWL-ViT, L/14" in capsys.readouterr().out


def test_an_lvis_of_another_layout_is_named(tmp_path: Path, sample: Sample) -> None:
    with pytest.raises(DatasetError, match=r"lvis_v1_val\.json is missing"):
        Lvis(tmp_path, SkipReport())
    path = write_lvis(tmp_path / "lvis", sample) / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    del content["categories"][0]["frequency"]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"categories\[0\] has no frequency"):
        Lvis(path.parent, SkipReport())


# --- RefCOCO


def write_refcoco(folder: Path, sample: Sample) -> Path:
    """Two objects of the scene, one in the training's split, in refer's layout."""
    data, images = folder / "refcoco", folder / "images/mscoco/images/train2014"
    data.mkdir(parents=True)
    images.mkdir(parents=True)
    name = "COCO_train2014_000000000001.jpg"
    Image.fromarray(sample.image).save(images / name)
    objects = truths(sample)
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [box.x, box.y, box.width, box.height]}
        for n, (box, _) in enumerate(objects.values(), start=1)
    ]
    instances = {"images": [{"id": 1, "file_name": name}], "annotations": annotations}
    (data / "instances.json").write_text(json.dumps(instances))
    refs = [
        {
            "ref_id": n,
            "ann_id": n,
            "image_id": 1,
            "category_id": 1,
            "split": ("val", "testA", "train")[n % 3],
            "file_name": f"COCO_train2014_000000000001_{n}.jpg",
            "sent_ids": [n],
            "sentences": [{"sent": f"the {phrase}", "sent_id": n, "raw": phrase, "tokens": []}],
        }
        for n, phrase in enumerate(objects, start=1)
    ]
    (data / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return data


def test_an_expression_is_right_from_an_iou_of_a_half() -> None:
    assert overlap(Box(0, 0, 2, 1), (0.0, 0.0, 1.0, 1.0)) == 0.5
    accuracy = Accuracy()
    accuracy.add(Expression("cup", "val", (0.0, 0.0, 1.0, 1.0)), Box(0, 0, 2, 1))
    accuracy.add(Expression("cup", "val", (0.0, 0.0, 0.9, 1.0)), Box(0, 0, 2, 1))
    accuracy.add(Expression("cup", "testA", (0.0, 0.0, 1.0, 1.0)), None)
    assert accuracy.metrics() == {"testA": 0.0, "val": 0.5}


def test_evaluate_refcoco(
    tmp_path: Path, sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_refcoco(tmp_path, sample), tmp_path / "ref.json"
    arguments = ["evaluate", "--refcoco", str(folder), "--precision", "fp32", "--json", str(out)]
    assert main(arguments) == 0
    assert json.loads(out.read_text())["figures"] == {"testA": 1.0, "val": 1.0}
    assert "MDETR, fine-tuned, R101" in capsys.readouterr().out


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("this would have been run",))


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_refcoco(tmp_path, sample)
    (folder / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(DatasetError, match=r"it holds builtins\.print, which is no text"):
        RefCoco(folder, None, SkipReport())
    assert not capsys.readouterr().out


def test_two_benchmarks_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--ade20k", str(tmp_path), "--lvis", str(tmp_path)]
    assert main(arguments) == 2
    assert "--lvis has no effect with --ade20k" in capsys.readouterr().err
