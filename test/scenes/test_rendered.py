"""Scenes in three dimensions: meshes, layouts, and what MuJoCo draws of them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from siglip_perception.errors import PerceptionError
from siglip_perception.scenes.rendered.kinds import CLUTTER, SHAPES
from siglip_perception.scenes.rendered.layout import Layout, Thing, sample_layout
from siglip_perception.scenes.rendered.meshes import Mesh, ball, box, extrude, lathe, tube
from siglip_perception.scenes.rendered.shards import (
    RenderedShards,
    RenderedThing,
    StoredScene,
    render_scene,
)
from siglip_perception.scenes.rendered.stage import Stage
from siglip_perception.scenes.rendered.views import sample_view
from siglip_perception.scenes.samples.batches import SceneDataset
from siglip_perception.scenes.samples.items import (
    GRID,
    MAX_THINGS,
    RenderedShare,
    instance_coverage,
)
from siglip_perception.scenes.vocabulary import KINDS, PHRASE_CLASSES


def volume(mesh: Mesh) -> float:
    """Signed volume of a closed mesh: positive where its triangles face outwards."""
    first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->i", first, np.cross(second, third)).sum() / 6)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (box(1, 2, 3), 6.0),
        (box(1, 2, 3, 0.01), 6.0),
        (ball(1, 60), 4 / 3 * np.pi),
        (lathe([(0, 0), (1, 0), (1, 2), (0, 2)], 100), 2 * np.pi),
        (tube(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2]]), [1, 1, 1], 100), 2 * np.pi),
        (extrude([(0, 0), (1, 0), (1, 1), (0, 1)], 2), 2.0),
    ],
)
def test_a_solid_has_its_volume_and_faces_outwards(mesh: Mesh, expected: float) -> None:
    assert volume(mesh) == pytest.approx(expected, rel=0.04)


def test_every_kind_that_phrases_name_has_shapes() -> None:
    assert set(SHAPES) == set(KINDS)
    assert not set(CLUTTER) & set(KINDS)


@pytest.mark.parametrize("kind", [*SHAPES, *CLUTTER])
def test_a_shape_stands_on_the_table_and_fits_a_hand(kind: str) -> None:
    make = (SHAPES | CLUTTER)[kind]
    shapes = [make(np.random.default_rng(seed)) for seed in range(20)]
    for shape in shapes:
        extent = np.ptp(shape.vertices(), axis=0)
        assert 0.02 < extent.max() < 0.4
        assert all(part.mesh.faces.max() < len(part.mesh.vertices) for part in shape.parts)
    # No two alike: proportions vary, not only sizes.
    ratios = {
        round(float(s.vertices()[:, 2].max() / np.ptp(s.vertices()[:, 0])), 3) for s in shapes
    }
    assert len(ratios) > 10 or kind == "ball"


@cache
def stock() -> tuple[Thing, ...]:
    rng = np.random.default_rng(0)
    named = [Thing(kind, True, make(rng)) for kind, make in SHAPES.items() for _ in range(3)]
    return (*named, *(Thing(kind, False, make(rng)) for kind, make in CLUTTER.items()))


def layout(seed: int, count: int = 6, *, twins: bool = False) -> Layout:
    return sample_layout(np.random.default_rng(seed), stock(), count, 4, 4, twins=twins)


def test_a_layout_is_the_same_for_the_same_seed() -> None:
    assert repr(layout(3)) == repr(layout(3))
    assert repr(layout(3)) != repr(layout(4))


def test_things_have_distinct_names_and_rest_on_something() -> None:
    things = stock()
    for seed in range(12):
        scene = layout(seed)
        names = [(item.color, things[item.thing].kind) for item in scene.objects]
        assert len(set(names)) == len(names)
        for item in (*scene.objects, *scene.clutter):
            lowest = things[item.thing].shape.vertices() @ item.rotation.T + item.position
            assert lowest[:, 2].min() > -1e-6


def test_twins_share_a_color_and_a_kind() -> None:
    things = stock()
    scenes = [layout(seed, 3, twins=True) for seed in range(8)]
    pairs = [
        [(item.color, things[item.thing].kind) for item in scene.objects]
        for scene in scenes
        if len(scene.objects) == 3
    ]
    assert pairs
    assert all(names[0] == names[2] != names[1] for names in pairs)


def test_the_camera_projects_as_a_pinhole_does() -> None:
    camera = layout(0).camera
    ahead = np.array(camera.position) - camera.rotation[:, 2] * 2
    pixels, depth = camera.project(ahead[None], 640, 480)
    assert pixels[0] == pytest.approx([320, 240])
    assert depth[0] == pytest.approx(2)
    # The upper edge is half the field of view away.
    above = ahead + camera.rotation[:, 1] * 2 * np.tan(np.radians(camera.fovy) / 2)
    assert camera.project(above[None], 640, 480)[0][0] == pytest.approx([320, 0], abs=1e-6)


def stored(things: int = 2) -> StoredScene:
    instances = np.zeros((360, 480), np.uint8)
    instances[100:200, 100:200] = 1
    instances[250:350, 300:460] = 2
    image = np.repeat(instances[..., None] * 100, 3, axis=2)
    kinds = [RenderedThing("cup", "red", True, 0.1), RenderedThing("can", "blue", False, 0.0)]
    return StoredScene("0", image, instances, tuple(kinds[:things]), "red cup")


def test_a_view_moves_picture_and_instances_together() -> None:
    sizes = set()
    for seed in range(40):
        view = sample_view(stored(), np.random.default_rng(seed))
        sizes.add(view.instances.shape)
        for number, visible in enumerate(view.in_view):
            inside = view.image[view.instances == number + 1]
            assert bool(len(inside)) == visible
            # Edges blend; the middle of a thing keeps its gray.
            assert not visible or abs(float(np.median(inside)) - 100 * (number + 1)) < 2
    assert len(sizes) == 3


def test_coverage_counts_each_things_share_of_a_patch() -> None:
    instances = np.zeros((36, 36), np.uint8)
    instances[:2, :2] = 1
    instances[34:, 35] = 2
    coverage = instance_coverage(instances, 2)
    assert coverage[0, 0] == pytest.approx(1)
    assert coverage[-1, 1] == pytest.approx(0.5)
    assert coverage.sum() == pytest.approx(1.5)


def test_an_empty_table_is_a_sample_too() -> None:
    assert instance_coverage(np.zeros((48, 64), np.uint8), 0).shape == (GRID * GRID, 0)


def test_a_folder_without_scenes_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(PerceptionError, match=r"siglip-perception scenes -o"):
        RenderedShards(tmp_path)
    with pytest.raises(PerceptionError, match=r"siglip-perception scenes -o"):
        RenderedShards(tmp_path / "none")


def test_a_shard_that_was_cut_is_named(tmp_path: Path) -> None:
    (tmp_path / "rendered-1-000000.tar").write_bytes(b"no tar at all")
    with pytest.raises(PerceptionError, match=r"rendered-1-000000\.tar is no whole shard"):
        RenderedShards(tmp_path)


@pytest.fixture(scope="module")
def stage() -> Stage:
    # Not importorskip: the import chooses between EGL and a window for good.
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("MuJoCo (extra robot) is not installed")
    try:
        return Stage((1,), 160, 120)
    except PerceptionError as error:
        if "cannot draw here" not in str(error):
            raise
        pytest.skip(f"this machine has no EGL: {error}")


def test_a_drawn_scene_shows_each_thing_in_its_color(stage: Stage) -> None:
    shades: dict[str, list[np.ndarray]] = {}
    for index in range(60):
        picture = render_scene(stage, 7, index)
        assert picture.instances.max() <= len(picture.things) <= MAX_THINGS
        for number in range(picture.objects):
            mask = picture.instances == number + 1
            assert mask.sum() >= 0.0012 * mask.size
            assert picture.occlusion[number] <= 0.65
            mean = picture.image[mask].mean(axis=0)
            shades.setdefault(picture.things[number].color, []).append(mean / mean.sum())
    mean = {color: np.mean(values, axis=0) for color, values in shades.items()}
    assert mean["red"].argmax() == 0
    assert mean["green"].argmax() == 1
    assert mean["blue"].argmax() == 2


def test_a_scene_is_drawn_the_same_again(stage: Stage) -> None:
    first, other, again = (render_scene(stage, 7, index) for index in (3, 4, 3))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.kinds == again.kinds


def test_depth_is_the_distance_to_the_table(stage: Stage) -> None:
    picture = render_scene(stage, 7, 0, depth=True)
    assert picture.depth is not None
    assert 0.02 < float(picture.depth.min()) < float(picture.depth.max()) < 13


def test_shards_hold_what_was_drawn_and_train_with_drawn_scenes(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siglip_perception.scenes.rendered import shards

    class Borrowed:
        def __enter__(self) -> Stage:
            return stage

        def __exit__(self, *_: object) -> None:
            """Leave the stage to the other tests."""

    monkeypatch.setattr(shards, "SHARD_SCENES", 3)
    monkeypatch.setattr(shards, "new_stage", lambda *_: Borrowed())
    path = shards.write_shard(tmp_path, 7, 1)
    assert path.name == "rendered-7-000001.tar"
    assert list(tmp_path.iterdir()) == [path]
    scenes = RenderedShards(tmp_path)
    assert len(scenes) == 3
    picture = render_scene(stage, 7, 4)
    assert np.array_equal(scenes[1].instances, picture.instances)
    assert [thing.kind for thing in scenes[1].things] == list(picture.kinds)
    assert np.abs(scenes[1].image.astype(int) - picture.image).mean() < 6

    drawn = SceneDataset(1, 0, 40)
    mixed = SceneDataset(1, 0, 40, RenderedShare(scenes, 0.5))
    same = [np.array_equal(drawn[i][0], mixed[i][0]) for i in range(40)]
    assert 8 < sum(same) < 32
    for index in range(40):
        image, coverage, answers, caption = mixed[index]
        assert image.shape == drawn[0][0].shape
        assert coverage.shape == drawn[0][1].shape
        assert answers.shape == (MAX_THINGS, len(PHRASE_CLASSES))
        assert caption
