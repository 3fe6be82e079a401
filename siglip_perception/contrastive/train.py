"""The trainer: generated scenes in, a model folder that the node loads at once out."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from siglip_perception.checkpoints import GROUNDING, MANIFEST, quiet, write_manifest
from siglip_perception.contrastive import finetune
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
TOWERS = ("siglip", "dinov2")


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, besides the code. lr: peak of warm-up and cosine."""

    tower: str
    steps: int
    batch: int = 32
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 150
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


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


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def _save_state(
    folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int
) -> None:
    """Write everything that a resumed run needs; an interrupted write leaves the old state."""
    names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters()}
    tensors: dict[str, Tensor] = {
        f"model.{name}": value.contiguous() for name, value in objective.state_dict().items()
    }
    for parameter, state in optimizer.state.items():
        for key in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{key}.{names[parameter]}"] = state[key]
    fresh = folder / "state.new"
    save_file(tensors, fresh, {"step": str(step), "recipe": json.dumps(asdict(recipe))})
    fresh.replace(folder / "state.safetensors")


def _load_state(
    folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> int:
    """The step to go on from; 0 where there is nothing to resume."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    if metadata["recipe"] != json.dumps(asdict(recipe)):
        raise PerceptionError(
            f"{folder} holds a run of another recipe; give the same options or another --output."
        )
    tensors = load_file(path)
    prefix = "model."
    objective.load_state_dict(
        {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    )
    for name, parameter in objective.named_parameters():
        if f"step.{name}" in tensors:
            optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")
            }
    return int(metadata["step"])


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
    optimizer = torch.optim.AdamW(
        _groups(objective, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98)
    )
    first = _load_state(run, objective, optimizer, recipe)
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
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            objective.train()
            rng = np.random.default_rng((recipe.seed, step))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                result = objective(batch, rng)
            optimizer.zero_grad(set_to_none=True)
            result.loss.backward()
            nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
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
                    _save_state(run, objective, optimizer, recipe, done)
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
                if bar.disable:
                    print(json.dumps(row), flush=True)
                else:
                    bar.set_postfix(loss=row["loss"])
            if time.monotonic() - began > stop_after:
                _save_state(run, objective, optimizer, recipe, done)
                return False
    bar.close()
    if tokenizer is not None:
        tokenizer.save_pretrained(run / "tokenizer")
    return True


def export(runs: Path, output: Path, seed: int) -> None:
    """Write both trained towers as a model folder; whatever stood there is replaced at the end."""
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
    parser.add_argument("--tower", choices=(*TOWERS, "both"), default="both")
    parser.add_argument("--steps", type=int, help="steps of each tower (default: 2400)")
    parser.add_argument("--batch", type=int, help="scenes a step (default: 32)")
    parser.add_argument("--validation", type=int, default=128, help="scenes of a measurement")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: 0.0015)")
    parser.add_argument("--seed", type=int, help="of weights and scenes (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--fp32", action="store_true", help="do not use bfloat16 products")
    finetune.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train what was asked for; a model folder is written once both towers are there."""
    if args.data:
        return finetune.run(args)
    args.steps, args.batch = args.steps or 2400, args.batch or 32
    args.lr, args.seed = args.lr or 1.5e-3, args.seed or 0
    if args.steps < 1 or args.batch < 2 or args.validation < 1:
        raise PerceptionError(
            "Training needs --steps and --validation of 1 or more, and --batch of 2 or more."
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    output: Path = args.output.absolute()
    _refuse_foreign(output)
    runs: Path = args.runs or output.with_name(output.name + ".runs")
    for tower in TOWERS if args.tower == "both" else (args.tower,):
        recipe = Recipe(tower, args.steps, args.batch, args.lr, seed=args.seed)
        train_tower(recipe, runs / tower, bf16=not args.fp32, validation_scenes=args.validation)
    if all((runs / tower / "state.safetensors").exists() for tower in TOWERS):
        export(runs, output, args.seed)
        print(f"wrote {output}")
    return 0
