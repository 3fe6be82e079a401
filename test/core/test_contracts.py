"""The token contracts: what they state, and which checkpoint keeps them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import Dinov2WithRegistersConfig, SiglipConfig

from siglip_perception import contracts
from siglip_perception.errors import ContractError


def openvla_configs(**vision: object) -> tuple[SiglipConfig, Dinov2WithRegistersConfig]:
    """Configurations that keep openvla-224, but for what is named."""
    siglip = SiglipConfig(
        vision_config={
            "hidden_size": 1152,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "gelu",
            **vision,
        }
    )
    dinov2 = Dinov2WithRegistersConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=518,
        patch_size=14,
        num_register_tokens=4,
    )
    return siglip, dinov2


def test_openvla_is_as_published() -> None:
    contract = contracts.get("openvla-224")
    assert [encoder.name for encoder in contract.encoders] == ["dinov2", "siglip"]
    assert contract.dim == 1024 + 1152 == 2176
    assert contract.rows * contract.cols == 256
    assert all(encoder.tap == -2 and not encoder.norm for encoder in contract.encoders)
    assert contract.encoder("dinov2").mean == (0.485, 0.456, 0.406)
    assert contract.encoder("siglip").std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", contracts.names())
def test_every_contract_is_consistent(name: str) -> None:
    contract = contracts.get(name)
    assert contract.name == name
    for encoder in contract.encoders:
        assert contract.image_size // encoder.patch == contract.rows == contract.cols
    assert contract.description
    assert contract.source


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ContractError, match=r"openvla-7b.*tabletop, openvla-224"):
        contracts.get("openvla-7b")


def test_a_checkpoint_that_keeps_the_contract_passes() -> None:
    contracts.check(contracts.get("openvla-224"), *openvla_configs())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu_pytorch_tanh"),  # what transformers ships for so400m
        ("hidden_size", 768),
        ("image_size", 384),
        ("patch_size", 16),
        ("num_hidden_layers", 12),
        ("layer_norm_eps", 1e-5),
    ],
)
def test_the_siglip_field_that_differs_is_named(field: str, value: object) -> None:
    siglip, dinov2 = openvla_configs(**{field: value})
    with pytest.raises(ContractError, match=rf"vision_config\.{field} in siglip/config\.json"):
        contracts.check(contracts.get("openvla-224"), siglip, dinov2)


def test_a_stock_siglip_is_told_what_to_write() -> None:
    configs = openvla_configs(hidden_act="gelu_pytorch_tanh")
    with pytest.raises(ContractError, match=r"exact GELU, so .* write 'gelu' there, or choose"):
        contracts.check(contracts.get("openvla-224"), *configs)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_register_tokens", 0), ("patch_size", 16), ("hidden_size", 768)],
)
def test_the_dinov2_field_that_differs_is_named(field: str, value: int) -> None:
    siglip, dinov2 = openvla_configs()
    setattr(dinov2, field, value)
    with pytest.raises(ContractError, match=f"{field} in dinov2/config.json is {value}"):
        contracts.check(contracts.get("openvla-224"), siglip, dinov2)


def test_preprocessing_holds_what_changes_tokens_and_no_prose() -> None:
    contract = contracts.get("tabletop")
    assert replace(contract, description="other").preprocessing() == contract.preprocessing()
    assert replace(contract, image_size=384).preprocessing() != contract.preprocessing()
    swapped = replace(contract, encoders=contract.encoders[::-1])
    assert swapped.preprocessing() != contract.preprocessing()
