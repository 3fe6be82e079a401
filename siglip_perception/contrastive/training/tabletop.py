"""Train the embedded model's two towers on generated scenes and write its model folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from siglip_perception.checkpoints import GROUNDING, write_manifest
from siglip_perception.checkpoints.offline import quiet
from siglip_perception.contrastive.objectives.tabletop_objectives import (
    AffinityObjective,
    SiglipObjective,
)
from siglip_perception.contrastive.training.distributed import World
from siglip_perception.contrastive.training.loop import train
from siglip_perception.contrastive.training.metrics_log import MetricsLog
from siglip_perception.contrastive.training.model_io import replace_folder
from siglip_perception.contrastive.training.optimizers import new_optimizers
from siglip_perception.contrastive.training.recipe import TOWERS, Recipe
from siglip_perception.contrastive.training.run_state import STATE, RunState
from siglip_perception.contrastive.training.tabletop_model import (
    new_dinov2,
    new_siglip,
    new_tokenizer,
    save_half,
)
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.platt import calibrate
from siglip_perception.scenes.rendered.shards import RenderedShards
from siglip_perception.scenes.samples import Batch, RenderedShare, batches
from siglip_perception.scenes.vocabulary import (
    COLORS,
    KINDS,
    LANGUAGES,
    PHRASE_CLASSES,
    sample_caption,
    sample_phrase,
)

TRAIN_SEED_OFFSET = 1_000_003
VALIDATION_SEED = 77


def _corpus(seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    for language in LANGUAGES:
        for phrase in PHRASE_CLASSES:
            yield from phrase.forms(language)
        for _ in range(2000):
            count = int(rng.integers(1, 7))
            color_kinds = [
                (list(COLORS)[rng.integers(len(COLORS))], list(KINDS)[rng.integers(len(KINDS))])
                for _ in range(count)
            ]
            yield sample_caption(color_kinds, language, rng)
            yield sample_phrase(PHRASE_CLASSES[rng.integers(len(PHRASE_CLASSES))], language, rng)


def new_objective(
    tower: str, seed: int
) -> tuple[SiglipObjective | AffinityObjective, PreTrainedTokenizerFast | None]:
    """Create a tower with its training objective, and the tokenizer for SigLIP."""
    if tower == "siglip":
        tokenizer = new_tokenizer(_corpus(seed))
        return SiglipObjective(new_siglip(tokenizer, seed), tokenizer), tokenizer
    return AffinityObjective(new_dinov2(seed)), None


class _SceneObjective:
    """Adapts a tower's objective to the loop; a step's rng is seeded by seed and step number."""

    def __init__(
        self, objective: SiglipObjective | AffinityObjective, seed: int, bf16: bool
    ) -> None:
        self._objective, self._seed, self._bf16 = objective, seed, bf16

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._objective.parameters()

    def train(self) -> None:
        self._objective.train()

    def backward(self, batch: Batch, accumulate: int, world: World, step: int) -> dict[str, float]:
        rng = np.random.default_rng((self._seed, step))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            result = self._objective(batch, rng)
        result.loss.backward()
        return {"loss": float(result.loss.detach()), **result.parts}

    def after_step(self, step: int) -> None:
        """Do nothing."""


def train_tower(
    recipe: Recipe,
    run: Path,
    *,
    bf16: bool,
    validation_scenes: int = 128,
    save_every: int = 100,
    tensorboard: bool = False,
    rendered: Path | None = None,
) -> None:
    """Train one tower in the folder `run`, or resume there.

    bf16: use bfloat16 products. validation_scenes: number of held-out scenes per evaluation.
    rendered: folder of rendered scenes, for a recipe with a share of them.
    """
    mixture = _mixture(recipe, rendered)
    run.mkdir(parents=True, exist_ok=True)
    with quiet():
        objective, tokenizer = new_objective(recipe.tower, recipe.seed)
    options = recipe.loop_options(save_every)
    optimizers = new_optimizers(
        objective, options.lr, options.weight_decay, recipe.optimizer, bf16=bf16
    )

    def is_continuation(previous: Mapping[str, Any], step: int) -> bool:
        return recipe.continues(Recipe(**previous), step)

    state = RunState(run, objective, optimizers, asdict(recipe), is_continuation=is_continuation)
    first_step, _ = state.load()
    count = validation_scenes
    validation = next(iter(batches(VALIDATION_SEED, 0, count, count, workers=0)))

    def measure() -> dict[str, float]:
        objective.eval()
        metrics = objective.measure(validation)
        objective.train()
        return metrics

    scenes = batches(
        recipe.seed + TRAIN_SEED_OFFSET,
        first_step * options.batch,
        options.steps * options.batch,
        options.batch,
        rendered=mixture,
    )
    log = MetricsLog(run, recipe.tower, options.steps, first_step, options.batch, tensorboard)
    world = World(torch.device("cpu"))
    try:
        train(
            _SceneObjective(objective, recipe.seed, bf16),
            iter(scenes),
            options,
            optimizers,
            state,
            world,
            log,
            first_step,
            measure=measure,
        )
    finally:
        log.close()
    if tokenizer is not None:
        tokenizer.save_pretrained(run / "tokenizer")


def _mixture(recipe: Recipe, folder: Path | None) -> RenderedShare | None:
    if recipe.rendered == 0:
        return None
    if folder is None:
        raise PerceptionError(
            f"The recipe of {recipe.tower} takes {recipe.rendered:.0%} of its scenes from rendered"
            " ones: name their folder with --rendered DIR, and make them with siglip-perception"
            " scenes -o DIR."
        )
    return RenderedShare(RenderedShards(folder), recipe.rendered)


def export(runs: Path, output: Path, seed: int, calibration: int) -> None:
    """Write both trained towers as a model folder, replace_folder an existing one at the end.

    calibration: number of generated scenes to calibrate presence on; 0 skips calibration.
    """
    settings: dict[str, float] = {}
    with replace_folder(output) as fresh:
        for tower in TOWERS:
            with quiet():
                objective, tokenizer = new_objective(tower, seed)
            tensors = load_file(runs / tower / STATE)
            objective.load_state_dict(
                {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}
            )
            with quiet():
                save_half(objective.model, fresh / tower)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh / tower)
            if isinstance(objective, AffinityObjective):
                settings["affinity_scale"] = objective.logit_scale.exp().item()
                settings["affinity_bias"] = objective.logit_bias.item()
        (fresh / GROUNDING).write_text(json.dumps(settings, indent=2) + "\n")
        write_manifest(fresh)
        if calibration:
            calibrate(fresh, calibration)
            write_manifest(fresh)
