"""`siglip-perception experiment`: run one experiment, or all, and write the results."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from siglip_perception.commands.arguments import output_folder
from siglip_perception.errors import PerceptionError
from siglip_perception.experiments.report import (
    Options,
    need_matplotlib,
    save,
    table,
)

QUESTIONS = {
    "batch-size": "Why do more negatives help, and does it matter which loss compares them?",
    "matrix": "What do CLIP's softmax and SigLIP's sigmoid ask of each entry of the N x N matrix?",
    "memory": "What do the losses cost in memory and time as the batch grows?",
    "language-aligned": '"빨간 컵을 집어라" (pick up the red cup): whose features know where?',
    "complementarity": "DINOv2 alone, SigLIP alone, both: who knows where, who knows what?",
    "signals": "What do contrastive and self-supervised training each teach an image encoder?",
    "policy": "A policy learns from tokens: whose, and does it matter how they are fed?",
}

_EXPERIMENTS = "siglip_perception.experiments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception experiment`."""
    parser.add_argument(
        "name", choices=(*QUESTIONS, "all"), metavar="NAME", help=", ".join((*QUESTIONS, "all"))
    )
    parser.add_argument(
        "--output",
        "-o",
        type=output_folder,
        default=Path("out/experiments"),
        metavar="DIR",
        help="folder for NAME.json, NAME.png and NAME.md (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default=Options.model,
        help="name or folder of the model to examine (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument(
        "--quick", action="store_true", help="a trial of seconds: its figures mean nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run one experiment, or all of them, and write their findings."""
    if args.seed < 0:
        raise PerceptionError("Experiments need a --seed of 0 or more.")
    need_matplotlib()
    options = Options(args.model, args.seed, args.quick)
    for name in QUESTIONS if args.name == "all" else (args.name,):
        print(f"{name}: {QUESTIONS[name]}", flush=True)
        module = importlib.import_module(module_of(name))
        start = time.monotonic()
        outcome = module.run(options)
        files = save(name, QUESTIONS[name], outcome, args.output)
        print(table(outcome.rows))
        print("\n".join(outcome.findings))
        print(f"{time.monotonic() - start:.0f} s; wrote {', '.join(map(str, files))}", flush=True)
    return 0


def module_of(name: str) -> str:
    """Return the name of an experiment's module."""
    return f"{_EXPERIMENTS}.{name.replace('-', '_')}"
