"""Changes to configuration files, as converters, other versions and hands make them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hub_folders import HubFolder, Json

# Names that other versions and other projects have for the same.
RENAMES = {
    "torch_dtype": "dtype",
    "dtype": "torch_dtype",
    "image_processor_type": "feature_extractor_type",
    "image_mean": "mean",
    "image_std": "std",
    "mean": "image_mean",
    "std": "image_std",
    "resample": "interpolation",
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_eps",
    "intermediate_size": "mlp_dim",
    "image_size": "img_size",
    "patch_size": "patch",
    "num_register_tokens": "registers",
    "vision_config": "vision_tower_config",
    "tvf_normalize_params": "tvf_normalise_params",
}
_OBJECTS = ("vision_config", "image_processor", "pretrained_cfg")
_OTHER_TEXT = {"hidden_act": "relu", "model_type": "siglip_text_model"}


@dataclass(frozen=True)
class Mutation:
    """One change.

    key: what a refusal must name. keeps: the change loses or respells a value, and the weights
    are the same, so other tokens than before are wrong.
    files: all JSON files after it.
    """

    name: str
    key: str
    keeps: bool
    files: Mapping[str, Json]


def mutations(folder: HubFolder) -> Iterator[Mutation]:
    for file in folder.files:
        if file == "model.safetensors.index.json":
            continue
        for place in _places(folder.files[file]):
            yield from _of_object(folder, file, place)
    yield from _nested(folder)


def _places(content: Json) -> Iterator[tuple[str, ...]]:
    yield ()
    for key in _OBJECTS:
        if isinstance(content.get(key), dict):
            yield (key,)


def _at(content: Json, place: tuple[str, ...]) -> Json:
    for key in place:
        content = content[key]
    return content


def _of_object(folder: HubFolder, file: str, place: tuple[str, ...]) -> Iterator[Mutation]:
    for key, value in _at(folder.files[file], place).items():
        for operation, keeps, change in _changes(key, value):
            files = copy.deepcopy(dict(folder.files))
            entries = _at(files[file], place)
            del entries[key]
            entries.update(change)
            name = f"{folder.name}/{file}:{'.'.join((*place, key))} {operation}"
            yield Mutation(name, key, keeps, files)


def _changes(key: str, value: Any) -> Iterator[tuple[str, bool, Json]]:
    yield "missing", True, {}
    yield "null", True, {key: None}
    yield "renamed", True, {RENAMES.get(key, f"{key}_"): value}
    if isinstance(value, bool):
        yield "as number", True, {key: int(value)}
        yield "as text", True, {key: str(value).lower()}
        yield "not", False, {key: not value}
    elif isinstance(value, (int, float)):
        yield "as text", True, {key: str(value)}
        yield (
            "as float" if isinstance(value, int) else "in a list",
            True,
            {key: float(value) if isinstance(value, int) else [value]},
        )
        yield "in a list", True, {key: [value]}
        yield "twice", False, {key: 2 * value or 1}
        yield "half", False, {key: value // 2 if isinstance(value, int) else value / 2}
        # transformers' classes, which make the reference, take no dropout below 0.
        yield "negative", False, {key: 0 if "drop" in key else -value or -1}
    elif isinstance(value, str):
        yield "in a list", True, {key: [value]}
        yield "upper", True, {key: value.upper()}
        yield "other", False, {key: _OTHER_TEXT.get(key, "other")}
        yield "as number", True, {key: 7}
    elif isinstance(value, list):
        yield "empty", True, {key: []}
        yield "first alone", False, {key: value[:1]}
        yield "as text", True, {key: str(value)}
        yield "reversed", False, {key: value[::-1]}
    elif isinstance(value, dict):
        yield "empty", True, {key: {}}
        yield "in a list", True, {key: [value]}
        if all(isinstance(number, int) and number for number in value.values()):
            yield (
                "another size",
                False,
                {key: {name: 2 * number for name, number in value.items()}},
            )
            yield "one number", False, {key: next(iter(value.values()), 1)}


def _nested(folder: HubFolder) -> Iterator[Mutation]:
    """The encoder's own fields put into vision_config, or taken out of it."""
    config = folder.files["config.json"]
    files = copy.deepcopy(dict(folder.files))
    if "vision_config" in config:
        inner = files["config.json"].pop("vision_config")
        files["config.json"] = {**inner, **files["config.json"]}
        yield Mutation(f"{folder.name}/config.json flattened", "vision_config", True, files)
        for key, value in config["vision_config"].items():
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                continue
            files = copy.deepcopy(dict(folder.files))
            files["config.json"][key] = 2 * value
            yield Mutation(f"{folder.name}/config.json {key} beside", key, True, files)
    else:
        outer: Json = {
            key: config[key] for key in ("model_type", "architectures") if key in config
        }
        files["config.json"] = {**outer, "vision_config": copy.deepcopy(config)}
        yield Mutation(f"{folder.name}/config.json nested", "vision_config", True, files)
