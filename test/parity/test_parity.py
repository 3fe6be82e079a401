"""Tokens against timm's and transformers' models: small networks, the real code.

`siglip-perception parity` does the same at real size.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from siglip_perception import contracts
from siglip_perception.backends.base import bf16
from siglip_perception.backends.base.bf16 import Bf16Speed
from siglip_perception.checkpoints import Checkpoint
from siglip_perception.commands import main
from siglip_perception.commands.parity import _precisions
from siglip_perception.config import ModelSelection
from siglip_perception.contracts import Contract
from siglip_perception.contracts.steps import strategy
from siglip_perception.errors import ContractError, PerceptionError
from siglip_perception.parity.compare import LIMITS, compare, differences, sample_images
from siglip_perception.parity.random_weights import write_random
from siglip_perception.parity.reference import reference_tokens
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame

pytestmark = pytest.mark.numeric

REAL = [name for name in contracts.names() if name != "tabletop"]
IMAGES = sample_images(3)


def small(name: str, folder: Path, **changes: Any) -> Path:
    """Shrink a packaged contract to narrow blocks, as few as its taps need, as a user's file."""
    content = yaml.safe_load(contracts.path(name).read_text())
    for encoder in content["encoders"]:
        deepest = max(-tap for tap in (encoder["tap"], *encoder.get("more_taps", ())))
        encoder.update(dim=64, layers=max(3, deepest), heads=4, **changes)
    content.pop("grid", None)
    del content["dim"]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module", params=REAL)
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    file = small(request.param, folder)
    write_random(contracts.get(str(file)), folder / "model", 0)
    return file, folder / "model"


def test_fp32_tokens_are_the_references(model_folder: tuple[Path, Path]) -> None:
    row = compare(str(model_folder[0]), model_folder[1], IMAGES, "fp32", "random")
    assert row.equal, row
    assert row.max_error < 2e-5
    assert row.images == 2


def test_dinov2_without_registers_is_transformers_too(tmp_path: Path) -> None:
    """Test positions without registers, which transformers interpolates without antialiasing."""
    content = yaml.safe_load(small("siglip2-dinov2-224", tmp_path).read_text())
    content["encoders"][0]["registers"] = 0
    file = tmp_path / "plain.yaml"
    file.write_text(yaml.safe_dump(content))
    write_random(contracts.get(str(file)), tmp_path / "model", 0)
    config = json.loads((tmp_path / "model/dinov2/config.json").read_text())
    assert config["model_type"] == "dinov2"
    row = compare(str(file), tmp_path / "model", IMAGES, "fp32", "random")
    assert row.equal, row


def test_bf16_tokens_point_where_the_references_do(model_folder: tuple[Path, Path]) -> None:
    row = compare(str(model_folder[0]), model_folder[1], IMAGES[:1], "bf16", "random")
    assert row.equal, row
    assert row.min_cosine < 1 - 1e-7  # it is bf16


@pytest.fixture(scope="module")
def openvla(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contract, Path]:
    folder = tmp_path_factory.mktemp("openvla")
    contract = contracts.get(str(small("openvla-224-letterbox", folder)))
    write_random(contract, folder / "model", 0)
    return contract, folder / "model"


def encoders(**changes: Any) -> Callable[[Contract], Contract]:
    return lambda contract: replace(
        contract, encoders=tuple(replace(spec, **changes) for spec in contract.encoders)
    )


@pytest.mark.parametrize(
    "slip",
    [
        encoders(tap=-1),
        encoders(norm=True),
        encoders(fill=(127, 127, 127)),
        encoders(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        lambda contract: replace(contract, pixels=strategy("squash", "bicubic")),
        lambda contract: replace(contract, pixels=strategy("resize-pad", "bicubic")),
        lambda contract: replace(contract, pixels=strategy("squash", "bilinear")),
        lambda contract: replace(contract, encoders=contract.encoders[::-1]),
    ],
    ids=["tap", "norm", "fill", "mean", "squash", "resize-pad", "bilinear", "order"],
)
def test_every_slip_is_found(openvla: tuple[Contract, Path], slip: Any) -> None:
    """Slips that a policy would not notice are all far beyond the limit."""
    contract, model = openvla
    right = reference_tokens(contract, model, IMAGES[:1])
    wrong = reference_tokens(slip(contract), model, IMAGES[:1])
    error, cosine = differences(wrong, right)
    assert error > 10 * LIMITS["fp32"][0]
    assert cosine < LIMITS["fp32"][1]


def test_the_other_gelu_is_found(openvla: tuple[Contract, Path], tmp_path: Path) -> None:
    """transformers' default tanh GELU, on weights trained with the exact one."""
    contract, model = openvla
    file = small("openvla-224-letterbox", tmp_path, hidden_act="gelu_pytorch_tanh")
    grid = Pipeline.load(ModelSelection(str(model), contract=str(file))).process(
        Frame(IMAGES[0]), None
    )
    assert grid.tokens is not None
    right = reference_tokens(contract, model, IMAGES[:1])
    error, _ = differences(torch.from_numpy(grid.tokens.data)[None], right)
    assert error > LIMITS["fp32"][0]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a folder like openvla-7b (real names, shards, a language model) and its contract."""
    folder = tmp_path_factory.mktemp("policy")
    file = small("openvla-224", folder)
    write_random(contracts.get(str(file)), folder / "timm", 0)
    vision = {}
    for name, prefix in (("dinov2", "featurizer"), ("siglip", "fused_featurizer")):
        tensors = load_file(folder / "timm" / name / "model.safetensors")
        if name == "dinov2":  # a policy is saved at its own resolution
            grid = torch.nn.functional.interpolate(
                tensors["pos_embed"].reshape(1, 37, 37, 64).permute(0, 3, 1, 2),
                size=(16, 16),
                mode="bicubic",
                antialias=True,
            )
            tensors["pos_embed"] = grid.permute(0, 2, 3, 1).reshape(1, 256, 64)
        for key, tensor in tensors.items():
            key = key.replace(".gamma", ".scale_factor")
            vision[f"vision_backbone.{prefix}.{key}"] = tensor.bfloat16()
    names = sorted(vision)
    language = {
        "language_model.model.embed_tokens.weight": torch.zeros(1000, 64, dtype=torch.bfloat16),
        "projector.fc1.weight": torch.zeros(8, 128, dtype=torch.bfloat16),
    }
    shards = [
        {**{n: vision[n] for n in names[::2]}, **language},
        {n: vision[n] for n in names[1::2]},
        {"language_model.lm_head.weight": torch.zeros(1000, 64, dtype=torch.bfloat16)},
    ]
    model = folder / "model"
    model.mkdir()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        shard_name = f"model-{number:05d}-of-00003.safetensors"
        save_file(shard, model / shard_name)
        weight_map |= dict.fromkeys(shard, shard_name)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "openvla",
        "image_sizes": [224, 224],
        "image_resize_strategy": "resize-naive",
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "..._siglip_224"],
        "timm_override_act_layers": [None, None],
    }
    (model / "config.json").write_text(json.dumps(config))
    return file, model


def test_a_policys_own_encoders_give_its_tokens(policy: tuple[Path, Path]) -> None:
    row = compare(str(policy[0]), policy[1], IMAGES, "fp32", "a policy's")
    assert row.equal, row
    assert row.max_error < 2e-5


def test_shards_without_vision_are_never_opened(
    policy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded_names: set[str] = set()
    real = os.open

    def counted(path: Any, *arguments: Any, **options: Any) -> int:
        loaded_names.add(Path(os.fsdecode(path)).name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", counted)
    Checkpoint(policy[1]).load(contracts.get(str(policy[0])))
    shards = {name for name in loaded_names if name.startswith("model-")}
    assert shards == {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"}


def test_a_policys_encoders_are_not_scored_with(policy: tuple[Path, Path]) -> None:
    from siglip_perception.errors import BackendError
    from siglip_perception.language.instruction import from_phrases

    pipeline = Pipeline.load(ModelSelection(str(policy[1]), contract=str(policy[0])))
    assert not pipeline.can_ground
    with pytest.raises(BackendError, match=r"aligned with.*grounding\.model"):
        pipeline.query(from_phrases(["red cup"]))


def test_a_contract_that_a_policys_config_contradicts_is_refused(
    policy: tuple[Path, Path], tmp_path: Path
) -> None:
    file = small("openvla-224-letterbox", tmp_path)
    with pytest.raises(
        ContractError,
        match=r"strategy in config\.json is 'resize-naive' and must be 'letterbox'",
    ):
        Pipeline.load(ModelSelection(str(policy[1]), contract=str(file)))


def test_a_policy_with_transformers_names_is_read_too(tmp_path: Path) -> None:
    """Reads pi0's checkpoint: one file, no vision configuration, SigLIP deep inside."""
    file = small("pi0-224", tmp_path)
    write_random(contracts.get(str(file)), tmp_path / "stock", 0)
    prefix = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
    stock = load_file(tmp_path / "stock/siglip/model.safetensors")
    tensors = {
        prefix + name.removeprefix("vision_model."): tensor
        for name, tensor in stock.items()
        if "head." not in name  # pi0 has no pooling head
    }
    policy = tmp_path / "policy"
    policy.mkdir()
    save_file(
        {**tensors, "action_in_proj.weight": torch.zeros(3, 3)}, policy / "model.safetensors"
    )
    (policy / "config.json").write_text(json.dumps({"type": "pi0"}))
    grids = [
        Pipeline.load(ModelSelection(str(model), contract=str(file)))
        .process(Frame(IMAGES[0]), None)
        .tokens
        for model in (tmp_path / "stock", policy)
    ]
    assert grids[0] is not None
    assert grids[1] is not None
    assert (grids[0].data == grids[1].data).all()
    assert len(stock) > len(tensors)


def test_the_activation_of_a_policys_timm_models_counts(
    policy: tuple[Path, Path], tmp_path: Path
) -> None:
    file = small("openvla-224", tmp_path, hidden_act="gelu_pytorch_tanh")
    with pytest.raises(ContractError, match=r"hidden_act in model-.* is 'gelu' and must be"):
        Pipeline.load(ModelSelection(str(policy[1]), contract=str(file)))


def test_the_command_says_equal_and_different(
    openvla: tuple[Contract, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    contract, model = openvla
    file = model.parent / "openvla-224-letterbox.yaml"
    command = ["parity", "--precision", "fp32", "--contract", str(file), "--model", str(model)]
    assert main.main([*command, "--json", str(model / "out.json")]) == 0
    output = capsys.readouterr().out
    assert "fp32" in output
    assert output.rstrip().endswith("equal")
    (row,) = json.loads((model / "out.json").read_text())
    assert row["equal"]
    assert row["reference"] == "timm"
    assert contract.name == row["contract"]


@pytest.mark.parametrize(("speedup", "precisions"), [(2.0, ["fp32", "bf16"]), (0.2, ["fp32"])])
def test_bf16_is_compared_where_it_is_fast(
    speedup: float,
    precisions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bf16, "speed", lambda: Bf16Speed(speedup))
    assert _precisions() == precisions
    assert ("bf16 is left out" in capsys.readouterr().out) == (len(precisions) == 1)


def test_without_timm_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from siglip_perception.parity import timm_models

    for name in [n for n in sys.modules if n == "timm" or n.startswith("timm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PerceptionError, match="pip install --no-deps 'timm"):
        timm_models.import_timm()
