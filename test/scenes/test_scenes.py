"""Generated scenes: reproducible from the seed, with masks that match the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from siglip_perception.scenes.samples.batches import SceneDataset
from siglip_perception.scenes.samples.items import GRID, patch_coverage
from siglip_perception.scenes.scenes import (
    MAX_CLUTTER,
    MOST_HIDDEN,
    Light,
    SceneObject,
    animate,
    render,
    sample_scene,
)
from siglip_perception.scenes.vocabulary import (
    COLORS,
    KINDS,
    LANGUAGES,
    PHRASE_CLASSES,
    PhraseClass,
    sample_caption,
    sample_phrase,
)


def test_a_seed_gives_the_same_bytes() -> None:
    first, second = (render(sample_scene(np.random.default_rng(7), 4)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.instances, second.instances)


@pytest.mark.parametrize("seed", range(5))
def test_every_object_is_drawn_in_its_own_color_where_the_mask_says(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), 5)
    assert len({(item.color, item.kind) for item in scene.objects}) == 5
    plain = replace(
        scene,
        objects=tuple(replace(o, material="matte", pattern="plain") for o in scene.objects),
        light=Light(),
        motion=(0.0, 0.0),
        defocus=0.0,
    )
    rendering = render(plain)
    for number, item in enumerate(scene.objects):
        visible = rendering.image[rendering.instances == number + 1].astype(float)
        assert len(visible) > 500
        nearest = np.abs(np.median(visible, axis=0) - item.rgb).sum()
        assert nearest < 100, (item, np.median(visible, axis=0))
        box = rendering.box(number)
        assert box is not None
        assert (rendering.instances == number + 1)[
            box.y : box.y + box.height, box.x : box.x + box.width
        ].sum() == len(visible)


def test_what_stands_in_front_or_outside_hides() -> None:
    block = SceneObject("block", "red", (200, 30, 30), 0.5, 0.4, 0.3, 0.0, 1.0)
    front = replace(block, color="blue", rgb=(20, 20, 200), x=0.6, y=0.45)
    edge = replace(block, color="green", rgb=(20, 200, 20), x=4 / 3, y=0.8, angle=0.0)
    pen = replace(block, kind="pen", color="", x=0.2, y=0.7)
    scene = replace(
        sample_scene(np.random.default_rng(0), 1), objects=(block, front, edge), clutter=(pen,)
    )
    rendering = render(scene)
    behind, before, outside, clutter = rendering.occlusion
    assert 0.3 < behind < 0.7
    assert before == pytest.approx(0)
    assert outside == pytest.approx(0.5, abs=0.05)
    assert clutter == pytest.approx(0)
    assert set(np.unique(rendering.instances)) == {0, 1, 2, 3, 4}
    assert (rendering.instances == 4).sum() > 200


@pytest.mark.parametrize("objects", [1, 2, 5, 8])
def test_scenes_hold_what_was_asked_for_and_hide_no_more_than_half(objects: int) -> None:
    for seed in range(4):
        scene = sample_scene(np.random.default_rng((objects, seed)), objects)
        assert len(scene.objects) == objects
        assert len(scene.clutter) <= MAX_CLUTTER
        rendering = render(scene, 320, 240)
        assert max(rendering.occlusion[:objects]) < MOST_HIDDEN + 0.05


def test_twins_are_two_of_the_same_color_and_kind() -> None:
    scene = sample_scene(np.random.default_rng(3), 4, twins=True)
    names = [(item.color, item.kind) for item in scene.objects]
    assert len(names) == 4
    assert len(set(names)) == 3


def test_coverage_is_the_exact_share_of_each_patch() -> None:
    rendering = render(sample_scene(np.random.default_rng(1), 2), 320, 240)
    coverage = patch_coverage(rendering, 2)
    assert coverage.shape == (GRID * GRID, 2)
    for number in range(2):
        share = (rendering.instances == number + 1).mean()
        assert coverage[:, number].mean() == pytest.approx(share, abs=1e-4)


def test_training_samples_do_not_depend_on_where_a_run_starts() -> None:
    outline, rest = SceneDataset(3, 0, 6), SceneDataset(3, 4, 6)
    for left, right in zip(outline[4], rest[0], strict=True):
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


def test_sizes_and_articles_are_added_to_a_phrase_and_change_no_word_of_it() -> None:
    rng = np.random.default_rng(0)
    for language in LANGUAGES:
        forms = PhraseClass("red", "cup").forms(language)
        calls = {sample_phrase(PhraseClass("red", "cup"), language, rng) for _ in range(200)}
        assert len(calls) > len(forms)
        assert all(text.endswith(forms) for text in calls)


def test_a_caption_names_everything() -> None:
    caption = sample_caption([("red", "cup"), ("blue", "ball")], "en", np.random.default_rng(0))
    assert "red" in caption
    assert "blue" in caption
    assert " and " in caption
