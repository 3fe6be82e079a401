"""`siglip-perception pixels`: what each encoder of a contract is fed for one image."""

from __future__ import annotations

import argparse
import io
from typing import Any

import numpy as np

from siglip_perception import contracts
from siglip_perception.commands.arguments import input_file, output_file
from siglip_perception.util.files import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception pixels`."""
    parser.add_argument("image", type=input_file, metavar="PICTURE")
    parser.add_argument(
        "--contract", required=True, metavar="NAME", help="name or .yaml file of a token contract"
    )
    parser.add_argument(
        "--model",
        default="",
        metavar="FOLDER",
        help="checkpoint whose own mean and std are used where the contract says so",
    )
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        type=output_file,
        metavar="FILE.npz",
        help="for each encoder float32 [3, H, W]: ENCODER_pixels in [0, 255], ENCODER normalized;"
        " ENCODER_crops, [n, 3, H, W] in [0, 255], where the contract has crops",
    )


def run(args: argparse.Namespace) -> int:
    """Write the pixels of each encoder, before and after the normalization, to an .npz file."""
    from siglip_perception import checkpoints
    from siglip_perception.checkpoints.match import choose_contract
    from siglip_perception.images.files import read_image

    contract = contracts.get(args.contract)
    if args.model:
        checkpoint = checkpoints.Checkpoint(checkpoints.resolve(args.model))
        contract = choose_contract(args.contract, checkpoint)
    image = read_image(args.image).pixels
    # After what can be wrong, because they import PyTorch.
    import torch

    from siglip_perception.images.crops import CropPlan
    from siglip_perception.images.preprocess import EncoderInput, Preprocessor
    from siglip_perception.images.squares import to_square

    inputs = {spec.name: EncoderInput.of(contract, spec) for spec in contract.encoders}
    normalized = Preprocessor(tuple(inputs.values()), torch.device("cpu"))([image])
    plan = CropPlan.of(contract)
    arrays: dict[str, Any] = {}
    for name, encoder_input in inputs.items():
        square = to_square(image, encoder_input.square)
        arrays[f"{name}_pixels"] = square.transpose(2, 0, 1).astype(np.float32)
        arrays[name] = normalized[encoder_input][0].numpy()
        if plan is not None:
            crops = [to_square(crop, encoder_input.square) for crop in plan.views(image)[1:]]
            arrays[f"{name}_crops"] = np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, contract=np.array(contract.name), **arrays)
    write_atomically(args.output, buffer.getvalue())
    height, width = image.shape[:2]
    for name, encoder_input in inputs.items():
        across, down = encoder_input.square.result_size(width, height)
        left, top, right, bottom = encoder_input.square.geometry(width, height).visible_region()
        print(
            f"{name}: 3 x {down} x {across}, of the camera's {width} x {height} the columns"
            f" {left:.1f} to {right:.1f} and the rows {top:.1f} to {bottom:.1f}"
        )
    print(f"{args.output}: {', '.join(arrays)}, contract {contract.name}")
    return 0
