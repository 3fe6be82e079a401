"""The experiments from the command line, and their measures on hand-computed cases."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from siglip_perception.commands import main
from siglip_perception.commands.experiment import QUESTIONS, module_of
from siglip_perception.contrastive.losses.losses import sigmoid_loss
from siglip_perception.errors import PerceptionError
from siglip_perception.experiments import complementarity, language_aligned, matrix, policy
from siglip_perception.experiments.batch_size import in_groups
from siglip_perception.experiments.patch_features import (
    OBJECTS,
    EncodedScene,
    SceneEncoder,
    scenes_of,
)
from siglip_perception.experiments.peak_memory import peak_mib
from siglip_perception.experiments.report import Options, table
from siglip_perception.experiments.signals import place_probe
from siglip_perception.experiments.toy_model import SmallTowers, retrieval, small_pairs
from siglip_perception.robot.episodes import sample_episode
from siglip_perception.robot.world import World
from siglip_perception.scenes.vocabulary import COLORS, KINDS


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_experiment_of_the_command_has_its_module(name: str) -> None:
    assert importlib.util.find_spec(module_of(name)) is not None


def needs_renderer() -> None:
    """Skip where MuJoCo (extra robot) or EGL is not there."""
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("MuJoCo (extra robot) is not installed")
    try:
        with World(sample_episode(0, 1), 1, 64, 48) as world:
            world.render()
    except PerceptionError as error:
        pytest.skip(f"this machine has no EGL: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_experiment_runs_and_writes_what_it_found(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "policy":
        needs_renderer()
    assert main.main(["experiment", name, "--quick", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["question"] == QUESTIONS[name]
    assert report["rows"]
    assert report["findings"]
    for row in report["rows"]:
        assert row.keys() == report["rows"][0].keys()
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, (int, float)))
    picture = cv2.imread(str(tmp_path / f"{name}.png"))
    assert picture is not None
    assert picture.shape[1] > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert (tmp_path / f"{name}.png").stat().st_size < 150_000
    text = (tmp_path / f"{name}.md").read_text()
    assert f"![{name}]({name}.png)" in text
    assert table(report["rows"]) in text
    assert table(report["rows"]) in capsys.readouterr().out


def test_entries_of_the_matrix_have_the_gradients_of_the_formulas() -> None:
    cosines = matrix.cosines(3)
    bias = matrix.learned_bias(cosines)
    logits = matrix.SCALE * cosines
    yes = torch.sigmoid(logits + bias)
    expected = yes - torch.eye(matrix.N)
    actual = matrix.entry_gradients(
        cosines, matrix.sigmoid_with_targets(torch.eye(matrix.N), bias)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert abs(float(actual.sum())) < 1e-4  # the bias has nothing more to learn
    softmax = (logits.softmax(dim=1) + logits.softmax(dim=0)) / 2 - torch.eye(matrix.N)
    torch.testing.assert_close(
        matrix.entry_gradients(cosines, matrix.clip), softmax, rtol=1e-4, atol=1e-6
    )


def test_what_the_matrix_shows() -> None:
    outcome = matrix.run(Options(seed=1))
    softmax, sigmoid = (
        {k: v for k, v in row.items() if isinstance(v, (int, float))} for row in outcome.rows
    )
    second, missing = "second right answer", "an entry's change with half of the texts missing"
    assert softmax[second] > 0 > sigmoid[second]
    # Two texts alike in two of eight rows and columns: log 2 each, and no way below it.
    assert softmax["least loss with it"] == pytest.approx(math.log(2) / 4, abs=1e-3)
    assert sigmoid["least loss with it"] < 1e-3
    assert softmax[missing] > 0.1
    assert sigmoid[missing] == 0


def test_the_loss_in_groups_compares_only_within_them() -> None:
    image, text = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
    halves = [sigmoid_loss(image[i : i + 2], text[i : i + 2], 5.0, -1.0) for i in (0, 2)]
    actual = in_groups(lambda x, y, s, b: sigmoid_loss(x, y, 5.0, -1.0), 2)(
        image, text, torch.ones(()), torch.ones(())
    )
    assert actual == sum(halves) / 2


def test_small_scenes_are_distinct_and_retrieval_counts_both_ways() -> None:
    pairs = small_pairs(12, seed=5, distinct=True)
    assert pairs.images.shape == (12, 3, 48, 64)
    assert len({tuple(words) for words in pairs.words.tolist()}) == 12
    assert int(pairs.words.max()) < len(COLORS) + len(KINDS)

    class SwappedText(torch.nn.Module):
        """Swaps texts 0 and 1: both are wrong in either direction, the other ten are right."""

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return torch.eye(len(words))[[1, 0, *range(2, 12)]]

    class OneHotTowers(SmallTowers):
        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(len(images))

    model = OneHotTowers(0, 8)
    model.text = SwappedText()  # type: ignore[assignment]
    assert retrieval(model, pairs) == pytest.approx(10 / 12)


@pytest.fixture(scope="module")
def scene() -> EncodedScene:
    return SceneEncoder("tabletop").encode(scenes_of(7, 1), "")[0]


def test_a_seen_scene_has_its_objects_where_they_are(scene: EncodedScene) -> None:
    patches = len(scene.coverage)
    assert scene.coverage.shape == (patches, OBJECTS)
    assert len(scene.siglip) == len(scene.dino) == len(scene.pixels) == patches
    assert float(scene.coverage.max()) > 0.9
    side = int(patches**0.5)
    rows, columns = np.divmod(np.arange(patches), side)
    for number, item in enumerate(scene.scene.objects):
        share = scene.coverage[:, number].numpy()
        # Scenes are 4/3 as wide as high, and squashed to the square.
        assert np.average(columns + 0.5, weights=share) / side == pytest.approx(
            item.x * 3 / 4, abs=0.08
        )
        assert np.average(rows + 0.5, weights=share) / side == pytest.approx(item.y, abs=0.08)


def test_pointing_is_right_on_an_object_of_that_name_alone(scene: EncodedScene) -> None:
    for number, name in enumerate(scene.names):
        scores = scene.coverage[:, number]
        assert language_aligned.points_at(scene, scores, name)
        names = [name for name in scene.names if name != name]
        assert not any(language_aligned.points_at(scene, scores, name) for name in names)


def test_no_color_and_no_kind_is_wholly_held_out() -> None:
    held_out = language_aligned.held_out_pairs(4)
    assert 0.1 < len(held_out) / (len(COLORS) * len(KINDS)) < 0.3
    for color in COLORS:
        assert any((color, kind) not in held_out for kind in KINDS)
    for kind in KINDS:
        assert any((color, kind) not in held_out for color in COLORS)


def test_a_linear_map_finds_the_map_that_made_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator) * 3 + 1
    weights = torch.randn(6, 2, generator=generator)
    linear_map = language_aligned.fit_map(features, features @ weights - 4, 1e-9)
    new = torch.randn(20, 6, generator=generator)
    torch.testing.assert_close(linear_map(new), new @ weights - 4, rtol=1e-3, atol=1e-3)


def test_overlaps_and_mean_features_by_hand() -> None:
    regions = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    truth = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[1 / 2, 1 / 4], [0.0, 2 / 3]])
    torch.testing.assert_close(complementarity.overlaps(regions, truth), expected)
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(
        complementarity.mean_feature(features, regions),
        torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
    )


def test_the_place_is_found_where_it_is_written_and_not_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    gradient_map = (
        torch.stack([rows + columns, rows - columns], dim=-1).view(1, 25, 2).repeat(8, 1, 1)
    )
    noise = torch.randn(8, 25, 2, generator=generator)
    assert place_probe(gradient_map, gradient_map) > 0.99
    assert place_probe(noise, noise.flip(0)) < 0.1


def test_peak_memory_is_what_a_step_takes_and_gives_back() -> None:
    assert 60 < peak_mib(lambda: torch.ones(16, 2**20)) < 80  # 64 MiB
    assert peak_mib(lambda: None) < 8


def test_a_head_learns_where_the_patch_of_a_color_is() -> None:
    # Tokens of two colors, each in one patch of a row of eight: what a head is asked for is where.
    generator = torch.Generator().manual_seed(0)
    count, patches = 200, 8
    places = torch.stack([torch.linspace(-0.2, 0.2, patches), torch.zeros(patches)], dim=-1)
    spots = torch.stack([torch.randperm(patches, generator=generator)[:2] for _ in range(count)])
    tokens = 0.05 * torch.randn(count, patches, 4, generator=generator)
    for color in range(2):
        tokens[torch.arange(count), spots[:, color], color] += 1
    points = torch.cat([places[spots], torch.full((count, 2, 1), 0.06)], dim=-1)
    shown = policy.Demonstrations(
        torch.tensor([[[0, 0], [1, 0]]]).expand(count, 2, 2), points, torch.zeros(count, 2, 2)
    )
    head = policy.train_head(tokens, shown, places, 150, 0)
    with torch.no_grad():
        answers, _ = head(tokens, shown.words)
    assert float((answers - points).norm(dim=-1).median()) < 0.01


def test_the_interval_of_a_share() -> None:
    # Brown, Cai and DasGupta 2001: 8 of 10.
    low, high = policy.wilson(8, 10)
    assert [low, high] == pytest.approx([0.490, 0.943], abs=1e-3)
    assert policy.wilson(0, 20)[0] == 0
    assert policy.wilson(20, 20)[1] == pytest.approx(1)


def test_the_interval_of_a_share_holds_the_share() -> None:
    # The upper end of 60 of 60 was 1 - 1e-16, and the plot refused an error bar below 0.
    for count in range(1, 100):
        for hits in range(count + 1):
            low, high = policy.wilson(hits, count)
            assert 0 <= low <= hits / count <= high <= 1


def test_what_is_done_to_a_picture() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[..., 0] = 200
    assert policy.swap_channels(image, 24)[0, 0].tolist() == [0, 0, 200]
    assert policy.resize_without_antialiasing(image, 24).shape == (24, 24, 3)
