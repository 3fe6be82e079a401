"""Weights that load but that nothing can be found with are named before the first frame."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import write_random_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from siglip_perception.config import ModelSelection
from siglip_perception.errors import PerceptionError
from siglip_perception.pipeline import Pipeline


def _empty_text_tower(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        if name.startswith("text_model.head"):
            tensors[name].zero_()


def _no_bias(tensors: dict[str, Tensor]) -> None:
    del tensors["logit_bias"]


def _no_temperature(tensors: dict[str, Tensor]) -> None:
    tensors["logit_scale"].fill_(torch.nan)


def edit_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _no_pooling_head(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        if name.startswith("vision_model.head"):
            tensors[name].zero_()


def _nothing(tensors: dict[str, Tensor]) -> None:
    for values in tensors.values():
        values.zero_()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: most of these models have the same text tower, so the same bank."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def model(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    folder = tmp_path / "model"
    write_random_model(folder)
    (folder / "manifest.json").unlink()
    return folder


def refusal(model: Path) -> str:
    """The one sentence with which the model is refused."""
    with pytest.raises(PerceptionError) as error:
        Pipeline.load(ModelSelection(str(model), device="cpu", precision="fp32"))
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("part", "damage", "words"),
    [
        ("siglip", _empty_text_tower, "text tower .* gives all phrases of the null bank"),
        ("siglip", _no_bias, "lacks 1 tensor.*'logit_bias'"),
        ("siglip", _no_temperature, "logit_scale of SigLIP .* is not a finite number"),
        ("siglip", _no_pooling_head, "looks the same to SigLIP's pooling head"),
        ("dinov2", _nothing, "looks the same to the DINO encoder"),
    ],
)
def test_weights_that_nothing_can_be_found_with_are_named(
    part: str, damage: Callable[[dict[str, Tensor]], None], words: str, model: Path
) -> None:
    path = model / part / "model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, {"format": "pt"})
    assert re.search(words, refusal(model))


def test_a_clip_in_siglips_place_is_named(model: Path) -> None:
    edit_json(model / "siglip" / "config.json", model_type="clip")
    assert "it is CLIP: its scores are a softmax over all phrases" in refusal(model)


def test_a_dinov2_of_another_patch_size_is_named(model: Path) -> None:
    path = model / "dinov2" / "model.safetensors"
    tensors = load_file(path)
    name = "embeddings.patch_embeddings.projection.weight"
    tensors[name] = torch.zeros(*tensors[name].shape[:2], 14, 14, dtype=tensors[name].dtype)
    save_file(tensors, path, {"format": "pt"})
    edit_json(model / "dinov2" / "config.json", patch_size=14)
    sentence = refusal(model)
    assert "nearest to tabletop, but patch_size in dinov2/config.json is 14 and must be 12" in (
        sentence
    )
