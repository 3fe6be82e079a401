"""Options of `siglip-perception train` that belong to training on one's own pairs."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from siglip_perception.errors import PerceptionError

_STEPS, _BATCH = 1000, 32
_POSITIVE = ("steps", "accumulate", "log_every", "save_every", "lora_rank", "lora_alpha")
_NOT_NEGATIVE = ("workers", "warmup", "weight_decay", "frame_interval", "threads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of training on one's own pairs."""
    data = parser.add_argument_group("your own data")
    data.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        help="folder of images with .txt beside them, table of captions (.csv, .tsv, .jsonl),"
        " .tar shards (WebDataset) or a folder of them, a bag, or scenes[:COUNT[@SEED]]",
    )
    data.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="of a bag, once for each camera (default: every camera)",
    )
    data.add_argument(
        "--caption-topic",
        default="/instruction",
        metavar="TOPIC",
        help="of a bag, std_msgs/String; the newest is each frame's (default: %(default)s)",
    )
    data.add_argument(
        "--frame-interval",
        type=float,
        default=0.5,
        metavar="S",
        help="least time between two frames of a bag's camera, seconds (default: %(default)s)",
    )
    data.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first file, row or sample that cannot be used",
    )
    data.add_argument(
        "--holdout",
        type=int,
        metavar="N",
        help="pairs kept apart for the figures at the end (default: 5 percent, at most 1000)",
    )
    data.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names, one a line, for zero-shot classification at the end",
    )
    data.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that load images (default: the cores but one, at most 8)",
    )
    model = parser.add_argument_group("what is trained on it")
    model.add_argument(
        "--model",
        default="tabletop",
        metavar="FOLDER",
        help="to start from: a packaged model, a model folder, or a SigLIP checkpoint's own"
        " folder (default: %(default)s)",
    )
    model.add_argument(
        "--contract",
        default="",
        metavar="NAME",
        help="whose way to prepare images is used (default: squash to the encoder's square)",
    )
    model.add_argument(
        "--from-scratch", action="store_true", help="the model's shape with new weights"
    )
    model.add_argument(
        "--objective",
        choices=("sigmoid", "clip", "dino"),
        default="sigmoid",
        help="SigLIP's loss, CLIP's, or DINOv2 on images alone (default: %(default)s)",
    )
    model.add_argument(
        "--tune",
        choices=("all", "last", "lora"),
        default="all",
        help="all weights, each tower's last layers, or LoRA (default: %(default)s)",
    )
    model.add_argument(
        "--freeze",
        choices=("image", "text"),
        action="append",
        default=[],
        help="a tower that stays as it is",
    )
    for option, value, text in (
        ("--last-layers", 2, "blocks that --tune last trains, besides the heads"),
        ("--lora-rank", 8, "of LoRA's matrices"),
        ("--lora-alpha", 16, "LoRA's weight is this by its rank"),
    ):
        model.add_argument(
            option, type=int, default=value, metavar="N", help=f"{text} (default: %(default)s)"
        )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="pieces in which a batch goes through the model, against too little memory",
    )
    how.add_argument("--weight-decay", type=float, default=0.05, help="default: %(default)s")
    how.add_argument("--warmup", type=int, metavar="N", help="steps (default: a tenth)")
    how.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s"
    )
    for option, value, text in (
        ("--log-every", 10, "steps between two lines of the log"),
        ("--save-every", 100, "steps between two states to go on from"),
    ):
        how.add_argument(
            option, type=int, default=value, metavar="N", help=f"{text} (default: %(default)s)"
        )


def check_numbers(args: argparse.Namespace, world: int = 1) -> None:
    """Fill in the defaults; PerceptionError for a number that is out of its range.

    world: how many processes train together.
    """
    for name, value in {"steps": _STEPS, "batch": _BATCH, "seed": 0}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for names, least in ((_POSITIVE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            value = getattr(args, name)
            if value is not None and not least <= value < math.inf:
                raise PerceptionError(f"--{name.replace('_', '-')} has to be {least} or more.")
    if args.lr is not None and not 0 < args.lr < math.inf:
        raise PerceptionError(f"--lr {args.lr} is no learning rate: it has to be above 0.")
    pieces = world * args.accumulate
    if args.batch < 2 or args.batch % pieces:
        raise PerceptionError(
            f"--batch {args.batch} has to be 2 or more and a multiple of {pieces}: of"
            f" {world} processes times --accumulate {args.accumulate}."
        )
