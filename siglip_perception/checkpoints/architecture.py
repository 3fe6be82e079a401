"""The fields of an encoder's configuration, checked against the shapes of its tensors.

A class of transformers fills in what a configuration lacks. Where the tensors tell the value, a
wrong one is refused by name; where they do not (heads, activation), a default is taken only where
the published configurations leave it out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception.contracts import EncoderName
from siglip_perception.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

# A tensor that every checkpoint of the encoder has; whatever precedes its name is a prefix.
ANCHORS: Mapping[EncoderName, str] = {
    "siglip": "embeddings.patch_embedding.weight",
    "dinov2": "embeddings.patch_embeddings.projection.weight",
    "dinov3": "embeddings.patch_embeddings.weight",
}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_LAYER = re.compile(r"layers?\.(\d+)\.")
# Names in other projects' configurations for what the tensors do not tell.
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "num_attention_heads": ("num_heads", "n_heads", "heads"),
    "hidden_act": ("activation", "activation_function", "act_layer", "hidden_activation"),
    "layer_norm_eps": ("norm_eps", "layer_norm_epsilon", "layernorm_eps", "eps"),
}
# Fields that are written out together: transformers writes all of a configuration, or only what
# differs from its defaults.
_WRITTEN_OUT = ("num_channels", "attention_dropout", "attention_probs_dropout_prob")
_ABSENT = object()


@dataclass(frozen=True)
class Fields:
    """An encoder's fields in a configuration file.

    path: the file. prefix: of the fields' names in it, such as "vision_config.".
    content: the object that holds them. default: transformers' configuration class, made without
        arguments, for what the file lacks.
    """

    path: Path
    prefix: str
    content: Mapping[str, Any]
    default: Any

    def check(self, shapes: Shapes, elsewhere: Mapping[str, Any]) -> None:
        """Check the values that the tensors tell, and what they do not tell for lack of a guess.

        shapes: of the tensors, their names without a prefix.
        elsewhere: another object of the file, in which the fields may lie by mistake.
        Raises CheckpointError that names the field.
        """
        self.check_unknown(elsewhere)
        for key, actual in _told_by(shapes).items():
            missing = key not in self.content and hasattr(self.default, key)
            if key == "projection_size":
                continue  # its default is hidden_size
            if missing and not self._agrees(key, actual):
                raise self._absent(key, actual, elsewhere)
        self.check_stated(shapes)

    def check_stated(self, shapes: Shapes) -> None:
        """Compare the fields that the file has with what the tensors tell.

        Raises CheckpointError that names the first one that differs.
        """
        for key, actual in _told_by(shapes).items():
            stated = key in self.content and hasattr(self.default, key)
            if stated and not self._agrees(key, actual):
                raise CheckpointError(
                    f"{self.prefix}{key} in {self.path} is {self.content[key]!r} and the weights'"
                    f" is {actual!r}: write {actual!r} there if these are the right weights."
                )
        width, heads = self.value("hidden_size"), self.value("num_attention_heads")
        if "num_attention_heads" in self.content and width % heads:
            raise CheckpointError(
                f"{self.prefix}num_attention_heads in {self.path} is {heads} and does not divide"
                f" hidden_size, {width}: correct it."
            )

    def value(self, key: str) -> Any:
        """The file's value, or the class's default."""
        value = self.content.get(key)
        return getattr(self.default, key) if value is None else value

    def _agrees(self, key: str, actual: Any) -> bool:
        if key != "image_size":
            return bool(self.value(key) == actual)
        # 384 px in patches of 14 have the positions of 378 px.
        patch = self.value("patch_size")
        return bool(self.value(key) // patch == actual // patch)

    def check_unknown(self, elsewhere: Mapping[str, Any], *, heads_needed: bool = True) -> None:
        """Refuse the lack of a field that no tensor tells, where a default would be a guess.

        heads_needed: no contract will tell the number of heads.
        """
        for key in _SIZES if heads_needed else ():
            if key not in self.content and key in elsewhere:
                raise self._misplaced(key)
        for key, synonyms in _SYNONYMS.items():
            if key in self.content or not hasattr(self.default, key):
                continue
            for name in synonyms:
                if name in self.content:
                    raise CheckpointError(
                        f"{self.prefix}{key} is missing in {self.path}, which has {name}"
                        f" {self.content[name]!r} instead: rename it to {key}."
                    )
        if "num_attention_heads" not in self.content and heads_needed:
            width = self.value("hidden_size")
            if width != self.default.hidden_size:
                raise self._guess("num_attention_heads", f"hidden_size is {width}", elsewhere)
        written = next((key for key in _WRITTEN_OUT if key in self.content), "")
        if "hidden_act" not in self.content and written:
            raise self._guess("hidden_act", f"{written} is written out", elsewhere)

    def _guess(self, key: str, reason: str, elsewhere: Mapping[str, Any]) -> CheckpointError:
        if key in elsewhere:
            return self._misplaced(key)
        return CheckpointError(
            f"{self.prefix}{key} is missing in {self.path}, where {reason}, and the weights do not"
            f" tell it: add it, as in the model's own repository."
        )

    def _absent(self, key: str, actual: Any, elsewhere: Mapping[str, Any]) -> CheckpointError:
        if key in elsewhere:
            return self._misplaced(key)
        return CheckpointError(
            f"{self.prefix}{key} is missing in {self.path}, which means"
            f" {getattr(self.default, key)!r} to transformers, and the weights' is {actual!r}: add"
            " it."
        )

    def _misplaced(self, key: str) -> CheckpointError:
        if self.prefix:
            return CheckpointError(
                f"{self.prefix}{key} is missing in {self.path}, and {key} lies beside"
                f" {self.prefix[:-1]}: move it into that."
            )
        return CheckpointError(
            f"{key} is missing in {self.path}, and lies in its vision_config: a model of this"
            " model_type has its fields at the top level, so move the content of vision_config"
            " there."
        )


def plain_shapes(name: EncoderName, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Select the encoder's vision tensors, their names without any prefix."""
    prefix = wrapper_prefix(name, shapes)
    vision = f"{prefix}vision_model."
    nested = any(key.startswith(vision) for key in shapes)
    start = vision if nested else prefix
    return {
        key.removeprefix(start): shape for key, shape in shapes.items() if key.startswith(start)
    }


def text_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Select SigLIP's text tensors, their names without any prefix."""
    start = f"{wrapper_prefix('siglip', shapes)}text_model."
    return {
        key.removeprefix(start): shape for key, shape in shapes.items() if key.startswith(start)
    }


def wrapper_prefix(encoder: EncoderName, names: Iterable[str]) -> str:
    """Find the prefix that a training module put before all names, such as `model.`."""
    anchor = ANCHORS[encoder]
    holder = next((name for name in names if name.endswith(anchor)), anchor)
    prefix = holder.removesuffix(anchor).removesuffix("vision_model.")
    return prefix if not prefix or prefix.endswith(".") else ""


def _told_by(shapes: Shapes) -> dict[str, Any]:
    """Derive what the shapes tell: a tower's fields by their names in a configuration."""
    told: dict[str, Any] = {}
    patches = next((shapes[anchor] for anchor in ANCHORS.values() if anchor in shapes), None)
    if patches is not None and len(patches) == 4:
        told.update(hidden_size=patches[0], num_channels=patches[1], patch_size=patches[2])
    layers = {int(match[1]) for name in shapes if (match := _LAYER.search(name))}
    if layers:
        told["num_hidden_layers"] = max(layers) + 1
    width = told.get("hidden_size")
    inner = _first(shapes, ".mlp.fc1.weight") or _first(shapes, ".mlp.up_proj.weight")
    if "embeddings.token_embedding.weight" in shapes:
        told["vocab_size"], told["hidden_size"] = shapes["embeddings.token_embedding.weight"]
        told["max_position_embeddings"] = shapes["embeddings.position_embedding.weight"][0]
        if "head.weight" in shapes:
            told["projection_size"] = shapes["head.weight"][0]
    elif "embeddings.position_embedding.weight" in shapes and patches is not None:
        told["image_size"] = _side(shapes["embeddings.position_embedding.weight"][0]) * patches[2]
        told["vision_use_head"] = "head.probe" in shapes
    if inner is not None:
        told["intermediate_size"] = inner[0]
        if width and inner[0] % width == 0:
            told["mlp_ratio"] = inner[0] // width
    if "embeddings.register_tokens" in shapes:
        told["num_register_tokens"] = shapes["embeddings.register_tokens"][1]
    if "embeddings.position_embeddings" in shapes and patches is not None:
        told["image_size"] = _side(shapes["embeddings.position_embeddings"][1] - 1) * patches[2]
        told["use_swiglu_ffn"] = _first(shapes, ".mlp.weights_in.weight") is not None
        told["qkv_bias"] = _first(shapes, ".attention.query.bias") is not None
        told["use_mask_token"] = "embeddings.mask_token" in shapes
    return told


def _first(shapes: Shapes, ending: str) -> tuple[int, ...] | None:
    return next((shape for name, shape in shapes.items() if name.endswith(ending)), None)


def _side(positions: int) -> int:
    return math.isqrt(max(positions, 0))
