"""Conversion of timm's VisionTransformer tensors to transformers' names, for SigLIP and DINOv2.

A policy's own checkpoint has the same tensors after a prefix. OpenVLA's calls LayerScale's `gamma`
`scale_factor`, because the transformers of its day renamed every `gamma`
(openvla/openvla: prismatic/extern/hf/modeling_prismatic.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siglip_perception.checkpoints.configs import (
    Dinov2Config,
    Dinov2WithRegistersConfig,
    SiglipVisionConfig,
    VisionConfig,
)
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
    """Tell the encoder from its tensors: only DINOv2 has a CLS token."""
    return "dinov2" if "cls_token" in shapes else "siglip"


def facts(shapes: Shapes, where: str) -> EncoderFacts:
    """Derive facts from the shapes, which do not tell heads, activation and epsilon.

    Raises CheckpointError unless they are a VisionTransformer's for square images.
    """
    try:
        width, _, patch, across = shapes[PATCHES]
        blocks = {int(match[1]) for name in shapes if (match := _BLOCK.match(name))}
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


# timm's architectures with the tanh form of GELU; its other SigLIPs and all DINOv2 have exact GELU
# (timm/models/vision_transformer.py).
_TANH = re.compile(
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip_|vit_large_patch16_siglip_(gap_)?512"
)


def activation(config: Mapping[str, Any], name: EncoderName, path: Path) -> str | None:
    """Tell the activation by the architecture in timm's or Prismatic's configuration.

    None if it names no architecture. Raises CheckpointError for one that Prismatic overrides.
    """
    overrides = config.get("timm_override_act_layers")
    if overrides is not None and (not isinstance(overrides, list) or any(overrides)):
        raise CheckpointError(
            f"timm_override_act_layers in {path} is {overrides!r}, another activation than timm's:"
            " this is not supported."
        )
    architectures = config.get("timm_model_ids", config.get("architecture"))
    if isinstance(architectures, str):
        architectures = [architectures]
    if not isinstance(architectures, list):
        return None
    for architecture in architectures:
        if isinstance(architecture, str) and (("siglip" in architecture) == (name == "siglip")):
            return "gelu_pytorch_tanh" if _TANH.match(architecture) else "gelu"
    return None


def _class_positions(shapes: Shapes) -> int:
    """Count pos_embed's entries for CLS, 1 or 0: timm's models with registers have none."""
    return 1 if "cls_token" in shapes and "reg_token" not in shapes else 0


def config(spec: EncoderSpec, shapes: Shapes) -> VisionConfig:
    """Make the configuration of the contract's encoder with these tensors.

    Raises CheckpointError if the contract omits what the tensors do not tell.
    """
    if not (spec.heads and spec.hidden_act):
        raise CheckpointError(
            f"The contract does not say how many heads and which activation {spec.name} has, and"
            " weights of timm's form do not either: name them (heads, hidden_act) in a contract"
            " file."
        )
    known_facts = facts(shapes, "the weights")
    common: dict[str, Any] = {
        "hidden_size": known_facts.hidden_size,
        "num_hidden_layers": known_facts.num_hidden_layers,
        "num_attention_heads": spec.heads,
        "image_size": spec.image_size,
        "patch_size": known_facts.patch_size,
        "hidden_act": spec.hidden_act,
        "layer_norm_eps": spec.layer_norm_eps,
    }
    inner = shapes["blocks.0.mlp.fc1.weight"][0]
    if spec.name == "siglip":
        return SiglipVisionConfig(
            **common, intermediate_size=inner, vision_use_head="attn_pool.latent" in shapes
        )
    if inner % known_facts.hidden_size:
        raise CheckpointError(f"An MLP of {inner} channels is not supported for {spec.name}.")
    common["mlp_ratio"] = inner // known_facts.hidden_size
    if "reg_token" in shapes:
        return Dinov2WithRegistersConfig(**common, num_register_tokens=shapes["reg_token"][1])
    return Dinov2Config(**common)


def convert(tensors: Mapping[str, Tensor], spec: EncoderSpec) -> dict[str, Tensor]:
    """Make the state dict of transformers' model, its positions resampled to the grid."""
    return _siglip(tensors) if spec.name == "siglip" else _dinov2(tensors, spec.grid)


def _dinov2(tensors: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        if match:
            prefix, suffix = f"encoder.layer.{match[1]}.", match[2]
            if suffix.startswith("attn.qkv."):
                kind = suffix.removeprefix("attn.qkv.")
                for part, share in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    state[f"{prefix}attention.attention.{part}.{kind}"] = share
            else:
                state[prefix + _rename(suffix, _DINOV2_BLOCK)] = tensor
        elif name == "pos_embed":
            state["embeddings.position_embeddings"] = _positions(tensors, grid)
        else:
            state[_DINOV2.get(name, name)] = tensor
    # Only masked training reads it, and timm omits it.
    state["embeddings.mask_token"] = torch.zeros(1, tensors["cls_token"].shape[-1])
    return state


def _positions(tensors: Mapping[str, Tensor], grid: int) -> Tensor:
    """Resample to [1, 1 + grid * grid, D] as timm does: bicubic, antialiased, in float32."""
    import torch
    from torch.nn import functional

    embedding = tensors["pos_embed"].float()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    class_count = _class_positions(shapes)
    # Without an entry for CLS, timm adds no position to it.
    class_position = (
        embedding[:, :class_count] if class_count else torch.zeros_like(embedding[:, :1])
    )
    patches = embedding[:, class_count:]
    side = round(patches.shape[1] ** 0.5)
    if side != grid:
        square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True)
        patches = square.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([class_position, patches], dim=1)


def _siglip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        if match:
            prefix, suffix = f"encoder.layers.{match[1]}.", match[2]
            if suffix.startswith("attn.qkv."):
                kind = suffix.removeprefix("attn.qkv.")
                for part, share in zip("qkv", tensor.chunk(3), strict=True):
                    state[f"{prefix}self_attn.{part}_proj.{kind}"] = share
            else:
                state[prefix + _rename(suffix, _SIGLIP_BLOCK)] = tensor
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


def _rename(suffix: str, names: Mapping[str, str]) -> str:
    for timm_name, hf_name in names.items():
        if suffix == timm_name or suffix.startswith(f"{timm_name}."):
            return hf_name + suffix[len(timm_name) :]
    return suffix
