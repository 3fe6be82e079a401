"""Windows of an image, and what is merged of them."""

from __future__ import annotations

import numpy as np
import pytest

from siglip_perception.config import ModelSelection
from siglip_perception.grounding.scores import Scores
from siglip_perception.grounding.windows import (
    Candidate,
    merge_candidates,
    penalized,
    place_candidates,
    window_boxes,
)
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.scenes.scenes import render, sample_scene
from siglip_perception.types import Box, Frame, GroundedObject, UInt8Array

WIDTH, HEIGHT = 140, 70
LEFT, RIGHT = Box(0, 0, 80, 70), Box(60, 0, 80, 70)
WHOLE = Box(0, 0, WIDTH, HEIGHT)


def placed(window: Box, x: int, width: int, logit: float, y: int = 20) -> Candidate:
    """A thing 20 pixels high at the image's x, as its window sees it."""
    mask: UInt8Array = np.zeros((window.height, window.width), np.uint8)
    box = Box(x - window.x, y, width, 20)
    mask[box.y : box.y + 20, box.x : box.x + width] = 1
    item = GroundedObject("cup", 0.9, logit, box, 0.0)
    (candidate,) = place_candidates([item], [mask], window, WIDTH, HEIGHT)
    return candidate


def boxes(candidates: list[Candidate]) -> list[tuple[int, int, float]]:
    return [(c.item.box.x, c.item.box.width, c.item.logit) for c in candidates]


def test_windows_cover_the_image_and_share_a_quarter_of_a_side() -> None:
    assert window_boxes(700, 350, 1) == []
    assert window_boxes(700, 350, 2) == [
        Box(0, 0, 400, 200),
        Box(300, 0, 400, 200),
        Box(0, 150, 400, 200),
        Box(300, 150, 400, 200),
    ]
    for width, height in ((1, 1), (641, 3), (333, 479)):
        seen = np.zeros((height, width), bool)
        for box in window_boxes(width, height, 2):
            seen[box.y : box.y + box.height, box.x : box.x + box.width] = True
        assert seen.all()


def test_what_a_window_shows_loses_half_a_unit_of_standing() -> None:
    scores = Scores(
        np.ones((1, 2, 2), np.float32),
        np.array([[3.0], [3.0]], np.float32),
        np.array([2.0, 2.0], np.float32),
        slopes=np.array([4.0, 6.0], np.float32),
    )
    assert penalized(scores).logits.tolist() == [[1.0], [0.0]]
    assert penalized(scores).image_logits.tolist() == [0.0, -1.0]


def test_a_thing_is_cut_at_a_windows_inner_edge_alone() -> None:
    assert placed(LEFT, 60, 20, 1.0).is_cut
    assert not placed(LEFT, 0, 20, 1.0).is_cut  # at the image's edge
    assert not placed(LEFT, 50, 20, 1.0).is_cut
    assert placed(RIGHT, 60, 20, 1.0).is_cut
    assert not placed(WHOLE, 60, 20, 1.0).is_cut


def test_a_thing_in_both_windows_is_one_object_the_better_one() -> None:
    merged = merge_candidates([placed(LEFT, 62, 14, 1.0), placed(RIGHT, 62, 14, 2.0)])
    assert boxes(merged) == [(62, 14, 2.0)]


def test_a_whole_thing_goes_before_its_parts_even_if_these_score_more() -> None:
    whole = placed(WHOLE, 40, 60, 1.0)
    merged = merge_candidates([placed(LEFT, 40, 40, 5.0), placed(RIGHT, 60, 40, 4.0), whole])
    assert boxes(merged) == [(40, 60, 1.0)]


def test_two_parts_that_agree_at_the_seam_are_one_thing() -> None:
    merged = merge_candidates([placed(LEFT, 40, 40, 1.0), placed(RIGHT, 60, 40, 3.0)])
    assert boxes(merged) == [(40, 60, 3.0)]
    assert merged[0].item.area == pytest.approx(60 * 20 / (WIDTH * HEIGHT))


def test_two_things_of_a_phrase_stay_two() -> None:
    merged = merge_candidates([placed(LEFT, 10, 20, 1.0), placed(RIGHT, 110, 20, 3.0)])
    assert boxes(merged) == [(110, 20, 3.0), (10, 20, 1.0)]
    apart = merge_candidates([placed(LEFT, 60, 20, 1.0, 0), placed(RIGHT, 60, 20, 3.0, 45)])
    assert len(apart) == 2


def test_a_scene_with_windows_has_each_object_once() -> None:
    pipeline = Pipeline.load(
        ModelSelection(device="cpu", precision="fp32"), PipelineOptions(windows=2)
    )
    scene = sample_scene(np.random.default_rng(5), 4)
    names = sorted({f"{thing.color} {thing.kind}" for thing in scene.objects})
    query = pipeline.query(from_phrases(names))
    image = render(scene).image
    windowed = pipeline.process(Frame(image), query, with_mask=True).grounding
    pipeline.windows = 1
    plain = pipeline.process(Frame(image), query, with_mask=True).grounding
    assert windowed is not None
    assert plain is not None
    assert {item.phrase for item in windowed.objects} >= {item.phrase for item in plain.objects}
    for index, item in enumerate(windowed.objects):
        assert windowed.mask is not None
        assert windowed.mask.shape == image.shape[:2]
        for other in windowed.objects[index + 1 :]:
            assert other.phrase != item.phrase or other.box.iou(item.box) < 0.5
    assert all(a >= b for a, b in zip(windowed.presence, plain.presence, strict=True))
