"""Generated scenes: the same from the same seed, with masks that fit the picture."""

from __future__ import annotations

import numpy as np
import pytest

from siglip_perception.contrastive.data import SceneDataset, patch_coverage
from siglip_perception.contrastive.scenes import animate, render, sample_scene
from siglip_perception.contrastive.towers import GRID
from siglip_perception.contrastive.vocabulary import (
    COLORS,
    KINDS,
    PHRASE_CLASSES,
    PhraseClass,
    sample_caption,
)


def test_a_seed_gives_the_same_bytes() -> None:
    first, second = (render(sample_scene(np.random.default_rng(7), 4)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.instances, second.instances)


@pytest.mark.parametrize("seed", range(5))
def test_every_object_is_drawn_in_its_own_colour_where_the_mask_says(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), 3)
    assert len({(item.color, item.kind) for item in scene.objects}) == 3
    rendered = render(scene)
    for number, item in enumerate(scene.objects):
        shown = rendered.image[rendered.instances == number + 1].astype(float)
        assert len(shown) > 500
        median = np.median(shown, axis=0) / scene.light
        distances = {
            color: np.abs(median - np.array(entry[0])).sum() for color, entry in COLORS.items()
        }
        assert distances[item.color] < 120, (item, median)
        box = rendered.box(number)
        assert box is not None
        assert (rendered.instances == number + 1)[
            box.y : box.y + box.height, box.x : box.x + box.width
        ].sum() == len(shown)


def test_coverage_is_the_exact_share_of_each_patch() -> None:
    rendered = render(sample_scene(np.random.default_rng(1), 2), 320, 240)
    coverage = patch_coverage(rendered, 2)
    assert coverage.shape == (GRID * GRID, 2)
    for number in range(2):
        share = (rendered.instances == number + 1).mean()
        assert coverage[:, number].mean() == pytest.approx(share, abs=1e-4)


def test_training_samples_do_not_depend_on_where_a_run_starts() -> None:
    whole, rest = SceneDataset(3, 0, 6), SceneDataset(3, 4, 6)
    for left, right in zip(whole[4], rest[0], strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_animation_starts_where_the_scene_is_and_moves() -> None:
    scene = sample_scene(np.random.default_rng(2), 3)
    frames = list(animate(scene, np.random.default_rng(0), 8))
    assert len(frames) == 8
    assert frames[0].objects[0].x == pytest.approx(scene.objects[0].x)
    assert frames[3].objects[0].x != pytest.approx(scene.objects[0].x)


def test_phrases_in_both_languages() -> None:
    red_cup = PhraseClass("red", "cup")
    assert red_cup.forms("en")[0] == "red cup"
    assert red_cup.forms("ko")[0] == "빨간 컵"
    assert PhraseClass("red", None).forms("en")[0] == "red object"
    assert len(PHRASE_CLASSES) == len(COLORS) * len(KINDS) + len(COLORS) + len(KINDS)
    assert sum(c.matches("red", "cup") for c in PHRASE_CLASSES) == 3


def test_a_caption_names_everything() -> None:
    caption = sample_caption([("red", "cup"), ("blue", "ball")], "en", np.random.default_rng(0))
    assert "red" in caption
    assert "blue" in caption
    assert " and " in caption
