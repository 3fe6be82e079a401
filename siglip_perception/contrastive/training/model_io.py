"""What a run starts from and what it leaves behind: model folders, in and out."""

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

from siglip_perception import checkpoints, contracts
from siglip_perception.contracts import EncoderName, Interpolation, Triple
from siglip_perception.errors import CheckpointError
from siglip_perception.images.preprocess import EncoderInput, ResizeSpec

_HALF: Triple = (0.5, 0.5, 0.5)
_IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORMALISATION: dict[EncoderName, tuple[Triple, Triple]] = {
    "siglip": (_HALF, _HALF),
    "dinov2": _IMAGENET,
    "dinov3": _IMAGENET,
}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CONFIG = "config.json"
_LOGGER = logging.getLogger(__name__)
_COPIED = (".json", ".txt", ".model")


@dataclass(frozen=True)
class Start:
    """A model folder, loaded: both encoders, or the Hugging Face folder of a SigLIP alone.

    siglip_folder, dinov2_folder: where their files are. inputs: what each encoder is fed.
    digest: of the weights. contract: that of the folder's manifest, "" where it names none.
    """

    folder: Path
    siglip: SiglipModel | None
    tokenizer: PreTrainedTokenizerBase | None
    dinov2: Dinov2WithRegistersModel | None
    inputs: Mapping[EncoderName, EncoderInput]
    digest: str
    contract: str

    def part(self, name: EncoderName) -> Path:
        """Where an encoder's files are, in this folder or in one that is written from it."""
        return Path(name) if (self.folder / name).is_dir() else Path()


def open_start(model: str, contract: str = "") -> Start:
    """An embedded model's name, a model folder, or one encoder's Hugging Face folder.

    contract: names how images are prepared; "" takes the folder's own, and where it names none
    they are squashed to the encoder's square, as SigLIP and most contracts have it, with the
    filter, mean and std of the folder's own image processor.
    Raises CheckpointError or ContractError in one sentence.
    """
    folder = checkpoints.resolve(model)
    checkpoint = checkpoints.Checkpoint(folder)
    name = contract or checkpoint.contract
    given = contracts.get(name) if name else None
    if given is not None:
        checkpoint.log_contradictions(given)
    loaded = checkpoint.load(given)
    if len(loaded.vision) > 1 and not all((folder / part).is_dir() for part in loaded.vision):
        raise CheckpointError(
            f"{folder} is a policy's own checkpoint, which is not trained here: give a model"
            " folder with a folder for each encoder."
        )
    inputs: dict[EncoderName, EncoderInput] = {}
    for name, encoder in loaded.vision.items():
        if given is not None:
            inputs[name] = EncoderInput.of(given, given.encoder(name))
        else:
            inputs[name] = _own_input(name, encoder, checkpoint)
    dinov2 = loaded.vision.get("dinov2")
    for module in (loaded.siglip, *loaded.vision.values()):
        if module is not None:
            module.requires_grad_(True)
    return Start(
        folder,
        loaded.siglip,
        loaded.tokenizer,
        dinov2 if isinstance(dinov2, Dinov2WithRegistersModel) else None,
        inputs,
        " ".join(loaded.digests.values()) + _text_digest(loaded.siglip),
        checkpoint.contract,
    )


def _own_input(
    name: EncoderName, encoder: PreTrainedModel, checkpoint: checkpoints.Checkpoint
) -> EncoderInput:
    """What an encoder is fed where no contract says it: its own image processor, on a squash."""
    size = int(encoder.config.image_size)
    pixels = checkpoint.facts[name].pixels
    mean, std = _NORMALISATION[name]
    interpolation: Interpolation = "bicubic"
    if pixels is not None:
        mean, std = pixels.mean or mean, pixels.std or std
        if pixels.interpolation == "bilinear":
            interpolation = "bilinear"
        elif pixels.interpolation not in (None, "bicubic"):
            raise CheckpointError(
                f"resample in {checkpoint.path / pixels.where} is {pixels.interpolation}, and"
                " images are scaled bicubic or bilinear here: name a contract with --contract to"
                " choose one."
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
    return EncoderInput(ResizeSpec("squash", interpolation, size, (0, 0, 0)), mean, std)


def _text_digest(siglip: SiglipModel | None) -> str:
    """The encoders' digests are of what images go through; training starts from the text, too."""
    if siglip is None:
        return ""
    total = hashlib.sha256()
    for value in siglip.text_model.state_dict().values():
        total.update(value.numpy().tobytes())
    return f" {total.hexdigest()}"


def _fields(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / _CONFIG).read_bytes())
    return content if isinstance(content, dict) else {}


def anew(model: PreTrainedModel, loss: str = "sigmoid") -> PreTrainedModel:
    """A model of the same shape with new weights, drawn by PyTorch's generator.

    SigLIP's temperature and bias start as in the papers: t' = log 10, b = -10 (Zhai et al. 2023);
    for CLIP's loss t' = log 1 / 0.07 (Radford et al. 2021).
    """
    kind: Any = type(model)
    with checkpoints.quiet():
        new: PreTrainedModel = kind(copy.deepcopy(model.config))
    if isinstance(new, SiglipModel):
        with torch.no_grad():
            new.logit_scale.fill_(math.log(10.0 if loss == "sigmoid" else 1 / 0.07))
            new.logit_bias.fill_(-10.0)
    return new


def save_model(model: PreTrainedModel, origin: Path, folder: Path) -> None:
    """Write config.json and model.safetensors, in the element type of the folder of origin.

    Everything else that stood there, such as the tokenizer's files, is copied.
    """
    fields = _fields(origin)
    dtype = _DTYPES.get(str(fields.get("dtype", fields.get("torch_dtype"))), torch.float32)
    written: Any = copy.deepcopy(model).to(dtype)
    written.config.dtype = dtype
    with checkpoints.quiet():
        written.save_pretrained(folder)
    for path in origin.iterdir():
        other = path.name != _CONFIG and not path.name.endswith(".index.json")
        if path.is_file() and path.suffix in _COPIED and other:
            shutil.copyfile(path, folder / path.name)
    # transformers writes weights through a private temporary file: others must read them too.
    for path in folder.iterdir():
        path.chmod(0o644)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A new folder that takes the place of `output` when it is whole, and not before."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    if output.exists():
        shutil.rmtree(output)
    fresh.replace(output)


def export(start: Start, output: Path, trained: Mapping[EncoderName, PreTrainedModel]) -> None:
    """Write a model folder of the same form: what was trained, and all the rest as it was."""
    with replacing(output) as fresh:
        for name in start.inputs:
            part = start.part(name)
            if name in trained:
                save_model(trained[name], start.folder / part, fresh / part)
            else:
                shutil.copytree(start.folder / part, fresh / part, dirs_exist_ok=True)
        grounding = start.folder / checkpoints.GROUNDING
        if grounding.is_file():
            shutil.copyfile(grounding, fresh / checkpoints.GROUNDING)
        more = {"contract": start.contract} if start.contract else {}
        checkpoints.write_manifest(fresh, **more)
