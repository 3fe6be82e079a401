"""Weights that load but that nothing can be found with are named before the first frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import write_random_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from siglip_perception.config import ModelSelection
from siglip_perception.errors import CheckpointError
from siglip_perception.pipeline import Pipeline


def _empty_text_tower(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        if name.startswith("text_model.head"):
            tensors[name].zero_()


def _no_bias(tensors: dict[str, Tensor]) -> None:
    del tensors["logit_bias"]


def _no_temperature(tensors: dict[str, Tensor]) -> None:
    tensors["logit_scale"].fill_(torch.nan)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_empty_text_tower, "text tower .* gives all phrases of the null bank"),
        (_no_bias, "logit_bias"),
        (_no_temperature, "logit_scale of SigLIP .* is not a finite number"),
    ],
)
def test_weights_that_nothing_can_be_found_with_are_named(
    damage: Callable[[dict[str, Tensor]], None],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    write_random_model(model)
    (model / "manifest.json").unlink()
    path = model / "siglip" / "model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=words) as error:
        Pipeline.load(ModelSelection(str(model), device="cpu", precision="fp32"))
    assert "\n" not in str(error.value)
