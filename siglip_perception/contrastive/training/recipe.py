"""The recipe of the embedded model's towers, and its file."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from siglip_perception.errors import PerceptionError

if TYPE_CHECKING:
    # They import PyTorch: what is wrong with a recipe is told before.
    from siglip_perception.contrastive.training.loop import Plan
    from siglip_perception.contrastive.training.optimizers import OptimizerName

TOWERS = ("siglip", "dinov2")


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, besides the code.

    lr: peak, held from the warm-up to the cooldown, the last share of the steps, in which it falls
    by a cosine. optimizer: as in new_optimizers.
    """

    tower: str
    steps: int
    batch: int = 32
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 150
    cooldown: float = 1.0
    seed: int = 0
    optimizer: OptimizerName = "adamw"

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

    def plan(self, save_every: int = 100) -> Plan:
        """The loop's plan."""
        from siglip_perception.contrastive.training.loop import Plan

        return Plan(
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            cooldown=self.cooldown,
            seed=self.seed,
            log_every=min(20, save_every),
            save_every=save_every,
        )

    def goes_on_from(self, other: Recipe, step: int) -> bool:
        """Whether a run of `other` that is at `step` is this one so far.

        Until the rate falls, nothing depends on how many steps there will be.
        """
        if replace(self, steps=other.steps) != other:
            return False
        falls = min(self.plan().falls_at, other.plan().falls_at)
        return self.steps == other.steps or step <= falls


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
