"""Layout of a model folder: its encoders, their formats and their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siglip_perception.checkpoints import timm
from siglip_perception.checkpoints.architecture import Fields, plain_shapes, text_shapes
from siglip_perception.checkpoints.configs import (
    CONFIGS,
    EncoderConfig,
    SiglipConfig,
    SiglipVisionConfig,
    read_config,
)
from siglip_perception.checkpoints.folder import Folder
from siglip_perception.checkpoints.identify import (
    INDEX,
    WEIGHTS,
    describe_folder,
    type_advice,
)
from siglip_perception.checkpoints.processor import pixel_facts, timm_facts
from siglip_perception.contracts import EncoderFacts, EncoderName, InputFacts
from siglip_perception.contracts.contract import ENCODERS
from siglip_perception.errors import CheckpointError

# Keys of a config.json that make transformers fetch or run foreign code.
_REMOTE_CODE_KEYS = frozenset(
    {
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation_internal",
        "fusion_config",
        "kernel_config",
        "use_kernels",
    }
)
_SMOL_TYPES = ("smolvlm_vision", "idefics3_vision")
_PREFIXED_PATCHES = "embeddings.patch_embedding.weight"


@dataclass(frozen=True)
class EncoderSource:
    """Files of one encoder in a model folder.

    part: its folder with a slash, or "" for the model folder itself.
    config: its configuration; None for weights without one (timm's, a policy's).
    raw: content of config.json, without the keys that may run code.
    prefix: prefix of its tensors' names. is_timm: the names are timm's.
    files: weight file -> names of its tensors, if an index lists them.
    shapes: name without the prefix -> shape; empty with a config.
    """

    name: EncoderName
    part: str
    config: EncoderConfig | None
    raw: Mapping[str, Any]
    prefix: str
    is_timm: bool
    files: Mapping[str, list[str]]
    shapes: timm.Shapes
    facts: EncoderFacts


@dataclass(frozen=True)
class Layout:
    """Encoders of a model folder, by name.

    policy: facts about a policy's input, from its config.json.
    trained: the encoders are a policy's, which may have trained them away from SigLIP's text
        tower.
    """

    encoders: Mapping[EncoderName, EncoderSource]
    policy: InputFacts | None
    trained: bool


def discover(folder: Folder) -> Layout:
    """Read configurations and headers, but no weights, and find the encoders.

    Raises CheckpointError, one sentence, if the folder holds no supported encoder.
    """
    parts = [name for name in ENCODERS if _has_encoder(folder.path / name)]
    for part in ("", *(f"{name}/" for name in parts)):
        _refuse_adapter(folder, part)
    if parts:
        _refuse_misnamed(folder, parts)
        sources: dict[EncoderName, EncoderSource] = {}
        for name in parts:
            part = f"{name}/"
            if folder.has(f"{part}config.json") and _model_type(folder, part):
                sources[name] = _transformers(folder, part, name)
            else:
                sources[name] = _timm_folder(folder, part, name)
        return Layout(sources, None, trained=False)
    _refuse_no_model(folder)
    if not folder.has("config.json"):
        return _policy(folder, {})
    kind = _model_type(folder, "")
    encoder = _encoder_of_type(kind)
    if encoder is not None:
        return Layout({encoder: _transformers(folder, "", encoder)}, None, trained=False)
    advice = type_advice(kind)
    if advice:
        raise CheckpointError(f"{folder.path} is {advice} (its model_type is {kind!r}).")
    return _policy(folder, folder.read_json("config.json"))


def _refuse_no_model(folder: Folder) -> None:
    """Raise CheckpointError if no model has the names in the folder; read nothing."""
    if any(_has_encoder(folder.path / name) for name in ENCODERS):
        return
    if not any(folder.has(name) for name in ("config.json", WEIGHTS, INDEX)):
        raise CheckpointError(describe_folder(folder.path))


def _has_encoder(path: Path) -> bool:
    """Return whether an encoder's folder exists; CheckpointError for a file of that name."""
    if not path.is_dir() and (path.exists() or path.is_symlink()):
        kind = "a file" if path.exists() else "a link to a folder that is not there"
        raise CheckpointError(f"{path} is {kind}: put the encoder's folder in its place.")
    return path.is_dir()


def _model_type(folder: Folder, part: str) -> str:
    """Read the model_type in config.json; empty if there is none.

    Raises CheckpointError if it is not text.
    """
    kind = folder.read_json(f"{part}config.json").get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(
            f"model_type in {folder.path / part / 'config.json'} is {kind!r} and must be text:"
            " get a fresh copy of the model folder."
        )
    return kind or ""


def _encoder_of_type(kind: str) -> EncoderName | None:
    return next((name for name in ENCODERS if kind in CONFIGS[name]), None)


def _refuse_adapter(folder: Folder, part: str) -> None:
    """Refuse a LoRA adapter beside whole weights, for it would be ignored silently."""
    adapter = folder.path / part / "adapter_config.json"
    if adapter.is_file() and (folder.has(f"{part}{WEIGHTS}") or folder.has(f"{part}{INDEX}")):
        raise CheckpointError(
            f"{adapter} is of a LoRA adapter, which would not be applied: merge it into the"
            " weights (PEFT's merge_and_unload, then save_pretrained), or remove it."
        )


def _refuse_misnamed(folder: Folder, parts: Iterable[EncoderName]) -> None:
    """Refuse an encoder in a folder of another name, for it would be ignored silently."""
    for subfolder in sorted(folder.path.iterdir()):
        try:
            if subfolder.name in ENCODERS or not (subfolder / "config.json").is_file():
                continue
            name = _encoder_of_type(_model_type(Folder(subfolder), ""))
        except (CheckpointError, OSError):
            continue
        if name is not None and name not in parts:
            raise CheckpointError(
                f"{subfolder} holds a {name} encoder and would not be looked at: rename the folder"
                f" to {name}, or move it elsewhere."
            )


def _transformers(folder: Folder, part: str, name: EncoderName) -> EncoderSource:
    where = f"{part}config.json"
    fields = folder.read_json(where)
    path = folder.path / where
    model_type = _model_type(folder, part)
    if model_type not in CONFIGS[name]:
        raise _wrong_type(path, model_type, name)
    if "quantization_config" in fields:
        quantization = fields["quantization_config"]
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise CheckpointError(
            f"{path} describes quantized weights ({method or 'quantization_config'}): give the"
            " unquantized model."
        )
    raw = _without_remote_code(fields)
    config = read_config(raw, CONFIGS[name][model_type], path)
    for _, tower, elsewhere in _fields(path, raw, config):
        tower.check_unknown(elsewhere)
    vision = config.vision_config if isinstance(config, SiglipConfig) else config
    pixels = pixel_facts(folder, part, name)
    try:
        if min(vision.hidden_size, vision.num_hidden_layers) < 1:
            raise ValueError
        facts = EncoderFacts(
            where,
            vision.hidden_size,
            vision.patch_size,
            vision.num_hidden_layers,
            int(getattr(vision, "num_register_tokens", 0)),
            vision.image_size // vision.patch_size if name == "siglip" else None,
            vision.num_attention_heads,
            vision.hidden_act,
            vision.layer_norm_eps,
            "vision_config." if vision is not config else "",
            pixels,
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} describes no encoder of square images: get a fresh copy of the model folder."
        ) from error
    files = folder.weight_files(part)
    for file in files:
        folder.require(file)
    return EncoderSource(name, part, config, raw, "", False, files, {}, facts)


def check_shapes(path: Path, source: EncoderSource, shapes: timm.Shapes) -> None:
    """Compare an encoder's config.json with its tensors' shapes.

    Raises CheckpointError that names the field.
    """
    if source.config is None:
        return
    vision = plain_shapes(source.name, shapes)
    for part, fields, elsewhere in _fields(path, source.raw, source.config):
        fields.check(text_shapes(shapes) if part == "text_config" else vision, elsewhere)


def _fields(
    path: Path, raw: Mapping[str, Any], config: EncoderConfig
) -> Iterator[tuple[str, Fields, Mapping[str, Any]]]:
    """Yield each tower's name in config.json, its fields, and where else they may lie."""
    if not isinstance(config, SiglipConfig):
        inner = raw.get("vision_config")
        elsewhere = inner if isinstance(inner, dict) else {}
        yield "", Fields(path, "", raw, type(config)()), elsewhere
        return
    for part in ("vision_config", "text_config"):
        default = type(getattr(config, part))()
        yield part, Fields(path, f"{part}.", raw.get(part) or {}, default), raw


def _wrong_type(path: Path, model_type: object, name: EncoderName) -> CheckpointError:
    types = " or ".join(map(repr, CONFIGS[name]))
    actual = _encoder_of_type(model_type) if isinstance(model_type, str) else None
    advice = "this model is not supported"
    if actual is not None:
        advice = f"move it to the folder {actual}"
    elif type_advice(model_type):
        advice = f"it is {type_advice(model_type)}"
    return CheckpointError(f"{path} is of the type {model_type!r} and must be {types}: {advice}.")


def _timm_folder(folder: Folder, part: str, name: EncoderName) -> EncoderSource:
    """Describe one encoder in timm's form, whose config.json, if any, has no model_type."""
    files = folder.weight_files(part)
    weights = next(iter(files))
    if not folder.has(weights) and folder.has(f"{part}config.json"):
        folder.read(weights)  # raises: says what is missing
    if not (folder.path / weights).is_file():
        folder.read(f"{part}config.json")
    shapes = _shapes(folder, files, "")
    if timm.PATCHES not in shapes:
        folder.read(f"{part}config.json")
        raise _wrong_type(folder.path / part / "config.json", None, name)
    if name != timm.encoder_of(shapes):
        raise CheckpointError(
            f"{folder.path / weights} holds a {timm.encoder_of(shapes)} encoder and lies in the"
            f" folder {part}: move it to {timm.encoder_of(shapes)}/."
        )
    pixels = pixel_facts(folder, part, name)
    if pixels is None and folder.has(f"{part}config.json"):
        where = f"{part}config.json"
        pixels = timm_facts(where, folder.read_json(where))
    facts = replace(timm.facts(shapes, weights), pixels=pixels)
    if folder.has(f"{part}config.json"):
        config = folder.read_json(f"{part}config.json")
        activation = timm.activation(config, name, folder.path / part / "config.json")
        facts = replace(facts, hidden_act=activation)
    return EncoderSource(name, part, None, {}, "", True, files, shapes, facts)


def _policy(folder: Folder, config: Mapping[str, Any]) -> Layout:
    """Find the vision encoders of a policy's own checkpoint by their tensors' names."""
    files = folder.weight_files("")
    names = [name for tensor_names in files.values() for name in tensor_names]
    if not names:
        names = list(folder.read_header(next(iter(files))))
    sources: dict[EncoderName, EncoderSource] = {}
    _refuse_film(folder, names)
    for prefix, is_timm in vision_prefixes(names).items():
        if is_timm:
            source = _timm_source(folder, files, prefix, config)
        else:
            source = _siglip_source(folder, files, prefix, config)
        if source.name in sources:
            raise CheckpointError(
                f"{folder.path} holds two {source.name} encoders,"
                f" {sources[source.name].prefix!r} and {source.prefix!r}: this is not supported."
            )
        pixels = pixel_facts(folder, "", source.name) or timm_facts("config.json", config)
        sources[source.name] = replace(source, facts=replace(source.facts, pixels=pixels))
    if not sources:
        raise CheckpointError(
            f"{folder.path} is of the model_type {config.get('model_type')!r} and its weights hold"
            " no SigLIP or DINOv2 encoder: this model is not supported."
        )
    return Layout(sources, _input_facts(config), trained=True)


# FiLM wraps each block of OpenVLA's vision backbone and scales and shifts what is in it.
_FILM = re.compile(r"vision_backbone\..*\.blocks\.\d+\.(scale|shift)\.(weight|bias)$")


def _refuse_film(folder: Folder, names: Iterable[str]) -> None:
    """Raise CheckpointError for an encoder whose tokens depend on the instruction."""
    name = next((name for name in names if _FILM.search(name)), None)
    if name is not None:
        raise CheckpointError(
            f"{folder.path} has an encoder with FiLM ({name}), which scales and shifts every block"
            " by the instruction: no frame's tokens are the same for two instructions, so no"
            " contract can state them; use a checkpoint without FiLM."
        )


def vision_prefixes(names: Iterable[str]) -> dict[str, bool]:
    """Find the name prefix of each vision encoder; the value is True if timm's names follow."""
    prefixes = {}
    for name in names:
        if name.endswith(timm.PATCHES):
            prefixes[name.removesuffix(timm.PATCHES)] = True
        elif name.endswith(_PREFIXED_PATCHES) and "vision" in name:
            prefixes[name.removesuffix(_PREFIXED_PATCHES)] = False
    return prefixes


def _timm_source(
    folder: Folder, files: Mapping[str, list[str]], prefix: str, config: Mapping[str, Any]
) -> EncoderSource:
    encoder_files = _files_with_prefix(files, prefix)
    shapes = _shapes(folder, encoder_files, prefix)
    where = f"{next(iter(encoder_files))} ({prefix}*)"
    name = timm.encoder_of(shapes)
    activation = timm.activation(config, name, folder.path / "config.json")
    facts = replace(timm.facts(shapes, where), hidden_act=activation)
    return EncoderSource(name, "", None, {}, prefix, True, encoder_files, shapes, facts)


def _siglip_source(
    folder: Folder, files: Mapping[str, list[str]], prefix: str, config: Mapping[str, Any]
) -> EncoderSource:
    """Describe a SigLIP vision tower with transformers' names after a prefix, as in pi0.

    Its vision_config, where config.json has one, tells what the shapes do not.
    """
    encoder_files = _files_with_prefix(files, prefix)
    shapes = _shapes(folder, encoder_files, prefix)
    where = f"{next(iter(encoder_files))} ({prefix}*)"
    try:
        weight = shapes[_PREFIXED_PATCHES]
        is_naflex = len(weight) == 2
        if is_naflex:  # a product over the levels of a patch, [D, patch * patch * 3]
            width, patch = weight[0], round((weight[1] / 3) ** 0.5)
        else:
            width, _, patch, _ = weight
        side = round(shapes["embeddings.position_embedding.weight"][0] ** 0.5)
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{where} is not a SigLIP encoder: it is not supported.") from error
    blocks = {name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}
    facts = EncoderFacts(where, width, patch, len(blocks), 0, side, has_free_grid=is_naflex)
    inner = config.get("vision_config")
    if is_naflex:
        facts = _naflex_facts(folder.path / "config.json", inner, facts)
    elif inner is not None:
        path = folder.path / "config.json"
        facts = _vision_facts(path, inner, config, facts, plain_shapes("siglip", shapes))
    return EncoderSource("siglip", "", None, {}, prefix, False, encoder_files, shapes, facts)


def _naflex_facts(path: Path, inner: Any, facts: EncoderFacts) -> EncoderFacts:
    """Add what Eagle's vision_config tells, if there is one."""
    if not isinstance(inner, dict):
        return facts
    for key in ("use_rope", "use_windows_attn"):
        if inner.get(key) not in (None, False):
            raise CheckpointError(
                f"vision_config.{key} in {path} is {inner[key]!r}: only false is supported."
            )
    read_config({**inner, "image_size": 224}, SiglipVisionConfig, path)
    return replace(
        facts,
        num_attention_heads=inner.get("num_attention_heads"),
        hidden_act=inner.get("hidden_act"),
        layer_norm_eps=inner.get("layer_norm_eps"),
    )


def _vision_facts(
    path: Path,
    inner: Any,
    config: Mapping[str, Any],
    facts: EncoderFacts,
    shapes: timm.Shapes,
) -> EncoderFacts:
    """Add what a policy's vision_config tells. Raises CheckpointError if the tensors disagree."""
    if not isinstance(inner, dict):
        raise CheckpointError(
            f"vision_config in {path} is {inner!r} and must be an object: get a fresh copy of the"
            " model folder."
        )
    kind = inner.get("model_type", "siglip_vision_model")
    if kind not in ("siglip_vision_model", *_SMOL_TYPES):
        raise CheckpointError(
            f"vision_config.model_type in {path} is {kind!r} and the tensors are a SigLIP's: it"
            f" must be 'siglip_vision_model' or one of {', '.join(_SMOL_TYPES)}."
        )
    read_config(inner, SiglipVisionConfig, path)
    # SmolVLM's class has other defaults for what the tensors tell, and the same for the rest.
    fields = Fields(path, "vision_config.", inner, SiglipVisionConfig())
    # Of a policy the tensors alone make the model: what they tell need not be written.
    known = {key: value for key, value in inner.items() if key != "vision_use_head"}
    replace(fields, content=known).check_stated(shapes)
    fields.check_unknown(config, heads_needed=False)
    return replace(
        facts,
        num_attention_heads=inner.get("num_attention_heads"),
        hidden_act=fields.value("hidden_act"),
        layer_norm_eps=fields.value("layer_norm_eps"),
    )


def _files_with_prefix(files: Mapping[str, list[str]], prefix: str) -> dict[str, list[str]]:
    """Select the files with a tensor of that prefix; all of them without an index."""
    return {
        file: names
        for file, names in files.items()
        if not names or any(name.startswith(prefix) for name in names)
    }


def _shapes(
    folder: Folder, files: Mapping[str, list[str]], prefix: str
) -> dict[str, tuple[int, ...]]:
    return {
        name.removeprefix(prefix): entry.shape
        for file in files
        for name, entry in folder.read_header(file).items()
        if name.startswith(prefix)
    }


def _input_facts(config: Mapping[str, Any]) -> InputFacts | None:
    sizes, strategy = config.get("image_sizes"), config.get("image_resize_strategy")
    if not isinstance(strategy, str):
        return None
    size = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], int) else None
    return InputFacts("config.json", size, strategy)


def _without_remote_code(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_remote_code(value) if isinstance(value, dict) else value
        for key, value in fields.items()
        if key not in _REMOTE_CODE_KEYS
    }
