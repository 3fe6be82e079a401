"""The trainer: generated scenes in, a model folder that the node loads at once out."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from siglip_perception.checkpoints import GROUNDING, MANIFEST, quiet, write_manifest
from siglip_perception.contrastive.calibrate import calibrate
from siglip_perception.contrastive.data import Batch, batches
from siglip_perception.contrastive.objectives import AffinityObjective, SiglipObjective
from siglip_perception.contrastive.towers import (
    new_dinov2,
    new_siglip,
    new_tokenizer,
    save_half,
)
from siglip_perception.contrastive.vocabulary import (
    COLORS,
    KINDS,
    LANGUAGES,
    PHRASE_CLASSES,
    sample_caption,
    sample_phrase,
)
from siglip_perception.errors import PerceptionError

TRAIN_SEED_OFFSET = 1_000_003
VALIDATION_SEED = 77
_STEPS = 2400
TOWERS = ("siglip", "dinov2")
_STATE_KEYS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, besides the code.

    lr: peak, held from the warm-up to the cooldown, the last share of the steps, in which it falls
    by a cosine. optimizer: "adamw" for every parameter, or "muon" for the
    matrices of the blocks and AdamW at half the rate for the rest (Jordan et al. 2024; scaled to
    AdamW's rates as in Liu et al. 2025, "Muon is scalable for LLM training").
    """

    tower: str
    steps: int
    batch: int = 32
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 150
    cooldown: float = 1.0
    seed: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2:
            raise PerceptionError("Training needs 1 or more steps, and batches of 2 or more.")
        if not 0 < self.cooldown <= 1:
            raise PerceptionError(f"The cooldown {self.cooldown} is not a share in (0, 1].")
        if self.tower not in TOWERS or self.optimizer not in ("adamw", "muon"):
            raise PerceptionError(
                f"There is no tower {self.tower!r} or no optimizer {self.optimizer!r}: use"
                f" {' or '.join(TOWERS)}, and adamw or muon."
            )

    @property
    def falls_at(self) -> int:
        """The step at which the rate begins to fall."""
        return self.steps - round(self.cooldown * max(self.steps - self.warmup, 0))

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, held, then a cosine to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = max(step - self.falls_at, 0) / max(self.steps - self.falls_at, 1)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def goes_on_from(self, other: Recipe, step: int) -> bool:
        """Whether a run of `other` that is at `step` is this one so far.

        Until the rate falls, nothing depends on how many steps there will be.
        """
        if replace(self, steps=other.steps) != other:
            return False
        return self.steps == other.steps or step <= min(self.falls_at, other.falls_at)


def read_recipes(path: Path) -> dict[str, Recipe]:
    """A recipe file: YAML with `seed`, and for each tower by name the other fields of Recipe.

    Raises PerceptionError where it cannot be read, or a name or a value is not a Recipe's.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PerceptionError(f"{path} cannot be read as a YAML recipe.") from error
    if not isinstance(content, dict) or set(content) - {"seed", *TOWERS}:
        raise PerceptionError(
            f"{path} has to hold seed, {' and '.join(TOWERS)}, and nothing else."
        )
    known = {field.name: type(field.default) for field in fields(Recipe) if field.name != "tower"}
    known["steps"] = int
    recipes = {}
    for tower in TOWERS:
        settings = {"seed": content.get("seed", 0), **(content.get(tower) or {})}
        for name, value in settings.items():
            wanted = known.get(name)
            if wanted is None or isinstance(value, bool) or not isinstance(value, wanted):
                raise PerceptionError(
                    f"{path} gives {tower} {name}: {value!r}; a recipe's numbers are"
                    f" {', '.join(known)}, whole ones without a point and the others with one."
                )
        if "steps" not in settings:
            raise PerceptionError(f"{path} does not say the steps of {tower}.")
        recipes[tower] = Recipe(tower, **settings)
    return recipes


def _corpus(seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    for language in LANGUAGES:
        for phrase in PHRASE_CLASSES:
            yield from phrase.forms(language)
        for _ in range(2000):
            count = int(rng.integers(1, 7))
            named = [
                (list(COLORS)[rng.integers(len(COLORS))], list(KINDS)[rng.integers(len(KINDS))])
                for _ in range(count)
            ]
            yield sample_caption(named, language, rng)
            yield sample_phrase(PHRASE_CLASSES[rng.integers(len(PHRASE_CLASSES))], language, rng)


def _optimizers(module: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon before it where the recipe asks for it; each parameter in one of them."""
    matrices = [
        p
        for name, p in module.named_parameters()
        if p.ndim == 2 and recipe.optimizer == "muon" and ("layer" in name or "head" in name)
    ]
    by_muon = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in by_muon]
    share = 0.5 if matrices else 1.0
    groups: list[dict[str, object]] = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    for group in groups:
        group["share"] = share
    adamw = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    if not hasattr(torch.optim, "Muon"):
        raise PerceptionError("The optimizer muon needs PyTorch 2.9 or later: update it.")
    muon = torch.optim.Muon(
        matrices, recipe.lr, recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw]


def _save_state(
    folder: Path,
    objective: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    recipe: Recipe,
    step: int,
) -> None:
    """Write everything that a resumed run needs; an interrupted write leaves the old state."""
    names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters()}
    tensors: dict[str, Tensor] = {
        f"model.{name}": value.contiguous() for name, value in objective.state_dict().items()
    }
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"{key}.{names[parameter]}"] = value
    fresh = folder / "state.new"
    save_file(tensors, fresh, {"step": str(step), "recipe": json.dumps(asdict(recipe))})
    fresh.replace(folder / "state.safetensors")


def _load_state(
    folder: Path, objective: nn.Module, optimizers: list[torch.optim.Optimizer], recipe: Recipe
) -> int:
    """The step to go on from; 0 where there is nothing to resume."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    step = int(metadata["step"])
    if not recipe.goes_on_from(Recipe(**json.loads(metadata["recipe"])), step):
        raise PerceptionError(
            f"{folder} holds a run of another recipe; give the same options or another --output."
        )
    tensors = load_file(path)
    prefix = "model."
    objective.load_state_dict(
        {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    )
    names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                ending = f".{names[parameter]}"
                state = {
                    key: tensors[f"{key}{ending}"]
                    for key in _STATE_KEYS
                    if f"{key}{ending}" in tensors
                }
                if state:
                    optimizer.state[parameter] = state
    return step


def _validation(count: int) -> Batch:
    batch: Batch = next(iter(batches(VALIDATION_SEED, 0, count, count, workers=0)))
    return batch


def make_objective(
    tower: str, seed: int
) -> tuple[SiglipObjective | AffinityObjective, PreTrainedTokenizerFast | None]:
    """A new tower with its training objective; the tokenizer comes with SigLIP."""
    if tower == "siglip":
        tokenizer = new_tokenizer(_corpus(seed))
        return SiglipObjective(new_siglip(tokenizer, seed), tokenizer), tokenizer
    return AffinityObjective(new_dinov2(seed)), None


def train_tower(
    recipe: Recipe,
    run: Path,
    *,
    bf16: bool,
    validation_scenes: int = 128,
    stop_after: float = math.inf,
) -> bool:
    """Train one tower in `run`, or go on where it stopped; True when all steps are done.

    validation_scenes: how many scenes, kept apart, each measurement looks at.
    stop_after: seconds after which the state is written and the run left for later.
    """
    run.mkdir(parents=True, exist_ok=True)
    with quiet():
        objective, tokenizer = make_objective(recipe.tower, recipe.seed)
    optimizers = _optimizers(objective, recipe)
    first = _load_state(run, objective, optimizers, recipe)
    validation = _validation(validation_scenes)
    loader = batches(
        recipe.seed + TRAIN_SEED_OFFSET,
        first * recipe.batch,
        recipe.steps * recipe.batch,
        recipe.batch,
    )
    began = time.monotonic()
    bar = tqdm(
        total=recipe.steps,
        initial=first,
        unit="step",
        desc=recipe.tower,
        disable=not sys.stderr.isatty(),
    )
    with (run / "metrics.jsonl").open("a") as metrics:
        for step, batch in enumerate(loader, start=first):
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = recipe.rate(step) * group.get("share", 1.0)
            objective.train()
            rng = np.random.default_rng((recipe.seed, step))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                result = objective(batch, rng)
            objective.zero_grad(set_to_none=True)
            result.loss.backward()
            nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            done = step + 1
            bar.update()
            if done % 20 == 0 or done == recipe.steps:
                elapsed = time.monotonic() - began
                row: dict[str, object] = {
                    "tower": recipe.tower,
                    "step": done,
                    "loss": round(result.loss.item(), 5),
                    **{name: round(value, 5) for name, value in result.parts.items()},
                    "images_per_s": round((done - first) * recipe.batch / elapsed, 2),
                    "seconds_left": round(elapsed / (done - first) * (recipe.steps - done)),
                }
                if done % 100 == 0 or done == recipe.steps:
                    objective.eval()
                    row |= {k: round(v, 4) for k, v in objective.measure(validation).items()}
                    _save_state(run, objective, optimizers, recipe, done)
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
                if bar.disable:
                    print(json.dumps(row), flush=True)
                else:
                    bar.set_postfix(loss=row["loss"])
            if time.monotonic() - began > stop_after:
                _save_state(run, objective, optimizers, recipe, done)
                return False
    bar.close()
    if tokenizer is not None:
        tokenizer.save_pretrained(run / "tokenizer")
    return True


def export(runs: Path, output: Path, seed: int, calibration: int) -> None:
    """Write both trained towers as a model folder; whatever stood there is replaced at the end.

    calibration: generated scenes on which presence is calibrated; 0 leaves it as it was learned.
    """
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    settings: dict[str, float] = {}
    for tower in TOWERS:
        with quiet():
            objective, tokenizer = make_objective(tower, seed)
        tensors = load_file(runs / tower / "state.safetensors")
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
    if output.exists():
        shutil.rmtree(output)
    fresh.replace(output)


def _refuse_foreign(output: Path) -> None:
    """A model folder is replaced as a whole: one that holds anything else is left alone."""
    ours = {*TOWERS, GROUNDING, MANIFEST}
    if output.is_file() or (output.is_dir() and {path.name for path in output.iterdir()} - ours):
        raise PerceptionError(
            f"{output} holds something else than a model: name a new folder with --output."
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception train`."""
    parser.add_argument("--output", "-o", type=Path, required=True, help="model folder to write")
    parser.add_argument("--runs", type=Path, help="folder of checkpoints (default: OUTPUT.runs)")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="YAML",
        help="what to do, for each tower, as in config/train_tabletop.yaml",
    )
    parser.add_argument("--tower", choices=(*TOWERS, "both"), default="both")
    parser.add_argument("--steps", type=int, help="steps of each tower (default: 2400)")
    parser.add_argument("--batch", type=int, help="scenes a step (default: 32)")
    parser.add_argument("--validation", type=int, default=128, help="scenes of a measurement")
    parser.add_argument(
        "--calibration", type=int, default=200, help="scenes that presence is calibrated on"
    )
    parser.add_argument("--lr", type=float, help="peak learning rate (default: 0.0015)")
    parser.add_argument("--seed", type=int, help="of weights and scenes (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--fp32", action="store_true", help="do not use bfloat16 products")


def run(args: argparse.Namespace) -> int:
    """Train what was asked for; a model folder is written once both towers are there.

    Options go before the recipe's numbers.
    """
    if args.validation < 1 or args.calibration < 0:
        raise PerceptionError(
            "Training needs --validation of 1 or more, --calibration of 0 or more."
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    recipes = (
        read_recipes(args.recipe)
        if args.recipe
        else {tower: Recipe(tower, _STEPS) for tower in TOWERS}
    )
    given = {
        name: value
        for name in ("steps", "batch", "lr", "seed")
        if (value := getattr(args, name)) is not None
    }
    recipes = {tower: replace(recipe, **given) for tower, recipe in recipes.items()}
    output: Path = args.output.absolute()
    _refuse_foreign(output)
    runs: Path = args.runs or output.with_name(output.name + ".runs")
    for tower in TOWERS if args.tower == "both" else (args.tower,):
        train_tower(
            recipes[tower], runs / tower, bf16=not args.fp32, validation_scenes=args.validation
        )
    if all((runs / tower / "state.safetensors").exists() for tower in TOWERS):
        export(runs, output, recipes["siglip"].seed, args.calibration)
        print(f"wrote {output}")
    return 0
