"""Limits on the fields of an encoder's config.json, checked before anything is made of them.

transformers checks types but no ranges, and makes what it is told: a hundred thousand layers, or a
dictionary of a billion labels. Fields that no encoder here has are dropped for that reason.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_TOWERS = ("vision_config", "text_config")


def check_fields(fields: Mapping[str, Any], kind: type[Any], path: Path) -> dict[str, Any]:
    """Return the fields that the configuration class has, each in its range.

    Raises CheckpointError, which names the first field that is not.
    """
    names = {field.name for field in dataclasses.fields(kind)} - _base_names(kind)
    checked = {name: value for name, value in fields.items() if name in names}
    for name, value in checked.items():
        if name in _TOWERS:
            if not isinstance(value, dict):
                raise _error(path, name, value, "an object")
            checked[name] = check_fields(value, kind.sub_configs[name], path)
        elif name in _INTEGERS and value is not None:
            low, high = _INTEGERS[name]
            if type(value) is not int or not low <= value <= high:
                limits = f"{low}" if low == high else f"a whole number from {low} to {high}"
                raise _error(path, name, value, limits)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value) or abs(value) > _MAX_NUMBER:
                raise _error(path, name, value, "a number between -1e9 and 1e9")
            if name in _POSITIVE and value <= 0:
                raise _error(path, name, value, "above 0")
    return checked


def _base_names(kind: type[Any]) -> set[str]:
    """Names of the fields that every configuration of transformers has, such as id2label."""
    base = next(parent for parent in kind.__mro__ if parent.__name__ == "PreTrainedConfig")
    return {field.name for field in dataclasses.fields(base)}


def _error(path: Path, name: str, value: object, requirement: str) -> CheckpointError:
    return CheckpointError(
        f"{name} in {path} is {reprlib.repr(value)} and must be {requirement}: get a fresh copy of"
        " the model folder."
    )
