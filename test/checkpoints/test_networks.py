"""The networks of our own, held against transformers' models of the same configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    SiglipConfig,
    SiglipVisionConfig,
)

from siglip_perception.checkpoints import configs, networks
from siglip_perception.checkpoints.networks import Siglip, to_transformers
from siglip_perception.encoders.transformer import rotary_positions

SIZE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
TEXT = {**SIZE, "intermediate_size": 96, "vocab_size": 40, "max_position_embeddings": 8}
IMAGE = {"image_size": 24, "patch_size": 8}
VISION = {**SIZE, **IMAGE, "intermediate_size": 80}
CONFIGS = {
    "SiglipModel": SiglipConfig(
        text_config={**TEXT, "projection_size": 32, "hidden_act": "gelu"}, vision_config=VISION
    ),
    "SiglipVisionModel": SiglipVisionConfig(**VISION),
    "SiglipVisionModel without a head": SiglipVisionConfig(**VISION, vision_use_head=False),
    "Dinov2Model": Dinov2Config(**SIZE, **IMAGE),
    "Dinov2Model without a mask token": Dinov2Config(**SIZE, **IMAGE, use_mask_token=False),
    "Dinov2Model with a gate": Dinov2Config(**SIZE, **IMAGE, use_swiglu_ffn=True, qkv_bias=False),
    "Dinov2WithRegistersModel": Dinov2WithRegistersConfig(**SIZE, **IMAGE),
    "DINOv3ViTModel": DINOv3ViTConfig(**VISION, num_register_tokens=4),
    "DINOv3ViTModel with a gate": DINOv3ViTConfig(**VISION, use_gated_mlp=True, mlp_bias=False),
}


@pytest.mark.parametrize(("name", "config"), CONFIGS.items(), ids=list(CONFIGS))
def test_tensors_have_transformers_names_and_shapes(name: str, config: PreTrainedConfig) -> None:
    reference = getattr(transformers, name.split()[0])(config)
    network = networks.create(config)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in reference.state_dict().items()}
    network.load_state_dict(reference.state_dict())
    copied = to_transformers(network)
    assert type(copied) is type(reference)
    assert all(
        torch.equal(tensor, copied.state_dict()[key])
        for key, tensor in reference.state_dict().items()
    )


@pytest.mark.numeric
def test_the_text_tower_computes_what_transformers_does() -> None:
    reference = transformers.SiglipModel(CONFIGS["SiglipModel"]).eval()
    network = networks.create(CONFIGS["SiglipModel"])
    network.load_state_dict(reference.state_dict())
    assert isinstance(network, Siglip)
    ids = torch.randint(0, 40, (3, 8), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference.get_text_features(input_ids=ids).pooler_output
        torch.testing.assert_close(network.text_model(ids), expected)


@pytest.mark.numeric
def test_rotary_positions_are_transformers() -> None:
    config = CONFIGS["DINOv3ViTModel"]
    reference = transformers.DINOv3ViTModel(config).eval()  # in training it jitters them
    expected = reference.rope_embeddings(torch.zeros(1, 3, 40, 40))
    for actual, values in zip(rotary_positions(config, 5), expected, strict=True):
        torch.testing.assert_close(actual, values)


def test_older_names_become_the_networks() -> None:
    names = {
        "encoder.layer.3.attention.attention.query.bias": "encoder.layer.3.attention.q_proj.bias",
        "encoder.layer.3.attention.output.dense.weight": "encoder.layer.3.attention.o_proj.weight",
        "encoder.layer.3.mlp.weights_out.weight": "encoder.layer.3.mlp.down_proj.weight",
        "layernorm.bias": "layernorm.bias",
    }
    config = CONFIGS["Dinov2Model"]
    tensors = {name: torch.tensor(number) for number, name in enumerate(names)}
    renamed = networks.current_names(config, tensors)
    assert list(renamed) == list(names.values())
    assert [int(tensor) for tensor in renamed.values()] == [0, 1, 2, 3]
    weights_in = {"encoder.layer.0.mlp.weights_in.bias": torch.tensor([1, 2, 3, 4])}
    gated = networks.current_names(config, weights_in)
    assert gated["encoder.layer.0.mlp.gate_proj.bias"].tolist() == [1, 2]
    assert gated["encoder.layer.0.mlp.up_proj.bias"].tolist() == [3, 4]
    for kind, old, new in (
        ("DINOv3ViTModel", "layer.0.norm1.bias", "model.layer.0.norm1.bias"),
        ("DINOv3ViTModel", "model.layer.0.norm1.bias", "model.layer.0.norm1.bias"),
        ("SiglipVisionModel", "vision_model.head.probe", "head.probe"),
    ):
        assert list(networks.current_names(CONFIGS[kind], {old: torch.zeros(1)})) == [new]


@pytest.mark.parametrize(
    "kind",
    [
        configs.SiglipTextConfig,
        configs.SiglipVisionConfig,
        configs.Dinov2Config,
        configs.Dinov2WithRegistersConfig,
        configs.DINOv3ViTConfig,
    ],
)
def test_configurations_have_transformers_fields_and_defaults(kind: type[Any]) -> None:
    base = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    # Those of backbones, which are other models; and a width, which is filled in.
    others = {"apply_layernorm", "reshape_hidden_states", "_out_features", "_out_indices"}
    others.add("projection_size")

    def defaults(config: Any) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(config)} - base - others
        return {name: getattr(config, name) for name in names}

    assert defaults(kind()) == defaults(getattr(transformers, kind.__name__)())


def test_every_field_of_a_configuration_reaches_transformers() -> None:
    fields = {
        "text_config": {**TEXT, "attention_dropout": 0.25, "pad_token_id": 3},
        "vision_config": {**VISION, "hidden_act": "gelu"},
        "id2label": {"0": "is dropped"},
    }
    config = configs.read_config(fields, configs.SiglipConfig, Path("config.json"))
    reference = to_transformers(networks.create(config)).config
    assert reference.text_config.attention_dropout == 0.25
    assert reference.text_config.pad_token_id == 3
    assert reference.text_config.projection_size == 48
    assert reference.vision_config.hidden_act == "gelu"
    assert reference.vision_config.image_size == 24
