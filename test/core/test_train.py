"""The trainer: a few real steps, resumed, exported and loaded as the node loads a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from siglip_perception import checkpoints
from siglip_perception.cli import main
from siglip_perception.contrastive.train import TOWERS, Recipe, read_recipes, train_tower
from siglip_perception.errors import PerceptionError

TINY = {"batch": 2, "warmup": 2}


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    recipe = Recipe("dinov2", steps=4, **TINY)
    options: dict[str, Any] = {"bf16": False, "validation_scenes": 4}
    assert train_tower(recipe, tmp_path / "whole", **options)
    while not train_tower(recipe, tmp_path / "parts", **options, stop_after=0.0):
        pass
    whole, parts = (_rows(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert parts["step"] == whole["step"] == 4
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert parts["mask_iou"] == pytest.approx(whole["mask_iou"], abs=1e-3)


def test_the_rate_rises_holds_and_falls() -> None:
    recipe = Recipe("siglip", steps=110, lr=1.0, warmup=10, cooldown=0.4)
    assert recipe.falls_at == 70
    rates = [recipe.rate(step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:71] == [1.0] * 61
    assert rates[90] == pytest.approx(0.505)
    assert 0.01 < rates[-1] < 0.02


def test_more_steps_can_be_asked_for_until_the_rate_falls() -> None:
    recipe = Recipe("siglip", steps=110, warmup=10, cooldown=0.4)
    longer = replace(recipe, steps=210)
    assert longer.goes_on_from(recipe, 70)
    assert not longer.goes_on_from(recipe, 71)
    assert not replace(longer, seed=1).goes_on_from(recipe, 20)


def test_muon_resumes_too(tmp_path: Path) -> None:
    recipe = Recipe("dinov2", steps=3, optimizer="muon", **TINY)
    options: dict[str, Any] = {"bf16": False, "validation_scenes": 2}
    assert train_tower(recipe, tmp_path / "whole", **options)
    while not train_tower(recipe, tmp_path / "parts", **options, stop_after=0.0):
        pass
    whole, parts = (_rows(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_the_shipped_recipe_is_read() -> None:
    recipes = read_recipes(Path(__file__).parents[2] / "config" / "train_tabletop.yaml")
    assert set(recipes) == set(TOWERS)
    assert all(recipe.optimizer == "muon" for recipe in recipes.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("siglip: [", "cannot be read"),
        ("- 1", "has to hold"),
        ("siglip: {steps: 5, rate: 1}\ndinov2: {steps: 5}", "siglip rate: 1"),
        ("siglip: {steps: 5.5}\ndinov2: {steps: 5}", "siglip steps: 5.5"),
        ("siglip: {steps: 5}", "steps of dinov2"),
        ("siglip: {steps: 0}\ndinov2: {steps: 5}", "1 or more steps"),
        ("siglip: {steps: 5, optimizer: sgd}\ndinov2: {steps: 5}", "no optimizer 'sgd'"),
    ],
)
def test_a_wrong_recipe_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(PerceptionError, match=reason):
        read_recipes(path)


def test_another_recipe_does_not_go_on_from_a_run(tmp_path: Path) -> None:
    train_tower(
        Recipe("dinov2", steps=2, **TINY),
        tmp_path,
        bf16=False,
        validation_scenes=2,
        stop_after=0.0,
    )
    other = Recipe("dinov2", steps=2, lr=1e-4, **TINY)
    with pytest.raises(PerceptionError, match="another recipe"):
        train_tower(other, tmp_path, bf16=False, validation_scenes=2)


def test_the_command_trains_both_towers_into_a_model_that_loads(tmp_path: Path) -> None:
    output = tmp_path / "model"
    short = ["--steps", "2", "--batch", "2", "--validation", "4", "--calibration", "0", "--fp32"]
    assert main(["train", "-o", str(output), *short]) == 0
    models = checkpoints.load(output)
    assert models.verified
    assert models.grounding["affinity_scale"] > 0
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
    assert "something else than a model" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
