"""`siglip-perception parity`: compare the tokens with timm's or transformers' own models."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from siglip_perception import checkpoints, contracts
from siglip_perception.checkpoints import Checkpoint
from siglip_perception.checkpoints.match import kept_contract
from siglip_perception.commands.arguments import input_file, output_file
from siglip_perception.errors import PerceptionError
from siglip_perception.util.files import write_atomically

# The precisions in parity.compare.LIMITS, stated here because that module imports PyTorch.
_PRECISIONS = ("fp32", "bf16", "fp16")


@contextmanager
def _weights(model: str, contract: str, seed: int) -> Iterator[tuple[Path, str, str]]:
    """Yield the folder to compare on, its contract's name and a description of its weights."""
    from siglip_perception.parity.random_weights import write_random
    from siglip_perception.parity.reference import need_reference

    if model:
        folder = checkpoints.resolve(model)
        kept = kept_contract(contract, Checkpoint(folder))
        need_reference(kept)
        yield folder, contract or kept.name, str(model)
        return
    content = contracts.get(contract)
    need_reference(content)
    with tempfile.TemporaryDirectory(prefix="parity.") as folder_name:
        write_random(content, Path(folder_name), seed)
        yield Path(folder_name), contract, f"random, seed {seed}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception parity`."""
    parser.add_argument("--contract", default="", help="name or .yaml file of a token contract")
    parser.add_argument(
        "--model", default="", help="model or policy folder (default: random weights at real size)"
    )
    parser.add_argument(
        "--image",
        type=input_file,
        action="append",
        default=[],
        help="camera image (default: generated ones)",
    )
    parser.add_argument(
        "--precision",
        choices=_PRECISIONS,
        action="append",
        default=None,
        help="default: fp32, and bf16 where this CPU is fast in it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures there")


def _precisions() -> list[str]:
    """Return the default precisions; print which one is left out."""
    import torch

    from siglip_perception.backends import without_bf16

    reason = without_bf16(torch.device("cpu"))
    if not reason:
        return ["fp32", "bf16"]
    print(f"bf16 is left out ({reason}): --precision bf16 compares it anyway")
    return ["fp32"]


def run(args: argparse.Namespace) -> int:
    """Compare and print; return 1 if the tokens differ from the reference's."""
    from siglip_perception.images.files import read_image

    if not (args.model or args.contract):
        raise PerceptionError("Name a --contract, or a --model that keeps one.")
    if args.model:
        kept_contract(args.contract, Checkpoint(checkpoints.resolve(args.model)))
    pictures = [read_image(path).pixels for path in args.image]
    from siglip_perception.parity.compare import LIMITS, compare, sample_images

    images = pictures or sample_images(args.seed)
    rows = []
    with _weights(args.model, args.contract, args.seed) as (folder, contract, weights):
        for precision in args.precision or _precisions():
            row = compare(contract, folder, images, precision, weights)
            rows.append(row)
            error, cosine = LIMITS[precision]
            limit = f" (limit {error:g})" if math.isfinite(error) else ""
            print(
                f"{row.contract} against {row.reference}, {precision}, weights {row.weights}:"
                f" {row.images} x {row.tokens} x {row.dim} tokens,"
                f" largest error {row.max_error:.2e} of their RMS{limit},"
                f" least cosine {row.min_cosine:.8f} (limit {cosine:g}):"
                f" {'equal' if row.equal else 'DIFFERENT'}",
                flush=True,
            )
    if args.json:
        content = [{**asdict(row), "equal": row.equal} for row in rows]
        write_atomically(args.json, (json.dumps(content, indent=2) + "\n").encode())
    return 0 if all(row.equal for row in rows) else 1
