"""Choose bfloat16 or float32 matrix products for training: by option, or by which is faster."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --bf16 and --fp32."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--bf16",
        action="store_true",
        help="bfloat16 products (default: where they are faster than float32's)",
    )
    choice.add_argument("--fp32", action="store_true", help="float32 products")


def use_bf16(args: argparse.Namespace, device: torch.device) -> bool:
    """Decide whether training uses bfloat16 products on the device.

    Prints the reason if neither option was given and float32 is used.
    """
    if args.bf16 or args.fp32:
        return bool(args.bf16)
    from siglip_perception.backends import without_bf16

    why_not = without_bf16(device)
    if why_not:
        print(f"products are in float32 ({why_not}); --bf16 makes them in bfloat16", flush=True)
    return not why_not
