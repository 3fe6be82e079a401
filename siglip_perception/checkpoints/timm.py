"""timm's VisionTransformer tensors -> transformers' names, for SigLIP and DINOv2.

A policy's own checkpoint has the same tensors behind a prefix; OpenVLA's calls LayerScale's
`gamma` `scale_factor`, as transformers of its day renamed every `gamma`
(openvla/openvla: prismatic/extern/hf/modeling_prismatic.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from siglip_perception.contracts import EncoderFacts, EncoderName, EncoderSpec
from siglip_perception.errors import CheckpointError

if TYPE_CHECKING:
    # It takes seconds to import, and what tensors' names and shapes say needs none of it.
    from torch import Tensor

PATCHES = "patch_embed.proj.weight"
Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_DINOV2_BLOCK = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "ls1.scale_factor": "layer_scale1.lambda1",
    "ls2.scale_factor": "layer_scale2.lambda1",
}
_DINOV2 = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_SIGLIP_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
}
_SIGLIP = {
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
    "attn_pool.latent": "head.probe",
    "attn_pool.proj.weight": "head.attention.out_proj.weight",
    "attn_pool.proj.bias": "head.attention.out_proj.bias",
    "attn_pool.norm.weight": "head.layernorm.weight",
    "attn_pool.norm.bias": "head.layernorm.bias",
}


def encoder_of(shapes: Shapes) -> EncoderName:
    """Which of the two it is: of the two, only DINOv2 has a CLS token."""
    return "dinov2" if "cls_token" in shapes else "siglip"


def facts(shapes: Shapes, where: str) -> EncoderFacts:
    """What the tensors' shapes say; heads, activation and epsilon stay open.

    Raises CheckpointError where the shapes are not a square VisionTransformer's.
    """
    try:
        width, _, patch, across = shapes[PATCHES]
        blocks = {int(found[1]) for name in shapes if (found := _BLOCK.match(name))}
        positions = shapes["pos_embed"][1] - _class_positions(shapes)
        side = round(positions**0.5)
        if patch != across or side * side != positions or blocks != set(range(len(blocks))):
            raise ValueError
        registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where} has tensors named as timm's, but not a square VisionTransformer's:"
            " this model is not supported."
        ) from error
    return EncoderFacts(where, width, patch, len(blocks), registers, side)


def _class_positions(shapes: Shapes) -> int:
    """Whether pos_embed holds a place for CLS: timm's models with registers hold none."""
    return 1 if "cls_token" in shapes and "reg_token" not in shapes else 0


def config(spec: EncoderSpec, shapes: Shapes) -> Any:
    """transformers' configuration of the contract's encoder with these tensors.

    Raises CheckpointError where the contract leaves open what the tensors do not say.
    """
    from transformers import Dinov2Config, Dinov2WithRegistersConfig, SiglipVisionConfig

    if not (spec.heads and spec.hidden_act):
        raise CheckpointError(
            f"The contract does not say how many heads and which activation {spec.name} has, and"
            " weights of timm's form do not either: name them (heads, hidden_act) in a contract"
            " file."
        )
    found = facts(shapes, "the weights")
    common = {
        "hidden_size": found.hidden_size,
        "num_hidden_layers": found.num_hidden_layers,
        "num_attention_heads": spec.heads,
        "image_size": spec.image_size,
        "patch_size": found.patch_size,
        "hidden_act": spec.hidden_act,
        "layer_norm_eps": spec.layer_norm_eps,
    }
    inner = shapes["blocks.0.mlp.fc1.weight"][0]
    if spec.name == "siglip":
        return SiglipVisionConfig(
            **common, intermediate_size=inner, vision_use_head="attn_pool.latent" in shapes
        )
    if inner % found.hidden_size:
        raise CheckpointError(f"An MLP of {inner} channels is not supported for {spec.name}.")
    common["mlp_ratio"] = inner // found.hidden_size
    if "reg_token" in shapes:
        return Dinov2WithRegistersConfig(**common, num_register_tokens=shapes["reg_token"][1])
    return Dinov2Config(**common)


def convert(tensors: Mapping[str, Tensor], spec: EncoderSpec) -> dict[str, Tensor]:
    """The state of transformers' model, positions resampled to the contract's grid."""
    return _siglip(tensors) if spec.name == "siglip" else _dinov2(tensors, spec.grid)


def _dinov2(tensors: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _BLOCK.fullmatch(name)
        if found:
            place, rest = f"encoder.layer.{found[1]}.", found[2]
            if rest.startswith("attn.qkv."):
                kind = rest.removeprefix("attn.qkv.")
                for part, share in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    state[f"{place}attention.attention.{part}.{kind}"] = share
            else:
                state[place + _renamed(rest, _DINOV2_BLOCK)] = tensor
        elif name == "pos_embed":
            state["embeddings.position_embeddings"] = _positions(tensors, grid)
        else:
            state[_DINOV2.get(name, name)] = tensor
    # Only masked training reads it; timm leaves it out.
    state["embeddings.mask_token"] = torch.zeros(1, tensors["cls_token"].shape[-1])
    return state


def _positions(tensors: Mapping[str, Tensor], grid: int) -> Tensor:
    """[1, 1 + grid * grid, D]: timm's bicubic resampling with antialias, in float32."""
    import torch
    from torch.nn import functional

    stored = tensors["pos_embed"].float()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    first = _class_positions(shapes)
    # Without a place for CLS, timm adds no position to it.
    place = stored[:, :first] if first else torch.zeros_like(stored[:, :1])
    patches = stored[:, first:]
    side = round(patches.shape[1] ** 0.5)
    if side != grid:
        square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True)
        patches = square.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([place, patches], dim=1)


def _siglip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _BLOCK.fullmatch(name)
        if found:
            place, rest = f"encoder.layers.{found[1]}.", found[2]
            if rest.startswith("attn.qkv."):
                kind = rest.removeprefix("attn.qkv.")
                for part, share in zip("qkv", tensor.chunk(3), strict=True):
                    state[f"{place}self_attn.{part}_proj.{kind}"] = share
            else:
                state[place + _renamed(rest, _SIGLIP_BLOCK)] = tensor
        elif name == "pos_embed":
            state["embeddings.position_embedding.weight"] = tensor[0]
        elif name in ("attn_pool.q.weight", "attn_pool.q.bias"):
            kind = name.rpartition(".")[2]
            state[f"head.attention.in_proj_{kind}"] = torch.cat(
                [tensor, tensors[f"attn_pool.kv.{kind}"]]
            )
        elif name.startswith("attn_pool.mlp."):
            state[name.replace("attn_pool.", "head.")] = tensor
        elif not name.startswith("attn_pool.kv."):
            state[_SIGLIP.get(name, name)] = tensor
    return state


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        if rest == ours or rest.startswith(f"{ours}."):
            return theirs + rest[len(ours) :]
    return rest
