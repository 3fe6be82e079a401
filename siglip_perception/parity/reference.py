"""Reference tokens: timm's or transformers' models on images resized by Pillow.

Shares nothing with the pipeline except the contract, the weight files, and the pixel steps that
are none of the named strategies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipModel,
    SiglipVisionModel,
)

from siglip_perception.checkpoints.offline import quiet
from siglip_perception.contracts import Contract, EncoderSpec
from siglip_perception.contracts.steps import Pool, Shuffle, block_side
from siglip_perception.errors import PerceptionError
from siglip_perception.images.crops import CropPlan
from siglip_perception.images.squares import Pixels, SquareSpec, to_square
from siglip_perception.parity.timm_models import create_model, import_timm
from siglip_perception.types import UInt8Array

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# MLP width by model width, where it is not four times that: So400m.
INNER = {1152: 4304}
NAFLEX_PREFIX = "backbone.model.vision_model.vision_model."
"""Of the tensors' names in GR00T N1.6's checkpoint."""
_PREFIXES = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")


def reference_of(contract: Contract) -> Literal["timm", "transformers"]:
    """Name the library whose models define the contract's tokens."""
    return "timm" if all(spec.timm for spec in contract.encoders) else "transformers"


def need_reference(contract: Contract) -> None:
    """Raise PerceptionError, with how to install it, if the reference's library is missing."""
    if reference_of(contract) == "timm":
        import_timm()


@torch.inference_mode()
def reference_tokens(contract: Contract, model: Path, images: list[UInt8Array]) -> Tensor:
    """Compute tokens, float32 [B, N, dim], with the reference's code and the folder's weights.

    B: images, each followed by its crops if the contract has some.
    """
    if contract.has_free_grid and len(images) > 1:
        raise ValueError("images of a grid of their own are compared one by one")
    plan = CropPlan.of(contract)
    if plan is not None:
        images = [view for image in images for view in plan.views(image)]
    parts = []
    for spec in contract.encoders:
        pixels = torch.stack([_pixels(image, contract, spec) for image in images])
        parts.append(encode(contract, spec, model, pixels))
    return regroup(contract, torch.cat(parts, dim=-1), _rows(contract, pixels))


@torch.inference_mode()
def encode(contract: Contract, spec: EncoderSpec, model: Path, pixels: Tensor) -> Tensor:
    """Run the reference's encoder over normalized pixels [B, 3, S, S]: patches [B, N, D]."""
    if contract.has_free_grid:
        return _naflex(spec, model, pixels)
    run = _timm if reference_of(contract) == "timm" else _transformers
    return run(spec, model, pixels)


def _rows(contract: Contract, pixels: Tensor) -> int:
    return pixels.shape[-2] // contract.encoders[0].patch


def regroup(contract: Contract, tokens: Tensor, row_count: int) -> Tensor:
    """Run the steps from patches [B, N, D] to tokens, one place of all blocks at a time.

    row_count: rows of patches.
    """
    for step in contract.tokens:
        side = block_side(step)
        rows = tokens.view(len(tokens), row_count, tokens.shape[1] // row_count, -1)
        row_count //= side
        if isinstance(step, Shuffle) and step.order == "channel":
            joined = functional.pixel_unshuffle(rows.permute(0, 3, 1, 2), side)
            tokens = joined.flatten(2).transpose(1, 2)
            continue
        places = [
            rows[:, down::side, across::side] for down in range(side) for across in range(side)
        ]
        joined = torch.stack(places).mean(0) if isinstance(step, Pool) else torch.cat(places, -1)
        tokens = joined.flatten(1, 2)
    return tokens


def _pixels(image: UInt8Array, contract: Contract, spec: EncoderSpec) -> Tensor:
    values = torch.from_numpy(_square(image, contract, spec).copy())
    values = values.permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    return values.sub(mean).div(std)


def _square(image: UInt8Array, contract: Contract, spec: EncoderSpec) -> Pixels:
    """Resize with Pillow as the strategy says; other steps are this project's own.

    Those are compared with their policies' libraries apart, by `siglip-perception contracts
    --check`.
    """
    if contract.strategy is None:
        return to_square(image, SquareSpec.of(contract, spec))
    picture, size = Image.fromarray(image), spec.image_size
    strategy, interpolation = contract.strategy
    resampling = _FILTERS[interpolation]
    if strategy == "squash":
        return np.asarray(_resize(picture, (size, size), resampling))
    if strategy == "resize-pad":
        return np.asarray(_fit_and_pad(picture, size, resampling, spec.fill))
    if strategy == "letterbox":
        picture = _pad(picture, spec.fill)
    return np.asarray(_shorter_side_and_crop(picture, size, resampling))


def _resize(picture: Image.Image, size: tuple[int, int], resampling: Any) -> Image.Image:
    """Resize by Pillow, horizontally first: the only order until Pillow 13, see preprocess.py."""
    return picture.resize((size[0], picture.height), resampling).resize(size, resampling)


def _pad(picture: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Pad as Prismatic's LetterboxPad: equally on both sides, one pixel short for an odd rest."""
    longest = max(picture.size)
    across, down = (int((longest - side) / 2) for side in picture.size)
    square = Image.new("RGB", (picture.width + 2 * across, picture.height + 2 * down), fill)
    square.paste(picture, (across, down))
    return square


def _shorter_side_and_crop(picture: Image.Image, size: int, resampling: Any) -> Image.Image:
    """Resize and crop as torchvision's Resize(size) and CenterCrop(size)."""
    short, long = sorted(picture.size)
    long_side = int(size * long / short)
    wide = picture.width > picture.height
    scaled_picture = _resize(picture, (long_side, size) if wide else (size, long_side), resampling)
    column, row = (round((side - size) / 2.0) for side in scaled_picture.size)
    return scaled_picture.crop((column, row, column + size, row + size))


def _fit_and_pad(
    picture: Image.Image, size: int, resampling: Any, fill: tuple[int, int, int]
) -> Image.Image:
    """Resize and pad as openpi's resize_with_pad."""
    if picture.size == (size, size):
        return picture
    ratio = max(picture.width / size, picture.height / size)
    fit = int(picture.width / ratio), int(picture.height / ratio)
    scaled_picture = _resize(picture, fit, resampling)
    square = Image.new("RGB", (size, size), fill)
    column, row = (int((size - side) / 2) for side in scaled_picture.size)
    square.paste(scaled_picture, (column, row))
    return square


def timm_network(spec: EncoderSpec, model: Path) -> Any:
    """Create timm's model of the encoder and load the folder's weights."""
    network = create_model(spec, spec.image_size)
    state = _timm_state(spec, model)
    weights = import_timm().models.vision_transformer.checkpoint_filter_fn(state, network)
    network.load_state_dict(weights)
    return network.eval()


def _timm(spec: EncoderSpec, model: Path, pixels: Tensor) -> Tensor:
    network = timm_network(spec, model)
    blocks = [len(network.blocks) + tap for tap in spec.taps]
    # timm gives them in the order of the blocks.
    outputs = network.get_intermediate_layers(pixels, n=set(blocks), norm=spec.norm)
    by_block = dict(zip(sorted(blocks), outputs, strict=True))
    return torch.cat([by_block[block] for block in blocks], dim=-1)


def _timm_state(spec: EncoderSpec, model: Path) -> dict[str, Tensor]:
    """Load the encoder's tensors by timm's names, from its own file or a policy's shards."""
    file = model / spec.name / "model.safetensors"
    if file.is_file():
        return dict(load_file(file))
    prefix = _PREFIXES[0 if spec.name == "dinov2" else 1]
    state: dict[str, Tensor] = {}
    for shard in sorted(model.glob("*.safetensors")):
        state |= _behind(load_file(shard), prefix)
    if not state:
        raise PerceptionError(
            f"{model} has no {spec.name} weights in timm's format, which this contract's reference"
            " needs: choose a --model that has them."
        )
    return state


def _behind(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix).replace(".scale_factor", ".gamma"): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def naflex_network(spec: EncoderSpec) -> Any:
    """Create transformers' SigLIP 2 NaFlex of the encoder, without a pooling head."""
    config = Siglip2VisionConfig(
        hidden_size=spec.dim,
        intermediate_size=INNER.get(spec.dim, 4 * spec.dim),
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        patch_size=spec.patch,
        num_patches=spec.grid**2,
        hidden_act=spec.hidden_act,
        layer_norm_eps=spec.layer_norm_eps,
        vision_use_head=False,
        attn_implementation="eager",
    )
    return Siglip2VisionModel(config).eval()


def _naflex(spec: EncoderSpec, model: Path, pixels: Tensor) -> Tensor:
    """Run transformers' NaFlex over images [B, 3, H, W] of one size: its last block, normed."""
    network = naflex_network(spec)
    state: dict[str, Tensor] = {}
    for shard in sorted(model.glob("*.safetensors")):
        state |= _behind(load_file(shard), NAFLEX_PREFIX)
    network.load_state_dict(state)
    batch, patch = len(pixels), spec.patch
    rows, cols = pixels.shape[2] // patch, pixels.shape[3] // patch
    tiles = pixels.reshape(batch, 3, rows, patch, cols, patch).permute(0, 2, 4, 3, 5, 1)
    output = network(
        tiles.reshape(batch, rows * cols, -1),
        torch.ones(batch, rows * cols, dtype=torch.long),
        torch.tensor([[rows, cols]] * batch),
    )
    tokens: Tensor = output.last_hidden_state
    return tokens


def _transformers(spec: EncoderSpec, model: Path, pixels: Tensor) -> Tensor:
    folder = model / spec.name
    kinds: dict[str, Any] = {
        "siglip": SiglipModel,
        "siglip_vision_model": SiglipVisionModel,
        "dinov2": Dinov2Model,
        "dinov2_with_registers": Dinov2WithRegistersModel,
        "dinov3_vit": DINOv3ViTModel,
    }
    if not (folder / "config.json").is_file():
        raise PerceptionError(
            f"{folder} is not a Hugging Face folder, which this contract's reference needs: choose"
            " a --model that has one."
        )
    kind = str(json.loads((folder / "config.json").read_text())["model_type"])
    with quiet():
        network = kinds[kind].from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
    network.eval()
    if kind == "siglip":
        network = network.vision_model
    output = network(pixels, output_hidden_states=True)
    parts = []
    for tap in spec.taps:
        tokens = output.last_hidden_state
        if not (spec.norm and tap == -1):
            # hidden_states holds the embeddings too, and the last block's raw output.
            tokens = output.hidden_states[tap]
            if spec.norm:
                norm = network.post_layernorm if spec.name == "siglip" else network.layernorm
                tokens = norm(tokens)
        parts.append(tokens[:, spec.prefix :])
    return torch.cat(parts, dim=-1)
