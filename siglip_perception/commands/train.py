"""`siglip-perception train`: the embedded model's recipe on scenes, or training on your data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception.commands.arguments import (
    check_model,
    input_file,
    input_folder,
    output_folder,
)
from siglip_perception.contrastive.training import autocast
from siglip_perception.contrastive.training.finetune_options import (
    add_arguments as add_pair_arguments,
)
from siglip_perception.contrastive.training.finetune_options import check_encoder, check_numbers
from siglip_perception.contrastive.training.output_folder import check_replaceable, runs_folder
from siglip_perception.contrastive.training.recipe import TOWERS, Recipe, read_recipes
from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements

if TYPE_CHECKING:
    # Its OpenCV and PNG reader are not needed to print the help.
    from siglip_perception.scenes.rendered.shards import RenderedShards

_STEPS = 2400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception train`."""
    parser.add_argument(
        "--output", "-o", type=output_folder, required=True, help="model folder to write"
    )
    parser.add_argument(
        "--runs", type=output_folder, help="folder of checkpoints (default: OUTPUT.runs)"
    )
    parser.add_argument("--steps", type=int, help="default: 2400 per tower, 1000 with --data")
    parser.add_argument("--batch", type=int, help="images per step (default: 32)")
    parser.add_argument(
        "--lr", type=float, help="peak learning rate (default: depends on what is trained)"
    )
    parser.add_argument("--seed", type=int, help="of weights and data order (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    autocast.add_arguments(parser)
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard curves")
    _add_recipe_arguments(parser)
    add_pair_arguments(parser)


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    scenes = parser.add_argument_group("the embedded model's recipe (without --data)")
    scenes.add_argument(
        "--recipe",
        type=input_file,
        metavar="YAML",
        help="hyperparameters of each tower, as in config/train_tabletop.yaml",
    )
    scenes.add_argument(
        "--rendered",
        type=input_folder,
        metavar="DIR",
        help="rendered scenes of `siglip-perception scenes`, for a recipe with a share of them",
    )
    scenes.add_argument("--tower", choices=(*TOWERS, "both"), default="both")
    scenes.add_argument("--validation", type=int, default=128, help="scenes to validate on")
    scenes.add_argument(
        "--calibration", type=int, default=200, help="scenes to calibrate presence on"
    )


def _refuse(args: argparse.Namespace, add: Callable[[argparse.ArgumentParser], None]) -> None:
    """Refuse options of the other kind of training, which would have no effect."""
    other_parser = argparse.ArgumentParser(add_help=False)
    add(other_parser)
    for name, default in vars(other_parser.parse_args([])).items():
        if getattr(args, name) != default:
            kind = "with --data" if add is add_pair_arguments else "without --data"
            raise PerceptionError(f"--{name.replace('_', '-')} has an effect only {kind}.")


def run(args: argparse.Namespace) -> int:
    """Train on the data, or by the recipe; options override the recipe's numbers."""
    _refuse(args, _add_recipe_arguments if args.data else add_pair_arguments)
    if args.tensorboard:
        requirements.require("--tensorboard", "tensorboard")
    if args.data and args.tune == "lora":
        requirements.require("--tune lora", "peft")
    try:
        return _run_pairs(args) if args.data else _run_recipe(args)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PerceptionError(
            f"The run stopped: {error.filename or 'a file'} cannot be read or written"
            f" ({error.strerror or error}); correct that, and run it again to go on."
        ) from error


def _run_pairs(args: argparse.Namespace) -> int:
    """Check the arguments, which needs no PyTorch, then train on the data."""
    from siglip_perception.contrastive.data.open import check_features
    from siglip_perception.contrastive.data.source_bag import BagOptions
    from siglip_perception.contrastive.data.split import open_split
    from siglip_perception.datasets.class_names import read_classes

    check_numbers(args, int(os.environ.get("WORLD_SIZE", "1")))
    check_replaceable(args.output.absolute())
    classes = () if args.classes is None else read_classes(input_file(str(args.classes)))
    check_features(args.data, args.freeze, args.objective)
    check_model(args)
    check_encoder(args.model, args.contract, args.objective)
    data = open_split(
        args.data,
        runs_folder(args),
        BagOptions(tuple(args.image_topic), args.caption_topic, args.frame_interval),
        captioned=args.objective != "dino",
        strict=args.strict,
        holdout=args.holdout,
    )
    from siglip_perception.contrastive.training import finetune

    return finetune.run(args, data, classes)


def _run_recipe(args: argparse.Namespace) -> int:
    if args.validation < 1 or args.calibration < 0:
        raise PerceptionError(
            "Training needs --validation of 1 or more, --calibration of 0 or more."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PerceptionError(
            "The embedded model's recipe runs in one process: start it without torchrun, and the"
            " towers side by side with --tower."
        )
    recipes = (
        read_recipes(args.recipe)
        if args.recipe
        else {tower: Recipe(tower, _STEPS) for tower in TOWERS}
    )
    overrides = {
        name: value
        for name in ("steps", "batch", "lr", "seed")
        if (value := getattr(args, name)) is not None
    }
    recipes = {tower: replace(recipe, **overrides) for tower, recipe in recipes.items()}
    output: Path = args.output.absolute()
    check_replaceable(output)
    runs = runs_folder(args)
    towers = TOWERS if args.tower == "both" else (args.tower,)
    rendered = _rendered(args.rendered, [recipes[tower] for tower in towers])
    _check_initial([recipes[tower] for tower in towers])
    import torch

    from siglip_perception.contrastive.training import tabletop
    from siglip_perception.contrastive.training.run_state import steps_done

    if args.threads:
        torch.set_num_threads(args.threads)
    bf16 = autocast.use_bf16(args, torch.device("cpu"))
    for tower in towers:
        tabletop.train_tower(
            recipes[tower],
            runs / tower,
            bf16=bf16,
            validation_scenes=args.validation,
            tensorboard=args.tensorboard,
            rendered=rendered,
        )
    if all(steps_done(runs / tower) >= recipes[tower].steps for tower in TOWERS):
        tabletop.export(runs, output, recipes, args.calibration)
        print(f"wrote {output}")
    return 0


def _check_initial(recipes: Sequence[Recipe]) -> None:
    """Raise PerceptionError if a recipe starts from a model that is not there or lacks a tower."""
    from siglip_perception.checkpoints import Checkpoint, resolve

    for recipe in filter(lambda recipe: recipe.initial, recipes):
        if recipe.tower not in Checkpoint(resolve(recipe.initial)).facts:
            raise PerceptionError(
                f"The recipe of {recipe.tower} starts from {recipe.initial}, which has no such"
                " tower: name a model that has one."
            )


def _rendered(folder: Path | None, recipes: Sequence[Recipe]) -> RenderedShards | None:
    """Open the folder of rendered scenes, if a recipe takes a share of its scenes from there.

    Raises PerceptionError if there is no such folder, or no scenes in it.
    """
    from siglip_perception.scenes.rendered.shards import RenderedShards

    recipe = next((recipe for recipe in recipes if recipe.rendered), None)
    if recipe is None:
        return None
    if folder is None:
        raise PerceptionError(
            f"The recipe of {recipe.tower} takes {recipe.rendered:.0%} of its scenes from rendered"
            " ones: name their folder with --rendered DIR, and make them with siglip-perception"
            " scenes -o DIR."
        )
    return RenderedShards(folder)
