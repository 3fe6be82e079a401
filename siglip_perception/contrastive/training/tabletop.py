"""Train the embedded model's two towers on generated scenes and write its model folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from siglip_perception.checkpoints import GROUNDING, resolve, write_manifest
from siglip_perception.checkpoints.folder import Folder
from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.checkpoints.offline import quiet
from siglip_perception.contrastive.data.samples import PairBatch
from siglip_perception.contrastive.distributed import World
from siglip_perception.contrastive.objectives.caption_objective import CaptionObjective
from siglip_perception.contrastive.objectives.dino import DinoSettings
from siglip_perception.contrastive.objectives.dino_objective import DINO_STATE, DinoObjective
from siglip_perception.contrastive.objectives.tabletop_objectives import (
    AffinityObjective,
    SiglipObjective,
)
from siglip_perception.contrastive.tabletop_model import (
    new_dinov2,
    new_siglip,
    new_tokenizer,
    save_half,
    wrap_tokenizer,
)
from siglip_perception.contrastive.training.loop import train
from siglip_perception.contrastive.training.metrics_log import MetricsLog
from siglip_perception.contrastive.training.model_io import replace_folder
from siglip_perception.contrastive.training.optimizers import new_optimizers
from siglip_perception.contrastive.training.recipe import TOWERS, Recipe
from siglip_perception.contrastive.training.run_state import STATE, RunState
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.calibration import calibrate
from siglip_perception.evaluation.linear_probe import scene_metrics
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.scenes.rendered.shards import RenderedShards
from siglip_perception.scenes.samples.batches import Batch, batches
from siglip_perception.scenes.samples.items import TABLETOP, RenderedShare
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


TowerObjective = SiglipObjective | AffinityObjective | CaptionObjective | DinoObjective


def new_objective(
    recipe: Recipe, bf16: bool
) -> tuple[TowerObjective, PreTrainedTokenizerFast | None]:
    """Create a tower with its training objective, and the tokenizer for SigLIP."""
    seed, by_masks = recipe.seed, recipe.supervision == "masks"
    if recipe.tower == "siglip":
        tokenizer = (
            wrap_tokenizer(_initial(recipe, PreTrainedTokenizerFast).backend_tokenizer)
            if recipe.initial
            else new_tokenizer(_corpus(seed))
        )
        model = new_siglip(tokenizer, seed)
        load_initial(model, recipe)
        if by_masks:
            return SiglipObjective(model, tokenizer), tokenizer
        return CaptionObjective(model, tokenizer, recipe.steps), tokenizer
    dinov2 = new_dinov2(seed)
    settings = load_initial(dinov2, recipe)
    if by_masks:
        return AffinityObjective(dinov2, settings), None
    encoder = EncoderInput.of(TABLETOP, TABLETOP.encoder("dinov2"))
    return DinoObjective(dinov2, encoder, DinoSettings(), recipe.steps, bf16), None


def load_initial(model: PreTrainedModel, recipe: Recipe) -> GroundingSettings:
    """Copy the weights that the recipe starts from, if it names some, into a new tower.

    Returns what that model's folder says of its grounding. Raises PerceptionError for a folder
    that cannot be read, and for a tower of another shape.
    """
    if not recipe.initial:
        return GroundingSettings()
    other, report = _initial(
        recipe,
        type(model),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    shapes, other_shapes = (
        {name: value.shape for name, value in m.state_dict().items()} for m in (model, other)
    )
    if shapes != other_shapes:
        raise PerceptionError(
            f"The recipe of {recipe.tower} starts from {recipe.initial}, which has other layers"
            " than the embedded model: name a model that this recipe trained."
        )
    # transformers would fill these with random weights, and only log it.
    if lost := sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])}):
        raise PerceptionError(
            f"The recipe of {recipe.tower} starts from {recipe.initial}, whose weights are not"
            f" whole ({lost[0]}): train that model again, or get a fresh copy."
        )
    model.load_state_dict(other.state_dict())
    folder = Folder(resolve(recipe.initial))
    content = folder.read_json(GROUNDING) if folder.has(GROUNDING) else {}
    return GroundingSettings.from_mapping(content)


def _initial(recipe: Recipe, kind: Any, **options: Any) -> Any:
    """Load a part, of that transformers class, of the tower that the recipe starts from."""
    tower = resolve(recipe.initial) / recipe.tower
    try:
        with quiet():
            return kind.from_pretrained(tower, local_files_only=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise PerceptionError(
            f"The recipe of {recipe.tower} starts from {recipe.initial}, which has no such tower"
            f" that can be read ({reason})."
        ) from error


class _SceneObjective:
    """Adapts a tower's objective to the loop; a step's rng is seeded by seed and step number."""

    def __init__(self, objective: TowerObjective, seed: int, bf16: bool) -> None:
        self._objective, self._seed, self._bf16 = objective, seed, bf16

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._objective.parameters()

    def train(self) -> None:
        self._objective.train()

    def backward(self, batch: Batch, accumulate: int, world: World, step: int) -> dict[str, float]:
        rng = np.random.default_rng((self._seed, step))
        if isinstance(self._objective, DinoObjective):
            seeds = rng.integers(2**40, size=len(batch.captions)).tolist()
            pairs = PairBatch(batch.images, batch.captions, seeds, [], [])
            return self._objective.backward(pairs, accumulate, world, step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            if isinstance(self._objective, CaptionObjective):
                result = self._objective(batch, rng, step)
            else:
                result = self._objective(batch, rng)
        result.loss.backward()
        return {"loss": float(result.loss.detach()), **result.parts}

    def after_step(self, step: int) -> None:
        """Update the teacher, if there is one."""
        if isinstance(self._objective, DinoObjective):
            self._objective.after_step(step)


def train_tower(
    recipe: Recipe,
    run: Path,
    *,
    bf16: bool,
    validation_scenes: int = 128,
    save_every: int = 100,
    tensorboard: bool = False,
    rendered: RenderedShards | None = None,
) -> None:
    """Train one tower in the folder `run`, or resume there.

    bf16: use bfloat16 products. validation_scenes: number of held-out scenes per evaluation.
    rendered: scenes for a recipe that takes a share of them.
    """
    share = None
    if recipe.rendered:
        if rendered is None:
            raise ValueError("a recipe with a share of rendered scenes needs these")
        share = RenderedShare(rendered, recipe.rendered)
    run.mkdir(parents=True, exist_ok=True)
    with quiet():
        objective, tokenizer = new_objective(recipe, bf16)
    options = recipe.loop_options(save_every)
    optimizers = new_optimizers(
        objective, options.lr, options.weight_decay, recipe.optimizer, bf16=bf16
    )

    def is_continuation(previous: Mapping[str, Any], step: int) -> bool:
        return recipe.continues(Recipe(**previous), step)

    state = RunState(
        run, objective, optimizers, asdict(recipe), DINO_STATE, is_continuation=is_continuation
    )
    first_step, _ = state.load()
    count = validation_scenes
    validation = next(iter(batches(VALIDATION_SEED, 0, count, count, workers=0)))

    def measure() -> dict[str, float]:
        objective.eval()
        if isinstance(objective, DinoObjective):
            metrics = scene_metrics(objective.features)
        else:
            metrics = objective.measure(validation)
        objective.train()
        return metrics

    scenes = batches(
        recipe.seed + TRAIN_SEED_OFFSET,
        first_step * options.batch,
        options.steps * options.batch,
        options.batch,
        rendered=share,
        objects=recipe.objects,
        repeated=recipe.scenes,
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


def export(runs: Path, output: Path, recipes: Mapping[str, Recipe], calibration: int) -> None:
    """Write both trained towers as a model folder, replace_folder an existing one at the end.

    calibration: number of drawn scenes to calibrate presence on, and twice as many rendered ones
    where the recipes ask for such: they are inside the training, too, and vary more. 0 skips
    both. Weights trained on whole images are never calibrated: they stand in for stock ones.
    """
    settings: dict[str, Any] = {}
    with replace_folder(output) as fresh:
        for tower in TOWERS:
            with quiet():
                objective, tokenizer = new_objective(recipes[tower], bf16=False)
            tensors = load_file(runs / tower / STATE)
            # What no step changes is not in the state, and not in the model that is kept.
            objective.load_state_dict(
                {
                    n.removeprefix("model."): v
                    for n, v in tensors.items()
                    if n.startswith("model.")
                },
                strict=False,
            )
            with quiet():
                save_half(objective.model, fresh / tower)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh / tower)
            if isinstance(objective, AffinityObjective):
                settings["affinity_scale"] = objective.logit_scale.exp().item()
                settings["affinity_bias"] = objective.logit_bias.item()
        if settings:
            settings |= {"head_mlp": True, "templates": {x: ["{}"] for x in LANGUAGES}}
            (fresh / GROUNDING).write_text(json.dumps(settings, indent=2) + "\n")
        write_manifest(fresh)
        if calibration and all(recipe.supervision == "masks" for recipe in recipes.values()):
            with_rendered = any(recipe.rendered for recipe in recipes.values())
            calibrate(fresh, calibration, 2 * calibration if with_rendered else 0)
            write_manifest(fresh)
