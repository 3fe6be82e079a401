"""Configurations of the encoders: what config.json states, each field in its range.

The classes have the fields and the defaults of transformers' classes, which would take seconds to
import and check types but no ranges: they make what they are told, a hundred thousand layers, or a
dictionary of a billion labels. Fields that no encoder here has are dropped for that reason.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from siglip_perception.contracts import EncoderName
from siglip_perception.errors import CheckpointError

# Ranges, both ends included; several times what the largest models of the kind have.
_INTEGERS: Mapping[str, tuple[int, int]] = {
    "hidden_size": (1, 16384),
    "intermediate_size": (1, 131072),
    "num_hidden_layers": (1, 256),
    "num_attention_heads": (1, 256),
    "num_channels": (3, 3),
    "image_size": (1, 4096),
    "patch_size": (1, 4096),
    "vocab_size": (1, 4_000_000),
    "max_position_embeddings": (1, 8192),
    "projection_size": (1, 16384),
    "mlp_ratio": (1, 64),
    "num_register_tokens": (0, 64),
}
_POSITIVE = ("layer_norm_eps", "rope_theta")
_MAX_NUMBER = 1e9


@dataclass(frozen=True)
class SiglipTextConfig:
    """SigLIP's text tower. projection_size: width of its output; None: hidden_size."""

    model_type: ClassVar[str] = "siglip_text_model"

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | list[int] | None = 49407
    projection_size: int | None = None


@dataclass(frozen=True)
class SiglipVisionConfig:
    """SigLIP's vision tower. vision_use_head: it has the pooling head."""

    model_type: ClassVar[str] = "siglip_vision_model"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    vision_use_head: bool = True


@dataclass(frozen=True)
class SiglipConfig:
    """Both towers of a SigLIP."""

    model_type: ClassVar[str] = "siglip"

    text_config: SiglipTextConfig = field(default_factory=SiglipTextConfig)
    vision_config: SiglipVisionConfig = field(default_factory=SiglipVisionConfig)
    initializer_factor: float = 1.0


@dataclass(frozen=True)
class Dinov2Config:
    """DINOv2 without registers. mlp_ratio: width of the MLP as a multiple of hidden_size."""

    model_type: ClassVar[str] = "dinov2"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True


@dataclass(frozen=True)
class Dinov2WithRegistersConfig:
    """DINOv2 with registers."""

    model_type: ClassVar[str] = "dinov2_with_registers"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 4


@dataclass(frozen=True)
class DINOv3ViTConfig:
    """DINOv3's vision transformer, with rotary positions."""

    model_type: ClassVar[str] = "dinov3_vit"

    patch_size: int = 16
    hidden_size: int = 384
    intermediate_size: int = 1536
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0
    image_size: int = 224
    num_channels: int = 3
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_gated_mlp: bool = False
    num_register_tokens: int = 0
    pos_embed_shift: float | None = None
    pos_embed_jitter: float | None = None
    pos_embed_rescale: float | None = 2.0


VisionConfig = SiglipVisionConfig | Dinov2Config | Dinov2WithRegistersConfig | DINOv3ViTConfig
EncoderConfig = SiglipConfig | VisionConfig
# The configurations that are read, by the model_type in config.json.
CONFIGS: Mapping[EncoderName, Mapping[str, type[EncoderConfig]]] = {
    "siglip": {"siglip": SiglipConfig, "siglip_vision_model": SiglipVisionConfig},
    "dinov2": {"dinov2_with_registers": Dinov2WithRegistersConfig, "dinov2": Dinov2Config},
    "dinov3": {"dinov3_vit": DINOv3ViTConfig},
}


def read_config(fields: Mapping[str, Any], kind: type[EncoderConfig], path: Path) -> EncoderConfig:
    """Read a configuration from the fields of the config.json at `path`.

    Raises CheckpointError, which names the first field that is wrong.
    """
    config: EncoderConfig = kind(**_checked_fields(fields, kind, path))
    return config


def _checked_fields(fields: Mapping[str, Any], kind: type[Any], path: Path) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    default = kind()
    for entry in dataclasses.fields(kind):
        name, default_value = entry.name, getattr(default, entry.name)
        if name not in fields:
            continue
        value = fields[name]
        if dataclasses.is_dataclass(default_value):
            if not isinstance(value, dict):
                raise _error(path, name, value, "an object")
            tower: Any = type(default_value)
            value = tower(**_checked_fields(value, tower, path))
        elif value is not None or "None" not in str(entry.type):
            requirement = _requirement(name, value, str(entry.type))
            if requirement:
                raise _error(path, name, value, requirement)
        checked[name] = value
    return checked


def _requirement(name: str, value: object, kind: str) -> str:
    """Say what a field that is wrong must be; empty if it is right. kind: its annotation."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _INTEGERS:
        low, high = _INTEGERS[name]
        if type(value) is int and low <= value <= high:
            return ""
        return f"{low}" if low == high else f"a whole number from {low} to {high}"
    if kind.startswith("bool"):
        return "" if isinstance(value, bool) else "true or false"
    if kind.startswith("str"):
        return "" if isinstance(value, str) else "text"
    if kind.startswith("int") and isinstance(value, list) and "list" in kind:
        return "" if all(type(item) is int for item in value) else "whole numbers"
    if kind.startswith("int") and type(value) is not int:
        return "a whole number"
    if not is_number:
        return "a number"
    if not math.isfinite(value) or abs(value) > _MAX_NUMBER:  # type: ignore[arg-type]
        return "a number between -1e9 and 1e9"
    return "above 0" if name in _POSITIVE and value <= 0 else ""  # type: ignore[operator]


def _error(path: Path, name: str, value: object, requirement: str) -> CheckpointError:
    return CheckpointError(
        f"{name} in {path} is {reprlib.repr(value)} and must be {requirement}: get a fresh copy of"
        " the model folder."
    )
