"""Training recipe of the embedded model's towers, and its YAML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from siglip_perception.errors import PerceptionError

if TYPE_CHECKING:
    # They import PyTorch, which takes seconds; errors in a recipe come first.
    from siglip_perception.contrastive.training.loop import LoopOptions
    from siglip_perception.contrastive.training.optimizers import OptimizerName

TOWERS = ("siglip", "dinov2")
Supervision = Literal["masks", "images"]


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, except the code.

    lr: peak learning rate, held from the warm-up to the cooldown, the last share of the steps,
    which decays it along a cosine. optimizer: as in new_optimizers. rendered: share of rendered
    scenes among the drawn ones, in [0, 1].
    supervision: "masks": the generator's masks teach SigLIP regions and DINOv2 which patches
        belong together. "images": whole images and captions, and self-distillation, as stock
        weights.
    initial: name or folder of the model whose weights training starts from; "": new ones.
    objects: most named objects in a scene. scenes: different scenes, seen again and again; 0:
        every scene is new.
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
    rendered: float = 0.0
    initial: str = ""
    supervision: Supervision = "masks"
    objects: int = 8
    scenes: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2:
            raise PerceptionError("Training needs 1 or more steps, and batches of 2 or more.")
        if not 0 < self.lr < math.inf:
            raise PerceptionError(f"lr is {self.lr} and has to be above 0.")
        if not 0 <= self.weight_decay < math.inf or self.warmup < 0:
            raise PerceptionError(
                f"weight_decay is {self.weight_decay} and warmup {self.warmup}: they have to be 0"
                " or more."
            )
        if not 0 < self.cooldown <= 1:
            raise PerceptionError(f"cooldown is {self.cooldown} and has to be a share in (0, 1].")
        if not 0 <= self.rendered <= 1:
            raise PerceptionError(f"rendered is {self.rendered} and has to be a share in [0, 1].")
        if self.supervision not in ("masks", "images") or not 1 <= self.objects <= 8:
            raise PerceptionError(
                f"A recipe's supervision is {self.supervision!r} and its objects {self.objects}:"
                " use masks or images, and 1 to 8."
            )
        if self.scenes < 0:
            raise PerceptionError(f"scenes is {self.scenes} and has to be 0 or more.")
        if self.tower not in TOWERS or self.optimizer not in ("adamw", "muon"):
            raise PerceptionError(
                f"Unknown tower {self.tower!r} or optimizer {self.optimizer!r}: use"
                f" {' or '.join(TOWERS)}, and adamw or muon."
            )

    def loop_options(self, save_every: int = 100) -> LoopOptions:
        """Convert to the loop's options."""
        from siglip_perception.contrastive.training.loop import LoopOptions

        return LoopOptions(
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            cooldown=self.cooldown,
            seed=self.seed,
            clip=3.0 if (self.tower, self.supervision) == ("dinov2", "images") else 1.0,
            log_every=min(20, save_every),
            save_every=save_every,
        )

    def continues(self, previous: Recipe, step: int) -> bool:
        """Tell whether a run of the recipe `previous`, at `step`, can go on as this one.

        Until the cooldown starts, nothing depends on the total number of steps.
        """
        if replace(self, steps=previous.steps) != previous:
            return False
        cooldown_start = min(
            self.loop_options().cooldown_start, previous.loop_options().cooldown_start
        )
        return self.steps == previous.steps or step <= cooldown_start


def read_recipes(path: Path) -> dict[str, Recipe]:
    """Read a YAML recipe file: `seed`, and the other fields of Recipe for each tower by name.

    Raises PerceptionError for an unreadable file, or an unknown name or value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PerceptionError(f"{path} cannot be read as a YAML recipe.") from error
    if not isinstance(content, dict) or set(content) - {"seed", *TOWERS}:
        raise PerceptionError(
            f"{path} has to contain seed, {' and '.join(TOWERS)}, and nothing else."
        )
    field_types = {
        field.name: type(field.default) for field in fields(Recipe) if field.name != "tower"
    }
    field_types["steps"] = int
    recipes = {}
    for tower in TOWERS:
        settings = {"seed": content.get("seed", 0), **(content.get(tower) or {})}
        for name, value in settings.items():
            expected_type = field_types.get(name)
            if (
                expected_type is None
                or isinstance(value, bool)
                or not isinstance(value, expected_type)
            ):
                raise PerceptionError(
                    f"{path} gives {tower} {name}: {value!r}; a recipe's numbers are"
                    f" {', '.join(field_types)}, whole ones without a point and"
                    " the others with one."
                )
        if "steps" not in settings:
            raise PerceptionError(f"{path} has no steps for {tower}: add them.")
        recipes[tower] = Recipe(tower, **settings)
    return recipes
