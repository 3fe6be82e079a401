"""Products of training in bfloat16: as was asked for, or where that is faster than float32."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options --bf16 and --fp32."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--bf16",
        action="store_true",
        help="bfloat16 products (default: where they are faster than float32's)",
    )
    choice.add_argument("--fp32", action="store_true", help="float32 products")


def wants_bf16(args: argparse.Namespace, device: torch.device) -> bool:
    """Whether training is to make its products in bfloat16 on the device.

    Says which it is where that was left open.
    """
    if args.bf16 or args.fp32:
        return bool(args.bf16)
    from siglip_perception.backends import without_bf16

    why_not = without_bf16(device)
    if why_not:
        print(f"products are in float32 ({why_not}); --bf16 makes them in bfloat16", flush=True)
    return not why_not
