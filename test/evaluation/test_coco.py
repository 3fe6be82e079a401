"""COCO annotations with real-world defects, each in the smallest file that shows it."""

from __future__ import annotations

import copy
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import HEIGHT, PLAIN, POLYGON, WIDTH, content, write_annotations
from faster_coco_eval.core import mask as coco_masks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.evaluation.average_precision import Detections
from siglip_perception.evaluation.coco import CocoError, CocoFolder
from siglip_perception.evaluation.coco_masks import (
    SegmentationError,
    decode_segmentation,
    evaluation_library,
)
from siglip_perception.evaluation.samples import Question, Sample, Truth
from siglip_perception.types import Box, GroundedObject, UInt8Array


def read(path: Path, images: Path | None = None) -> tuple[list[Sample], SkipReport]:
    report = SkipReport()
    return list(CocoFolder(path, images or path.parent, 0, 10_000, report)), report


def one_box(tmp_path: Path, **changes: Any) -> tuple[tuple[Truth, ...], SkipReport]:
    """Read the cup from a file with one annotation, with some keys changed."""
    entry = {**content()["annotations"][0], **changes}
    samples, report = read(write_annotations(tmp_path, annotations=[entry]))
    return tuple(t for q in samples[0].questions for t in q.truths), report


def test_boxes_masks_and_crowds(tmp_path: Path) -> None:
    (first, second), report = read(write_annotations(tmp_path))
    (cup,) = [question for question in first.questions if question.truths]
    assert (cup.phrase, first.objects, second.objects) == ("cup", 2, 0)
    assert [truth.box for truth in cup.truths] == [Box(2, 1, 4, 5), Box(0, 2, 3, 4)]
    assert cup.truths[1].exact == (0.0, 2.0, 3.0, 4.0)
    polygon, columns = [truth.mask for truth in cup.truths]
    assert polygon is not None
    assert polygon[1:6, 2:6].all()
    assert polygon.sum() == 20
    assert columns is not None
    assert columns[:, 2].all()
    assert columns.sum() == 10
    # A crowd of dogs: whether there is a dog is not asked.
    assert [q.phrase for q in first.questions] == ["cup", "plate"]
    assert [(phrase, truth.box) for phrase, truth in first.crowds] == [("dog", Box(0, 0, 9, 9))]
    assert all(not question.truths for question in second.questions)
    assert report.lines() == []


PACKED_RLE = coco_masks.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))["counts"]


@pytest.mark.parametrize(
    ("segmentation", "pixels"),
    [
        ([POLYGON], 20),
        (POLYGON, 20),
        ([[2, 1], [6, 1], [6, 6], [2, 6]], 20),
        ([[[2, 1], [6, 1], [6, 6], [2, 6]]], 20),
        ([POLYGON, [10, 0, 12, 0, 12, 2, 10, 2]], 24),
        (PLAIN, 10),
        ({"size": [HEIGHT, WIDTH], "counts": [20.0, 10, 170]}, 10),
        ({"size": [HEIGHT, WIDTH], "counts": PACKED_RLE.decode()}, 10),
        ({"size": [HEIGHT, WIDTH], "counts": PACKED_RLE}, 10),
        ([], None),
        (None, None),
    ],
)
def test_segmentations(segmentation: Any, pixels: int | None) -> None:
    mask = decode_segmentation(segmentation, WIDTH, HEIGHT)
    assert (None if mask is None else int(mask.sum())) == pixels
    assert mask is None or mask.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (POLYGON[:-1], "odd number"),
        ([POLYGON[:-1]], "odd number"),
        ([POLYGON[:4]], "fewer than three points"),  # the library takes four numbers for a box
        ([[]], "fewer than three points"),
        ([[2, 1, 6, 1, 6, float("nan")]], "not finite"),
        ([[2, 1, 6, 1, 6, 10**400]], "not finite"),
        ([[2, 1, 6, 1, 6, 1e9]], "far outside"),
        ([[2, 1, 6, 1, 6, "6"]], "not numbers"),
        ([POLYGON, None], "not numbers"),
        ([[2, 1, 4, 1, 6, 1]], "covers no pixel"),
        ("polygon", "neither polygons nor run lengths"),
        ({}, "size is not [height, width]"),
        ({**PLAIN, "size": [WIDTH, HEIGHT]}, "size is not the picture's"),
        ({**PLAIN, "size": [10**9, 10**9]}, "size is not the picture's"),
        ({**PLAIN, "counts": [20, 10, 171]}, "do not add up"),
        ({**PLAIN, "counts": [20, 10, 169]}, "do not add up"),
        ({**PLAIN, "counts": [20, -10, 190]}, "whole numbers"),
        ({**PLAIN, "counts": [20, 10.5, 169.5]}, "whole numbers"),
        ({**PLAIN, "counts": [20, True, 179]}, "whole numbers"),
        ({**PLAIN, "counts": [200]}, "covers no pixel"),
        ({**PLAIN, "counts": None}, "neither numbers nor packed"),
        ({**PLAIN, "counts": "\u2603"}, "neither numbers nor packed"),
        ({**PLAIN, "counts": ""}, "packed counts are broken"),
        ({**PLAIN, "counts": "52"}, "packed counts are broken"),  # ends too early
        ({**PLAIN, "counts": "`6`6`6`6"}, "packed counts are broken"),  # runs over
        ({**PLAIN, "counts": "ooo"}, "packed counts are broken"),
    ],
)
def test_a_bad_segmentation_is_named_and_its_box_is_used(
    tmp_path: Path, segmentation: Any, reason: str
) -> None:
    with pytest.raises(SegmentationError) as excinfo:
        decode_segmentation(segmentation, WIDTH, HEIGHT)
    assert reason in excinfo.value.reason
    (truth,), report = one_box(tmp_path, segmentation=segmentation)
    assert (truth.box, truth.mask) == (Box(2, 1, 4, 5), None)
    (skip_reason,) = report.skip_counts
    assert skip_reason == f"{excinfo.value.reason}; the bbox is used"
    assert report.names(skip_reason) == ["boxes.json, annotation 11"]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([2, 1, float("nan"), 5], "bbox is not finite"),
        ([2, 1, float("inf"), 5], "bbox is not finite"),
        ([2, 1, 10**400, 5], "bbox is not finite"),
        ([2, 1, -4, 5], "bbox has no area"),
        ([2, 1, 0, 5], "bbox has no area"),
        ([50, 1, 4, 5], "bbox lies outside of the picture"),
        ([-9, 1, 4, 5], "bbox lies outside of the picture"),
        ([0.1, 0.1, 0.3, 0.3], "bbox is smaller than a pixel"),
        ("2,1,4,5", "bbox is not four numbers"),
        ([2, 1, 4], "bbox is not four numbers"),
        ([2, 1, 4, True], "bbox is not four numbers"),
        ([2, 1, 4, None], "bbox is not four numbers"),
        ([2, 1, 4, "wide"], "bbox is not four numbers"),
        ([[2, 1, 4, 5]], "bbox is not four numbers"),
        ({"x": 2}, "bbox is not four numbers"),
    ],
)
def test_a_bad_box_is_left_out_and_its_category_is_not_asked_for(
    tmp_path: Path, box: Any, reason: str
) -> None:
    truths, report = one_box(tmp_path, bbox=box)
    assert truths == ()
    assert report.skip_counts == {reason: 1}
    assert report.names(reason) == ["boxes.json, annotation 11"]
    (first, _), _ = read(tmp_path / "boxes.json")
    assert "cup" not in {q.phrase for q in first.questions}
    assert first.unsure == {"cup"}


def test_boxes_that_are_numbers_all_the_same(tmp_path: Path) -> None:
    (truth,), report = one_box(tmp_path, bbox=["2", "1.0", 4, 5.0])
    assert (truth.box, report.total) == (Box(2, 1, 4, 5), 0)
    (truth,), _ = one_box(tmp_path, bbox=[2, 1, 1e308, 1e308])
    assert truth.box == Box(2, 1, WIDTH - 2, HEIGHT - 1)
    (truth,), _ = one_box(tmp_path, bbox=None)  # the segmentation's own
    assert truth.box == Box(2, 1, 4, 5)
    (truth,), _ = one_box(tmp_path, bbox=[1.6, 0.6, 4.2, 5.2], segmentation=None)
    assert (truth.box, truth.mask) == (Box(2, 1, 4, 5), None)
    assert truth.exact == pytest.approx((1.6, 0.6, 4.2, 5.2))


FIRST = content()["annotations"][0]


@pytest.mark.parametrize(
    ("changes", "expected_reason", "name"),
    [
        ({"annotations": [{**FIRST, "image_id": 9}]}, "image_id is unknown", "annotation 11"),
        ({"annotations": [{**FIRST, "image_id": None}]}, "image_id is unknown", "annotation 11"),
        ({"annotations": [{**FIRST, "image_id": [1]}]}, "image_id is unknown", "annotation 11"),
        ({"annotations": [{**FIRST, "category_id": 7}]}, "category_id is unk", "annotation 11"),
        ({"annotations": [{**FIRST, "category_id": None}]}, "category_id is unk", "annotation 11"),
        ({"annotations": [{**FIRST, "id": None, "bbox": 1}]}, "four numbers", "annotations[0]"),
        ({"annotations": [{**FIRST, "bbox": None, "segmentation": []}]}, "has no bbox", "11"),
        ({"annotations": [{**FIRST, "iscrowd": "maybe"}]}, "neither 0 nor 1", "annotation 11"),
        ({"annotations": [FIRST, {**FIRST, "id": 12}]}, "listed twice", "annotation 12"),
        ({"annotations": [FIRST, None]}, "annotation is no object", "annotations[1]"),
        ({"images": [*content()["images"], 5]}, "image is no object", "images[2]"),
        ({"images": [*content()["images"], {"id": True, "file_name": "x"}]}, "id is no", "[2]"),
        ({"images": [*content()["images"], {"id": 3, "file_name": 3}]}, "is no text", "[2]"),
        ({"images": [*content()["images"], {"id": 3}]}, "file_name is no text", "images[2]"),
        ({"images": [*content()["images"], content()["images"][0]]}, "listed twice", "images[2]"),
        ({"images": [*content()["images"], {"id": 3, "file_name": "3.png"}]}, "missing", "3.png"),
        (
            {"images": [*content()["images"], {"id": 3, "file_name": "/etc/passwd"}]},
            "outside",
            "/",
        ),
        ({"images": [*content()["images"], {"id": 3, "file_name": "a\0"}]}, "NUL", "a\0"),
        ({"images": [*content()["images"], {"id": 3, "file_name": "x" * 999}]}, "missing", "xxx"),
        ({"categories": [*content()["categories"], {"id": 5}]}, "no phrase", "categories[3]"),
        ({"categories": [*content()["categories"], {"id": 5, "name": 5}]}, "no phrase", "[3]"),
        ({"categories": [*content()["categories"], {"id": 5, "name": "..."}]}, "no phrase", "[3]"),
        ({"categories": [*content()["categories"], {"name": "fork"}]}, "id is no", "[3]"),
        ({"categories": [*content()["categories"], "fork"]}, "category is no object", "[3]"),
        ({"categories": [*content()["categories"], {"id": 1, "name": "x"}]}, "two names", "[3]"),
    ],
)
def test_a_bad_entry_is_named_and_passed_over_or_stopped_at(
    tmp_path: Path, changes: dict[str, Any], expected_reason: str, name: str
) -> None:
    path = write_annotations(tmp_path, **changes)
    samples, report = read(path)
    assert [sample.name for sample in samples] == ["one.png", "two.png"]
    (reason,) = report.skip_counts
    assert expected_reason in reason
    assert name in report.names(reason)[0]
    assert report.total == 1
    with pytest.raises(DatasetError) as excinfo:
        list(CocoFolder(path, tmp_path, 0, 10_000, SkipReport(strict=True)))
    assert reason in str(excinfo.value)
    assert str(excinfo.value).endswith("without --strict it is skipped.")
    assert str(excinfo.value).isprintable()


def test_an_id_that_two_files_share_says_nothing_of_either(tmp_path: Path) -> None:
    pairs = [*content()["images"], {"id": 1, "file_name": "two.png"}]
    (only,), report = read(write_annotations(tmp_path, images=pairs))
    assert (only.name, only.objects) == ("two.png", 0)
    assert report.skip_counts["image's id has two files"] == 1
    assert report.skip_counts["annotation's image_id is unknown"] == 3


def test_ids_as_texts_and_names_of_one_phrase(tmp_path: Path) -> None:
    entry = {**FIRST, "id": "a", "image_id": "1", "category_id": "07"}
    (first, _), report = read(
        write_annotations(
            tmp_path,
            categories=[{"id": 7, "name": "Cup"}, {"id": "x", "name": "cup"}],
            annotations=[entry, {**entry, "category_id": "x", "bbox": [9, 1, 4, 5]}],
        )
    )
    (cup,) = first.questions
    assert (cup.phrase, len(cup.truths)) == ("Cup", 2)
    assert report.total == 0
    assert report.note_counts == {"annotation's id has two annotations": 1}


@pytest.mark.parametrize(
    "file_name",
    [
        "pictures\\한글 컵.png",
        "pictures/%ED%95%9C%EA%B8%80%20%EC%BB%B5.png",
        unicodedata.normalize("NFD", "pictures/한글 컵.png"),
        "C:\\Users\\bob\\pictures\\한글 컵.png",
        "/home/bob/data/pictures/한글 컵.png",
        "https://example.com/data/pictures/%ED%95%9C%EA%B8%80%20%EC%BB%B5.png?raw=1",
        "./pictures/../pictures/한글 컵.png",
        "../elsewhere/pictures/한글 컵.png",
        "한글 컵.png",
        "한글 컵.PNG",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_as_they_are_after_a_move(tmp_path: Path, file_name: str, form: str) -> None:
    (tmp_path / "pictures").mkdir()
    name = unicodedata.normalize(form, "한글 컵.png")  # type: ignore[arg-type]
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "pictures" / name)
    path = write_annotations(tmp_path, images=[{"id": 1, "file_name": file_name}])
    (sample,), report = read(path)
    assert sample.objects == 2
    assert report.total == 0


def test_a_url_is_a_name_where_there_is_no_other(tmp_path: Path) -> None:
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/one.png"}
    (sample,), _ = read(write_annotations(tmp_path, images=[image]))
    assert sample.objects == 2


def test_another_picture_of_the_same_last_name_is_not_taken(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / folder / "3.png")
    images = [*content()["images"], {"id": 3, "file_name": "c/3.png"}]
    _, report = read(write_annotations(tmp_path, images=images))
    assert report.skip_counts == {"picture missing": 1}
    images[2]["file_name"] = "3.png"
    _, report = read(write_annotations(tmp_path, images=images))
    assert report.skip_counts == {"picture found more than once": 1}


def test_pictures_beside_the_annotations_need_no_option(tmp_path: Path) -> None:
    for folder in ("annotations", "val2017", "train2017"):
        (tmp_path / folder).mkdir()
    path = write_annotations(tmp_path)
    for name in ("one.png", "two.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (1, 1, 1)).save(tmp_path / "train2017" / name)
        (tmp_path / name).rename(tmp_path / "val2017" / name)
    instances = path.rename(tmp_path / "annotations" / "instances_val2017.json")
    first, _ = CocoFolder(instances, None, 0, 10_000)
    assert first.image[0, 0].tolist() == [90, 90, 90]
    beside = write_annotations(tmp_path)
    assert len(CocoFolder(beside, None, 0, 10_000)) == 2


def test_a_picture_that_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    path = write_annotations(tmp_path)
    (tmp_path / "one.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    (only,), report = read(path)
    assert (only.name, report.skip_counts) == ("two.png", {"picture corrupt": 1})
    (tmp_path / "two.png").write_bytes(b"")
    with pytest.raises(CocoError, match=r"No picture of .*boxes.json can be used \(.*one.png"):
        read(path)


def test_sizes_that_are_not_the_pictures(tmp_path: Path) -> None:
    images = [{**image, "width": WIDTH, "height": HEIGHT} for image in content()["images"]]
    samples, report = read(write_annotations(tmp_path, images=images))
    assert (len(samples), report.lines()) == (2, [])
    images[1] |= {"width": HEIGHT, "height": WIDTH}
    samples, report = read(write_annotations(tmp_path, images=images))
    assert report.skip_counts == {"width and height fit the picture only turned": 1}
    images[1] |= {"width": 40, "height": 20}
    samples, report = read(write_annotations(tmp_path, images=images))
    assert report.skip_counts == {"width and height are not the picture's": 1}
    assert "stated as 40 x 20, is 20 x 10" in report.first()
    for width, height in (("20", "10"), (20.0, 10), (0, 0), (None, 3), ("wide", True)):
        images[1] |= {"width": width, "height": height}
        samples, report = read(write_annotations(tmp_path, images=images))
        assert (len(samples), report.total) == (2, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_a_picture_as_it_is_stored_are_turned_with_it(
    tmp_path: Path, orientation: int
) -> None:
    """A red spot on black: its box and mask have to lie on it in the upright image."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[8:16, 48:64] = 255, 0, 0
    spot = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [48, 8, 16, 8]}
    spot["segmentation"] = [[48, 8, 64, 8, 64, 16, 48, 16]]
    path = write_annotations(
        tmp_path,
        images=[{"id": 1, "file_name": "turned.jpg", "width": 80, "height": 40}],
        annotations=[spot],
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    (sample,), report = read(path)
    (truth,) = sample.questions[0].truths
    red = sample.image[..., 0] > 128
    assert truth.mask is not None
    if orientation < 5:
        # The sizes are equal: nothing says that the boxes are of the stored picture.
        assert (sample.image.shape, report.note_counts) == ((40, 80, 3), {})
        assert truth.mask.sum() == 128
        return
    assert sample.image.shape == (80, 40, 3)
    np.testing.assert_array_equal(truth.mask > 0, red)
    box = truth.box
    assert red[box.y : box.y + box.height, box.x : box.x + box.width].all()
    assert box.width * box.height == red.sum() == 128
    (remark,) = report.note_counts
    assert "only turned" in remark


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [], "annotations": []}, "lists no image"),
        ({"images": None}, "its images are no list but none"),
        ({"images": {"1": "one.png"}}, "its images are no list"),
        ({"categories": None}, "its categories are no list"),
        ({"categories": []}, "no category with an id and a name"),
        ({"categories": [{"id": 1}]}, "name is no phrase"),
        ({"annotations": {}}, "its annotations are no list"),
        ({"categories": 3, "annotations": [{"caption": "a cup"}]}, "captions and no categories"),
        ({"annotations": [{"segments_info": []}]}, "panoptic"),
        ({"images": [{"id": 1, "file_name": "three.png"}]}, "--images"),
    ],
)
def test_a_file_that_is_not_cocos_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = write_annotations(tmp_path, **changes)
    with pytest.raises(CocoError) as excinfo:
        read(path)
    assert words in str(excinfo.value)
    assert str(path) in str(excinfo.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is cut off on line 1"),
        (json.dumps(content()).encode()[:-9], "is cut off on line 1"),
        (b'{"images": "on', "is cut off on line 1"),
        (b'{"images": [}', "is not JSON"),
        (b'{"a": 1}\n{"a": 2}\n', "another begins on line 2"),
        (b'[{"image_id": 1, "score": 0.5}]', "a file of predictions"),
        (b"[]", "is a list"),
        (b"3", "is not an object"),
        (b"{}", "it has no images"),
        (b'{"shapes": []}', "it has no images, only shapes"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xd8\xff\xe0 a JPEG", "neither UTF-8 nor UTF-16"),
        (b"PK\3\4\0\0 a zip", "is not JSON"),
    ],
)
def test_what_is_no_annotation_file_is_told_for_what_it_is(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(data)
    with pytest.raises(CocoError) as excinfo:
        CocoFolder(path, tmp_path, 0, 10_000)
    assert words in str(excinfo.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_annotations_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = write_annotations(tmp_path)
    text = json.dumps({**content(), "info": "컵"}, ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    assert len(CocoFolder(path, tmp_path, 0, 10_000)) == 2


def test_paths_that_are_mixed_up(tmp_path: Path) -> None:
    path = write_annotations(tmp_path)
    for file, images, words in (
        (tmp_path, tmp_path, f"is a folder: name .* such as {path}"),
        (tmp_path / "none.json", tmp_path, "Cannot read"),
        (path, path, "is no folder"),
        (path, tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(CocoError, match=words):
            CocoFolder(file, images, 0, 10_000)


def test_the_library_that_is_missing_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    evaluation_library.cache_clear()
    with pytest.raises(PerceptionError, match=r"pip install '?faster-coco-eval"):
        CocoFolder(tmp_path / "none.json", tmp_path, 0, 10_000)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, 1, 2, 11, 1e308, 2**70, "1", "one.png", "../one.png", PLAIN, POLYGON]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the path of every value in a JSON document."""
    if not isinstance(value, dict | list):
        return [path]
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(p for key, item in inner for p in places(item, (*path, key)))]


@settings(
    max_examples=80, deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(places(content())[1:]), JSON_VALUES), max_size=3))
def test_any_value_at_any_place_is_used_or_refused_in_a_sentence(
    tmp_path: Path, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    document = content()
    for place, value in changes:
        holder: Any = document
        try:
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    path = write_annotations(tmp_path, **document)
    try:
        samples, report = read(path)
    except DatasetError as error:
        samples, report = [], SkipReport()
        report.skip(str(error), "")
    assert all(line.isprintable() for line in report.lines())
    for sample in samples:
        for truth in (t for q in sample.questions for t in q.truths):
            box = truth.box
            assert 0 <= box.x < box.x + box.width <= WIDTH
            assert 0 <= box.y < box.y + box.height <= HEIGHT
    json.dumps(report.as_json(), allow_nan=False)


def truth_of(box: Box) -> Truth:
    return Truth(box, box_mask(box), None)


def box_mask(box: Box) -> UInt8Array:
    mask = np.zeros((100, 100), np.uint8)
    mask[box.y : box.y + box.height, box.x : box.x + box.width] = 1
    return mask


def shot(truths: list[Box], **arguments: Any) -> Sample:
    questions = (Question("cup", "", tuple(truth_of(box) for box in truths)),)
    return Sample("", np.zeros((100, 100, 3), np.uint8), len(truths), questions, **arguments)


def answer(box: Box, score: float, phrase: str = "cup") -> GroundedObject:
    return GroundedObject(phrase, score, 0.0, box, 0.1)


def test_average_precision_by_hand() -> None:
    detections = Detections(("cup", "dog"))
    near, far = Box(0, 0, 20, 20), Box(60, 60, 20, 20)
    # IoU 0.8: a match at 7 of the 10 thresholds from 0.50 to 0.95.
    low = Box(0, 0, 20, 16)
    answers = [answer(low, 0.9), answer(near, 0.8, "dog")]
    detections.add(shot([near]), answers, [box_mask(a.box) for a in answers])
    figures = detections.metrics()
    # A dog that is nowhere has no precision; the second image's cup is missed.
    assert figures["AP50"] == figures["mask_AP50"] == pytest.approx(1.0)
    assert figures["AP"] == pytest.approx(0.7, abs=0.01)
    detections.add(shot([far]), [], [])
    assert detections.metrics()["AP50"] == pytest.approx(51 / 101)


def test_crowds_and_unsure_phrases_do_not_count_against_precision() -> None:
    crowd, cup = Box(50, 50, 40, 40), Box(0, 0, 20, 20)
    answers = [answer(Box(55, 55, 10, 10), 0.9), answer(cup, 0.8)]
    masks = [box_mask(a.box) for a in answers]
    detections = Detections(("cup",))
    detections.add(shot([cup], crowds=(("cup", truth_of(crowd)),)), answers, masks)
    assert detections.metrics()["AP50"] == pytest.approx(1.0)
    detections.add(shot([], unsure=frozenset({"cup"})), answers, masks)
    assert detections.metrics()["AP50"] == pytest.approx(1.0)
    detections.add(shot([]), [answer(cup, 0.95)], masks[1:])
    assert detections.metrics()["AP50"] == pytest.approx(0.5)


def test_average_precision_of_nothing() -> None:
    no_detections = Detections(("cup",))
    no_detections.add(shot([]), [], [])
    assert np.isnan(no_detections.metrics()["AP"])
    misses = Detections(("cup",))
    misses.add(shot([Box(0, 0, 20, 20)]), [], [])
    assert misses.metrics()["AP"] == 0.0
