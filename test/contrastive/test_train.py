"""The trainer: a few real steps, resumed, exported, and loaded as the node does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_random_model
from safetensors.torch import load_file, save_file

from siglip_perception import checkpoints
from siglip_perception.checkpoints import MODELS
from siglip_perception.commands.main import main
from siglip_perception.contrastive.objectives.tabletop_objectives import AffinityObjective
from siglip_perception.contrastive.training.recipe import TOWERS, Recipe, read_recipes
from siglip_perception.contrastive.training.run_state import RunState
from siglip_perception.contrastive.training.tabletop import new_objective, train_tower
from siglip_perception.errors import PerceptionError

pytestmark = pytest.mark.numeric

TINY: dict[str, Any] = {"batch": 2, "warmup": 2}
OPTIONS: dict[str, Any] = {"bf16": False, "validation_scenes": 2, "save_every": 1}


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _in_parts(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, run: Path) -> None:
    """Train, ending after every saved state as if killed there."""
    save = RunState.save

    def save_and_stop(self: RunState, step: int, extra: Mapping[str, Any]) -> None:
        save(self, step, extra)
        if step < recipe.steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", save_and_stop)
        for _ in range(recipe.steps - 1):
            with pytest.raises(KeyboardInterrupt):
                train_tower(recipe, run, **OPTIONS)
        train_tower(recipe, run, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe("dinov2", steps=3, optimizer=optimizer, **TINY)
    train_tower(recipe, tmp_path / "whole", **OPTIONS)
    _in_parts(monkeypatch, recipe, tmp_path / "parts")
    full, parts = (_rows(tmp_path / name) for name in ("whole", "parts"))
    assert len(full) == 3
    timing_keys = {"images_per_s", "seconds_left"}
    for row, earlier in zip(full, parts, strict=True):
        assert {k: v for k, v in row.items() if k not in timing_keys} == {
            k: v for k, v in earlier.items() if k not in timing_keys
        }
    assert "mask_iou" in full[-1]


def test_the_rate_rises_holds_and_falls() -> None:
    recipe = Recipe("siglip", steps=110, lr=1.0, warmup=10, cooldown=0.4)
    plan = recipe.loop_options()
    assert plan.cooldown_start == 70
    rates = [plan.rate(step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:71] == [1.0] * 61
    assert rates[90] == pytest.approx(0.505)
    assert 0.01 < rates[-1] < 0.02


def test_more_steps_can_be_asked_for_until_the_rate_falls() -> None:
    recipe = Recipe("siglip", steps=110, warmup=10, cooldown=0.4)
    longer = replace(recipe, steps=210)
    assert longer.continues(recipe, 70)
    assert not longer.continues(recipe, 71)
    assert not replace(longer, seed=1).continues(recipe, 20)


@pytest.mark.parametrize(
    ("name", "rendered"), [("train_tabletop", 0.0), ("train_tabletop_rendered", 0.6)]
)
def test_a_shipped_recipe_is_read(name: str, rendered: float) -> None:
    recipes = read_recipes(Path(__file__).parents[2] / "config" / f"{name}.yaml")
    assert set(recipes) == set(TOWERS)
    assert all(recipe.optimizer == "muon" for recipe in recipes.values())
    assert all(recipe.rendered == rendered for recipe in recipes.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("siglip: [", "cannot be read"),
        ("- 1", "has to contain"),
        ("siglip: {steps: 5, rate: 1}\ndinov2: {steps: 5}", "siglip rate: 1"),
        ("siglip: {steps: 5.5}\ndinov2: {steps: 5}", "siglip steps: 5.5"),
        ("siglip: {steps: 5}", "no steps for dinov2"),
        ("siglip: {steps: 0}\ndinov2: {steps: 5}", "1 or more steps"),
        ("siglip: {steps: 5, optimizer: sgd}\ndinov2: {steps: 5}", "or optimizer 'sgd'"),
    ],
)
def test_a_wrong_recipe_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(PerceptionError, match=reason):
        read_recipes(path)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_recipe_starts_from_the_weights_that_it_names(tower: str, tmp_path: Path) -> None:
    folder = MODELS / "tabletop"
    objective, tokenizer = new_objective(Recipe(tower, steps=1, initial="tabletop"), bf16=False)
    stored = load_file(folder / tower / "model.safetensors")
    trained = sorted(value.sum().item() for value in objective.model.state_dict().values())
    np.testing.assert_allclose(trained, sorted(v.float().sum().item() for v in stored.values()))
    if tokenizer is not None:
        tokenizer.save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / name).read_text() == (folder / tower / name).read_text()
    if isinstance(objective, AffinityObjective):
        settings = json.loads((folder / "grounding.json").read_text())
        assert objective.logit_bias.item() == pytest.approx(settings["affinity_bias"])
        assert objective.logit_scale.exp().item() == pytest.approx(settings["affinity_scale"])


def test_a_recipe_does_not_start_from_half_of_the_weights(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "tabletop", tmp_path / "half")
    file = tmp_path / "half/dinov2/model.safetensors"
    tensors = load_file(file)
    del tensors["layernorm.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(PerceptionError, match=r"not whole \(layernorm\.weight\)"):
        new_objective(Recipe("dinov2", steps=1, initial=str(tmp_path / "half")), bf16=False)


def test_a_recipe_does_not_start_from_another_network(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model")
    for initial, reason in (
        (str(tmp_path / "model"), "has other layers than"),
        (str(tmp_path), "has no such tower that can be read"),
    ):
        with pytest.raises(PerceptionError, match=reason):
            new_objective(Recipe("dinov2", steps=1, initial=initial), bf16=False)


def test_another_recipe_does_not_go_on_from_a_run(tmp_path: Path) -> None:
    train_tower(Recipe("dinov2", steps=1, **TINY), tmp_path, **OPTIONS)
    earlier = Recipe("dinov2", steps=1, lr=1e-4, **TINY)
    with pytest.raises(PerceptionError, match="another recipe"):
        train_tower(earlier, tmp_path, **OPTIONS)


@pytest.mark.slow
def test_the_command_trains_both_towers_into_a_model_that_loads(tmp_path: Path) -> None:
    output = tmp_path / "model"
    short = ["--steps", "2", "--batch", "2", "--validation", "4", "--calibration", "0", "--fp32"]
    assert main(["train", "-o", str(output), *short]) == 0
    models = checkpoints.load(output)
    assert models.verified
    assert models.grounding["affinity_scale"] > 0
    assert models.siglip is not None
    assert models.tokenizer is not None
    assert models.siglip.logit_bias.item() == pytest.approx(-10, abs=0.1)
    assert next(models.siglip.parameters()).dtype == torch.float32
    ids = models.tokenizer(["빨간 컵", "red cup 🤖"])["input_ids"]
    assert all(len(row) > 1 for row in ids)
    assert sum(f.stat().st_size for f in output.rglob("*") if f.is_file()) < 12e6


def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "manifest.json").write_text("{}")
    assert main(["train", "-o", str(tmp_path), "--steps", "1"]) == 2
    assert "more than a model" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
