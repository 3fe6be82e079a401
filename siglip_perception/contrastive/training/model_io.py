"""Load the model that a run starts from, and write the trained one."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Dinov2WithRegistersModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipModel,
)

from siglip_perception import checkpoints
from siglip_perception.checkpoints.match import follow_processor, training_contract
from siglip_perception.checkpoints.networks import to_transformers
from siglip_perception.checkpoints.offline import quiet
from siglip_perception.contracts import EncoderName, Interpolation, Triple
from siglip_perception.errors import CheckpointError
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.images.squares import SquareSpec

_HALF: Triple = (0.5, 0.5, 0.5)
_IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORMALIZATION: dict[EncoderName, tuple[Triple, Triple]] = {
    "siglip": (_HALF, _HALF),
    "dinov2": _IMAGENET,
    "dinov3": _IMAGENET,
}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CONFIG = "config.json"
_LOGGER = logging.getLogger(__name__)
_COPY_SUFFIXES = (".json", ".txt", ".model")


@dataclass(frozen=True)
class InitialModel:
    """A loaded model folder with both encoders, or a SigLIP's own Hugging Face folder.

    inputs: preprocessing of each encoder. digest: of all weights.
    contract: named by the folder's manifest, "" if none.
    """

    folder: Path
    siglip: SiglipModel | None
    tokenizer: PreTrainedTokenizerBase | None
    dinov2: Dinov2WithRegistersModel | None
    inputs: Mapping[EncoderName, EncoderInput]
    digest: str
    contract: str

    def part(self, name: EncoderName) -> Path:
        """Path of an encoder's files, relative to this folder or one exported from it."""
        return Path(name) if (self.folder / name).is_dir() else Path()


def load_initial_model(model: str, contract: str = "") -> InitialModel:
    """Load an embedded model, a model folder, or one encoder's Hugging Face folder.

    contract: defines the preprocessing; "" takes the folder's own contract. Without one, images
    are squashed to the encoder's square, as for SigLIP and in most contracts, with the filter,
    mean and std of the folder's image processor.
    Raises CheckpointError, or ContractError if the folder or its image processor contradicts the
    contract.
    """
    folder = checkpoints.resolve(model)
    checkpoint = checkpoints.Checkpoint(folder)
    name = contract or checkpoint.contract
    token_contract = None
    if name:
        token_contract = follow_processor(training_contract(name, checkpoint), checkpoint)
    weights = checkpoint.load(token_contract)
    siglip = None if weights.siglip is None else to_transformers(weights.siglip)
    vision: dict[EncoderName, PreTrainedModel] = {
        name: to_transformers(network)
        for name, network in weights.vision.items()
        if siglip is None or name != "siglip"
    }
    if siglip is not None:
        vision["siglip"] = siglip.vision_model
    inputs: dict[EncoderName, EncoderInput] = {}
    for name, encoder in vision.items():
        if token_contract is not None:
            inputs[name] = EncoderInput.of(token_contract, token_contract.encoder(name))
        else:
            inputs[name] = _default_input(name, encoder, checkpoint)
    dinov2 = vision.get("dinov2")
    for module in (siglip, *vision.values()):
        if module is not None:
            module.requires_grad_(True)
    return InitialModel(
        folder,
        siglip,
        weights.tokenizer,
        dinov2 if isinstance(dinov2, Dinov2WithRegistersModel) else None,
        inputs,
        " ".join(weights.digests.values()) + _text_digest(siglip),
        checkpoint.contract,
    )


def _default_input(
    name: EncoderName, encoder: PreTrainedModel, checkpoint: checkpoints.Checkpoint
) -> EncoderInput:
    """Preprocessing without a contract: a squash with the folder's image processor settings."""
    size = int(encoder.config.image_size)
    pixels = checkpoint.facts[name].pixels
    mean, std = _NORMALIZATION[name]
    interpolation: Interpolation = "bicubic"
    if pixels is not None:
        mean, std = pixels.mean or mean, pixels.std or std
        if pixels.interpolation == "bilinear":
            interpolation = "bilinear"
        elif pixels.interpolation not in (None, "bicubic"):
            raise CheckpointError(
                f"resample in {checkpoint.path / pixels.where} is {pixels.interpolation}, but"
                " only bicubic and bilinear are supported: choose a contract with --contract."
            )
        if pixels.resize not in (None, "squash") or pixels.size not in (None, size):
            _LOGGER.warning(
                "Images are squashed to %d x %d, not cut as %s says (%s): name a contract with"
                " --contract to choose.",
                size,
                size,
                checkpoint.path / pixels.where,
                ", ".join(f"{key} {value!r}" for key, value in pixels.settings.items()),
            )
    return EncoderInput(SquareSpec.squash(interpolation, size), mean, std)


def _text_digest(siglip: SiglipModel | None) -> str:
    """Digest the text tower, which the encoders' digests do not cover."""
    if siglip is None:
        return ""
    total = hashlib.sha256()
    for value in siglip.text_model.state_dict().values():
        total.update(value.numpy().tobytes())
    return f" {total.hexdigest()}"


def _fields(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / _CONFIG).read_bytes())
    return content if isinstance(content, dict) else {}


def reinitialize(model: PreTrainedModel, loss: str = "sigmoid") -> PreTrainedModel:
    """Create a model of the same architecture with new random weights.

    SigLIP's temperature and bias start as in the papers: t' = log 10, b = -10 (Zhai et al. 2023);
    for CLIP's loss, t' = log(1 / 0.07) (Radford et al. 2021).
    """
    kind: Any = type(model)
    with quiet():
        model_copy: PreTrainedModel = kind(copy.deepcopy(model.config))
    if isinstance(model_copy, SiglipModel):
        with torch.no_grad():
            model_copy.logit_scale.fill_(math.log(10.0 if loss == "sigmoid" else 1 / 0.07))
            model_copy.logit_bias.fill_(-10.0)
    return model_copy


def save_model(model: PreTrainedModel, origin: Path, folder: Path) -> None:
    """Write config.json and model.safetensors in the dtype of the original folder.

    Copies the original's other files, such as the tokenizer's.
    """
    fields = _fields(origin)
    dtype = _DTYPES.get(str(fields.get("dtype", fields.get("torch_dtype"))), torch.float32)
    output_model: Any = copy.deepcopy(model).to(dtype)
    output_model.config.dtype = dtype
    with quiet():
        output_model.save_pretrained(folder)
    for path in origin.iterdir():
        is_companion = path.name != _CONFIG and not path.name.endswith(".index.json")
        if path.is_file() and path.suffix in _COPY_SUFFIXES and is_companion:
            shutil.copyfile(path, folder / path.name)
    # transformers writes weights through a private temporary file: make them readable for all.
    for path in folder.iterdir():
        path.chmod(0o644)


@contextmanager
def replace_folder(output: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `output` only once it is complete."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    if output.exists():
        shutil.rmtree(output)
    fresh.replace(output)


def export(
    start: InitialModel, output: Path, models: Mapping[EncoderName, PreTrainedModel]
) -> None:
    """Write a model folder of the same layout: trained models, and everything else unchanged."""
    with replace_folder(output) as fresh:
        for name in start.inputs:
            part = start.part(name)
            if name in models:
                save_model(models[name], start.folder / part, fresh / part)
            else:
                shutil.copytree(start.folder / part, fresh / part, dirs_exist_ok=True)
        grounding = start.folder / checkpoints.GROUNDING
        if grounding.is_file():
            shutil.copyfile(grounding, fresh / checkpoints.GROUNDING)
        manifest_fields = {"contract": start.contract} if start.contract else {}
        checkpoints.write_manifest(fresh, **manifest_fields)
