"""Regions, boxes and masks from features made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.contracts.steps import SQUASH
from siglip_perception.evaluation.baselines import led_regions
from siglip_perception.grounding.objects import ObjectMask, label_mask, select_objects
from siglip_perception.grounding.regions import (
    cosines,
    find_regions,
    otsu_threshold,
    regions_at_cuts,
)
from siglip_perception.grounding.scores import Scores, sigmoid
from siglip_perception.images.geometry import Geometry
from siglip_perception.types import Box, Role

pytestmark = pytest.mark.numeric

SHARP = GroundingSettings(affinity_scale=20.0, affinity_bias=-10.0)

EVEN = Geometry.of(SQUASH, 80, 80, 80)


def two_things() -> torch.Tensor:
    """A 4x4 grid: background, a 2x2 thing in the corner, a 1x2 thing at the bottom."""
    features = torch.zeros(4, 4, 3)
    features[..., 0] = 1
    features[:2, :2] = torch.tensor([0.0, 1.0, 0.0])
    features[3, 2:] = torch.tensor([0.0, 0.0, 1.0])
    return features.view(16, 3)


def test_regions_are_the_things_and_cover_every_patch() -> None:
    regions = find_regions(two_things(), SHARP) > 0.5
    actual = {tuple(torch.nonzero(region).flatten().tolist()) for region in regions}
    assert (0, 1, 4, 5) in actual
    assert (14, 15) in actual
    assert len(actual) == 3
    assert bool(regions.any(dim=0).all())


def test_regions_without_known_settings_take_the_cut_from_the_frame() -> None:
    regions = find_regions(two_things(), GroundingSettings()) > 0.5
    assert (0, 1, 4, 5) in {tuple(torch.nonzero(r).flatten().tolist()) for r in regions}


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_the_cut_of_a_frame_does_not_depend_on_how_alike_everything_is(level: float) -> None:
    # What all patches share lifts every cosine, up to a mean of 0.97: 1.2 x mean is then above 1.
    shared = torch.full((16, 1), (level / (1 - level)) ** 0.5)
    features = torch.cat([two_things(), shared], dim=1)
    regions = find_regions(features, GroundingSettings()) > 0.5
    actual = {tuple(torch.nonzero(region).flatten().tolist()) for region in regions}
    assert {(0, 1, 4, 5), (14, 15)} <= actual


def test_otsu_splits_in_the_gap() -> None:
    values = torch.tensor([0.1, 0.12, 0.14, 0.8, 0.84])
    assert 0.14 < otsu_threshold(values) < 0.8
    assert otsu_threshold(torch.full((3,), 0.7)) == pytest.approx(0.7)


def test_a_phrase_leads_the_region_around_the_patch_that_it_fits_best() -> None:
    dense = torch.full((2, 16), 0.01)
    dense[0, 5] = 0.9  # in the thing of four patches
    dense[1, 15] = 0.9  # in the thing of two
    first, second = led_regions(two_things(), dense, SHARP) > 0.5
    assert torch.nonzero(first).flatten().tolist() == [0, 1, 4, 5]
    assert torch.nonzero(second).flatten().tolist() == [14, 15]


def greedy(cosine: np.ndarray, scale: float, bias: float) -> list[np.ndarray]:
    """The search as its description reads, over all patches, in float64."""
    affinity = 1 / (1 + np.exp(-scale * cosine - bias))
    unclaimed = np.ones(len(cosine))
    regions: list[np.ndarray] = []
    while len(regions) < 32 and unclaimed.any():
        leader = int((affinity @ unclaimed * unclaimed).argmax())
        weights = affinity[leader] * unclaimed
        for _ in range(2):
            if weights.any():
                length = max(weights @ cosine @ weights, 1e-12) ** 0.5
                region = 1 / (1 + np.exp(-scale * (cosine @ weights) / length - bias))
            weights = region * (region > 0.5) * unclaimed
        unclaimed[region > 0.4] = 0.0
        unclaimed[leader] = 0.0
        regions.append(region)
    return [region for region in regions if region.max() > 0.5]


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_the_search_is_the_greedy_one_at_every_cut(spread: float) -> None:
    generator = torch.Generator().manual_seed(3)
    centers = torch.randn(6, 12, generator=generator)
    noise = torch.randn(144, 12, generator=generator)
    features = centers[torch.randint(6, (144,), generator=generator)] + spread * noise
    cosine = cosines(features)
    settings = GroundingSettings(affinity_scale=9.0, affinity_bias=-4.0)
    step = 9.0 * float(cosine.std()) / 6
    map_sets = regions_at_cuts(cosine, settings, (0.0, 1 / 6, -1 / 6))
    for maps, offset in zip(map_sets, (0.0, step, -step), strict=True):
        expected = greedy(cosine.double().numpy(), 9.0, -4.0 + offset)
        assert len(maps) == len(expected)
        # In any order: patches that are alone have the same number of companions, one.
        differences = np.abs(maps.numpy()[:, None] - np.stack(expected)).max(axis=2)
        assert differences.min(axis=0).max() < 1e-4


def test_a_uniform_image_is_one_region() -> None:
    assert find_regions(torch.ones(16, 3), SHARP).shape == (1, 16)


def test_features_in_which_nothing_belongs_together_give_no_region() -> None:
    never = GroundingSettings(affinity_scale=1.0, affinity_bias=-5.0)
    assert find_regions(torch.eye(16), never).shape == (0, 16)


def test_presence_is_that_of_the_best_region_or_of_the_whole() -> None:
    scores = _scores([[-4.0, 2.0, -4.0], [-4.0, -4.0, -4.0]])
    scores = Scores(scores.maps, scores.logits, np.array([-1.0, 1.0], dtype=np.float32))
    assert scores.presence() == pytest.approx(sigmoid(np.array([2.0, 1.0])))
    nowhere = Scores(scores.maps[:0], scores.logits[:, :0], scores.image_logits)
    assert nowhere.presence() == pytest.approx(sigmoid(np.array([-1.0, 1.0])))


def test_a_mask_follows_the_grid_into_camera_pixels() -> None:
    soft = np.zeros((4, 4), dtype=np.float32)
    soft[1:3, 2] = 1.0
    mask = ObjectMask.of(soft, Geometry.of(SQUASH, 56, 400, 200), 14, None).mask
    ys, xs = np.nonzero(mask)
    # Halfway between patch centers: the true edges, x in [200, 300), y in [50, 150).
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (200, 299, 50, 149)


def test_only_the_largest_piece_of_a_mask_stays() -> None:
    soft = np.zeros((8, 8), dtype=np.float32)
    soft[0:3, 0:3] = 1.0
    soft[7, 7] = 1.0
    mask = ObjectMask.of(soft, EVEN, 10, None).mask
    assert mask[79, 79] == 0
    assert mask[10, 10] == 1


def _scores(logits: list[list[float]]) -> Scores:
    maps = np.zeros((3, 4, 4), dtype=np.float32)
    maps[0, :2, :2] = 1
    maps[1, 3, 2:] = 1
    maps[2, :2, :2] = 0.9
    return Scores(maps, np.array(logits, dtype=np.float32), np.zeros(1, dtype=np.float32))


def test_objects_come_best_first_and_the_same_thing_once() -> None:
    objects, masks = select_objects(
        _scores([[2.0, 3.0, 1.0]]), ("cup",), (Role.TARGET,), EVEN, 20, 0.5, 20
    )
    assert [o.logit for o in objects] == [3.0, 2.0]
    assert objects[0].box == Box(40, 60, 40, 20)
    assert objects[1].score == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert objects[1].area == pytest.approx(0.25, abs=0.02)
    assert objects[0].role is Role.TARGET
    assert len(masks) == 2


def test_no_region_is_no_object() -> None:
    empty = Scores(
        np.zeros((0, 4, 4), np.float32), np.zeros((1, 0), np.float32), np.zeros(1, np.float32)
    )
    assert select_objects(empty, ("cup",), (Role.TARGET,), EVEN, 20, 0.5, 20) == ([], [])


def test_a_handle_is_a_part_of_its_cup_and_a_second_cup_is_not() -> None:
    maps = np.zeros((3, 4, 4), dtype=np.float32)
    maps[0, :2, :2] = 1
    maps[1, 1, 2] = 1
    maps[2, 3, 3] = 1
    logits = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    scores = Scores(maps, logits, np.zeros(1, dtype=np.float32))
    objects, _ = select_objects(scores, ("cup",), (Role.TARGET,), EVEN, 20, 0.5, 20)
    assert [o.logit for o in objects] == [3.0, 1.0]


def test_nothing_below_the_threshold_and_no_more_than_asked() -> None:
    scores = _scores([[-1.0, -2.0, -3.0], [4.0, 3.0, -9.0]])
    objects, _ = select_objects(scores, ("a", "b"), (Role.UNKNOWN,) * 2, EVEN, 20, 0.5, 1)
    assert [(o.phrase, o.logit) for o in objects] == [("b", 4.0)]


def test_each_phrase_may_have_a_threshold_of_its_own() -> None:
    scores = _scores([[1.0, -9.0, -9.0], [1.0, -9.0, -9.0]])  # a probability of 0.73
    objects, _ = select_objects(scores, ("a", "b"), (Role.UNKNOWN,) * 2, EVEN, 20, (0.8, 0.7), 9)
    assert [item.phrase for item in objects] == ["b"]


def test_presence_is_taken_apart_from_where_a_phrase_is() -> None:
    scores = _scores([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    scores = replace(scores, image_logits=np.array([-2.0, -2.0], np.float32))
    apart = scores.with_presence_of(np.array([0.0, 0.75], np.float32))
    # A quarter of the best region's 2 and three quarters of the image's -2: -1.
    np.testing.assert_allclose(apart.logits, [[2.0, 1.0, 0.0], [-1.0, -2.0, -3.0]])
    np.testing.assert_allclose(apart.presence(), [sigmoid(2.0), sigmoid(-1.0)])
    assert scores.with_presence_of(np.zeros(2, np.float32)) is scores


def test_label_mask_numbers_objects_from_one_and_the_first_wins() -> None:
    first, union = np.zeros((2, 4), dtype=np.uint8), np.ones((2, 4), dtype=np.uint8)
    first[:, :2] = 1
    assert label_mask([first, union], 4, 2).tolist() == [[1, 1, 2, 2]] * 2


def test_sigmoid_is_right_at_both_ends() -> None:
    assert sigmoid(0.0) == 0.5
    assert sigmoid(-800.0) == 0.0
    assert sigmoid(800.0) == 1.0
