"""Write a checkpoint for a contract at full size, with random weights in the real file formats.

Norms, biases and LayerScale are random too: timm starts LayerScale at 1e-5 and norms at one, which
makes a block do next to nothing and hides every error in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from siglip_perception.checkpoints.offline import quiet
from siglip_perception.contracts import Contract, EncoderSpec
from siglip_perception.errors import PerceptionError
from siglip_perception.parity.reference import INNER, NAFLEX_PREFIX, naflex_network, reference_of
from siglip_perception.parity.timm_models import create_model

# The image size at which DINOv2 was trained and published.
_OWN_SIZE = 518


def write_random(contract: Contract, folder: Path, seed: int) -> None:
    """Write each encoder of the contract into a folder, in its reference's file format."""
    for number, spec in enumerate(contract.encoders):
        torch.manual_seed(seed + number)
        if contract.has_free_grid:
            _write_naflex(spec, folder)
        elif reference_of(contract) == "timm":
            _write_timm(spec, folder / spec.name)
        else:
            _write_transformers(spec, folder / spec.name)


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    """Randomize all parameters, also those initialized to constants; activations stay near one."""
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        if parameter.ndim > 1 and "token" not in name and "pos" not in name:
            # Products of order one: inputs of GELU then span the range where its two forms differ.
            fan_in = parameter[0].numel()
            parameter.normal_(0.0, fan_in**-0.5)
        elif last in ("gamma", "lambda1"):
            parameter.uniform_(0.2, 0.6)
        elif last == "weight" and parameter.ndim == 1:
            parameter.normal_(1.0, 0.2)
        else:
            parameter.normal_(0.0, 0.2)
    return model


def _write_timm(spec: EncoderSpec, folder: Path) -> None:
    # DINOv2 at its published size, so that its position embedding has to be resampled.
    size = _OWN_SIZE if spec.name == "dinov2" else spec.image_size
    network = randomize(create_model(spec, size))
    folder.mkdir(parents=True)
    save_file(dict(network.state_dict()), folder / "model.safetensors")


def _write_naflex(spec: EncoderSpec, folder: Path) -> None:
    """Write a SigLIP 2 NaFlex as GR00T N1.6's checkpoint holds it."""
    network = randomize(naflex_network(spec))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{NAFLEX_PREFIX}{name}": value for name, value in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "Gr00tN1d6"}\n')


def _write_transformers(spec: EncoderSpec, folder: Path) -> None:
    if not (spec.layers and spec.heads and spec.hidden_act):
        raise PerceptionError(
            "The contract does not give the layers, heads and activation of its encoders, which"
            " random weights need: choose a --model."
        )
    common = {
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "hidden_act": spec.hidden_act,
        "layer_norm_eps": spec.layer_norm_eps,
        "patch_size": spec.patch,
    }
    inner = INNER.get(spec.dim, 4 * spec.dim)
    model: Any
    if spec.name == "siglip":
        model = SiglipVisionModel(
            SiglipVisionConfig(**common, intermediate_size=inner, image_size=spec.image_size)
        )
    elif spec.name == "dinov3":
        model = DINOv3ViTModel(
            DINOv3ViTConfig(
                **common,
                intermediate_size=inner,
                image_size=spec.image_size,
                num_register_tokens=spec.registers,
            )
        )
    elif spec.registers:
        model = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                **common, image_size=_OWN_SIZE, num_register_tokens=spec.registers
            )
        )
    else:
        model = Dinov2Model(Dinov2Config(**common, image_size=_OWN_SIZE))
    randomize(model)
    with quiet():
        model.save_pretrained(folder)
