"""Options of `siglip-perception train --data`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from siglip_perception.checkpoints import Checkpoint, resolve
from siglip_perception.checkpoints.match import training_contract
from siglip_perception.errors import CheckpointError, PerceptionError

_STEPS, _BATCH = 1000, 32
_POSITIVE = ("steps", "accumulate", "log_every", "save_every", "lora_rank", "lora_alpha")
_NOT_NEGATIVE = ("workers", "warmup", "weight_decay", "frame_interval", "threads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for training on the user's own pairs."""
    data = parser.add_argument_group("your own data")
    data.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        help="folder of images with .txt beside them, table of captions (.csv, .tsv, .jsonl),"
        " .tar shards (WebDataset) or a folder of them, a bag, scenes[:COUNT[@SEED]], or what"
        " `features` has written (with --freeze image)",
    )
    data.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="camera topic of a bag; repeat for each camera (default: every camera)",
    )
    data.add_argument(
        "--caption-topic",
        default="/instruction",
        metavar="TOPIC",
        help="std_msgs/String topic of a bag; a frame takes the latest message"
        " (default: %(default)s)",
    )
    data.add_argument(
        "--frame-interval",
        type=float,
        default=0.5,
        metavar="S",
        help="minimum time between two frames of a bag's camera, seconds (default: %(default)s)",
    )
    data.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first unusable file, row or sample",
    )
    data.add_argument(
        "--holdout",
        type=int,
        metavar="N",
        help="pairs held out for evaluation (default: 5 percent, at most 1000)",
    )
    data.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names, one per line, for zero-shot classification at the end",
    )
    data.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that load images (default: one less than the cores, at most 8)",
    )
    model = parser.add_argument_group("model and objective")
    model.add_argument(
        "--model",
        default="tabletop",
        metavar="FOLDER",
        help="initial model: a packaged model, a model folder, or a SigLIP checkpoint's folder"
        " (default: %(default)s)",
    )
    model.add_argument(
        "--contract",
        default="",
        metavar="NAME",
        help="contract that defines the preprocessing (default: squash to the encoder's square)",
    )
    model.add_argument(
        "--from-scratch", action="store_true", help="keep the architecture, reinitialize weights"
    )
    model.add_argument(
        "--objective",
        choices=("sigmoid", "clip", "dino"),
        default="sigmoid",
        help="SigLIP's loss, CLIP's, or DINOv2's on images alone (default: %(default)s)",
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
        help="tower to keep frozen",
    )
    for option, value, text in (
        ("--last-layers", 2, "blocks per tower that --tune last trains, besides the heads"),
        ("--lora-rank", 8, "rank of LoRA's matrices"),
        ("--lora-alpha", 16, "LoRA's scale times its rank"),
    ):
        model.add_argument(
            option, type=int, default=value, metavar="N", help=f"{text} (default: %(default)s)"
        )
    run = parser.add_argument_group("optimization and logging")
    run.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="microbatches that a batch is split into to save memory (default: %(default)s)",
    )
    run.add_argument("--weight-decay", type=float, default=0.05, help="default: %(default)s")
    run.add_argument("--warmup", type=int, metavar="N", help="steps (default: a tenth of all)")
    run.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s"
    )
    for option, value, text in (
        ("--log-every", 10, "steps between log lines"),
        ("--save-every", 100, "steps between saved states"),
    ):
        run.add_argument(
            option, type=int, default=value, metavar="N", help=f"{text} (default: %(default)s)"
        )


def check_encoder(model: str, contract: str, objective: str) -> None:
    """Raise CheckpointError, without PyTorch, unless a model has the encoder to be trained.

    model, contract, objective: the options of these names. A policy's own checkpoint, in which
    several encoders share a file, cannot be written back and is refused.
    """
    checkpoint = Checkpoint(resolve(model))
    encoders = set(checkpoint.facts)
    name = contract or checkpoint.contract
    if name:
        encoders &= {spec.name for spec in training_contract(name, checkpoint).encoders}
    if len(encoders) > 1 and not all((checkpoint.path / part).is_dir() for part in encoders):
        raise CheckpointError(
            f"{checkpoint.path} is a policy's own checkpoint, which cannot be trained: choose a"
            " model folder with one subfolder per encoder."
        )
    encoder = "dinov2" if objective == "dino" else "siglip"
    if encoder not in encoders or (encoder == "siglip" and not checkpoint.has_text_tower):
        raise CheckpointError(
            f"{model} has no {encoder} that --objective {objective} could train: choose another"
            " --model."
        )


def check_numbers(args: argparse.Namespace, world: int = 1) -> None:
    """Fill in defaults; raise PerceptionError for a number out of range.

    world: number of processes.
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
    divisor = world * args.accumulate
    if args.batch < 2 or args.batch % divisor:
        raise PerceptionError(
            f"--batch {args.batch} has to be 2 or more and a multiple of {divisor}, which is"
            f" {world} processes times --accumulate {args.accumulate}."
        )
