"""What a run starts from and what it leaves behind: model folders, in and out."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    Dinov2WithRegistersModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipModel,
)

from siglip_perception import checkpoints
from siglip_perception.contracts import HALF, IMAGENET_MEAN, IMAGENET_STD, EncoderSpec
from siglip_perception.contrastive.towers import TABLETOP
from siglip_perception.errors import CheckpointError, PerceptionError
from siglip_perception.preprocess import Preprocessor
from siglip_perception.tokenizer import load_tokenizer

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Start:
    """A model folder, loaded: siglip/ with or without dinov2/ beside it.

    siglip_folder, dinov2_folder: where their files are; None where there is none.
    """

    siglip: SiglipModel
    tokenizer: PreTrainedTokenizerFast
    dinov2: Dinov2WithRegistersModel | None
    siglip_folder: Path
    dinov2_folder: Path | None
    grounding: Path | None
    digest: str

    def preprocessor(self, part: Literal["siglip", "dinov2"]) -> Preprocessor:
        """The resize that the encoder's input needs."""
        model = self.siglip if part == "siglip" else self.dinov2
        assert model is not None
        config = model.config.vision_config if part == "siglip" else model.config
        return Preprocessor(replace(TABLETOP, image_size=int(config.image_size)))


SIGLIP_INPUT = EncoderSpec("siglip", HALF, HALF, dim=0, patch=0)
DINOV2_INPUT = EncoderSpec("dinov2", IMAGENET_MEAN, IMAGENET_STD, dim=0, patch=0)


def open_start(model: str) -> Start:
    """An embedded model's name, a model folder, or one SigLIP checkpoint's own folder.

    Raises CheckpointError for anything else, in one sentence.
    """
    folder = checkpoints.resolve(model)
    if (folder / "siglip").is_dir():
        loaded = checkpoints.load(folder)
        grounding = folder / checkpoints.GROUNDING
        return Start(
            loaded.siglip,
            loaded.tokenizer,
            loaded.dinov2,
            folder / "siglip",
            folder / "dinov2",
            grounding if grounding.is_file() else None,
            loaded.digest,
        )
    siglip, tokenizer = _bare_siglip(folder)
    return Start(siglip, tokenizer, None, folder, None, None, str(folder.resolve()))


def _bare_siglip(folder: Path) -> tuple[SiglipModel, PreTrainedTokenizerFast]:
    config = _json(folder / _CONFIG)
    if config.get("model_type") != "siglip":
        raise CheckpointError(
            f"{folder} is neither a model folder, with siglip/ and dinov2/ in it, nor a SigLIP"
            " checkpoint, whose config.json says siglip: give one of them to --model."
        )
    try:
        with checkpoints.quiet():
            loader: Any = SiglipModel
            siglip: SiglipModel = loader.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
            )
    except Exception as error:  # transformers raises errors of many kinds for broken files
        raise CheckpointError(
            f"The SigLIP checkpoint {folder} cannot be loaded ({str(error).splitlines()[0]}):"
            " get it again."
        ) from error
    tokenizer = load_tokenizer(
        folder,
        (folder / "tokenizer.json").read_bytes() if (folder / "tokenizer.json").is_file() else b"",
        _json(folder / "tokenizer_config.json"),
        siglip.config.text_config,
    )
    return siglip, tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is missing or no JSON: get the checkpoint again."
        ) from error
    return content if isinstance(content, dict) else {}


def anew(model: PreTrainedModel, seed: int, loss: str = "sigmoid") -> PreTrainedModel:
    """A model of the same shape with new weights.

    SigLIP's temperature and bias start as in the papers: t' = log 10, b = -10 (Zhai et al. 2023);
    for CLIP's loss t' = log 1 / 0.07 (Radford et al. 2021).
    """
    torch.manual_seed(seed)
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
    fields = _json(origin / _CONFIG)
    dtype = _DTYPES.get(str(fields.get("dtype", fields.get("torch_dtype"))), torch.float32)
    written: Any = copy.deepcopy(model).to(dtype)
    written.config.dtype = dtype
    with checkpoints.quiet():
        written.save_pretrained(folder)
    for path in origin.iterdir():
        weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
        if path.is_file() and path.name != _CONFIG and not weights:
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


def refuse_foreign(output: Path) -> None:
    """A model folder is replaced as a whole: one that holds anything else is left alone."""
    ours = {"siglip", "dinov2", checkpoints.GROUNDING, checkpoints.MANIFEST}
    if output.is_file() or (output.is_dir() and {path.name for path in output.iterdir()} - ours):
        raise PerceptionError(
            f"{output} holds something else than a model: name a new folder with --output."
        )


def export(start: Start, output: Path, siglip: SiglipModel | None, dinov2: Any | None) -> bool:
    """Write a model folder: what was trained, and the rest of it as it was; whether it is whole.

    Without a DINOv2 it has siglip/ alone, and no manifest.
    """
    with replacing(output) as fresh:
        if siglip is not None:
            save_model(siglip, start.siglip_folder, fresh / "siglip")
        else:
            shutil.copytree(start.siglip_folder, fresh / "siglip")
        if start.dinov2_folder is None:
            return False
        if dinov2 is not None:
            save_model(dinov2, start.dinov2_folder, fresh / "dinov2")
        else:
            shutil.copytree(start.dinov2_folder, fresh / "dinov2")
        if start.grounding is not None:
            shutil.copyfile(start.grounding, fresh / checkpoints.GROUNDING)
        checkpoints.write_manifest(fresh)
    return True
