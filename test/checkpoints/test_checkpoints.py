"""Model folders: the loaded bytes are the verified ones, and broken folders are refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import byte_tokenizer, random_dinov2, random_siglip, write_random_model
from safetensors.torch import load_file, save_file

from siglip_perception import checkpoints, contracts
from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.checkpoints.networks import to_transformers
from siglip_perception.contracts.steps import strategy
from siglip_perception.errors import CheckpointError

ENCODER_FILES = (
    "siglip/config.json",
    "siglip/model.safetensors",
    "dinov2/config.json",
    "dinov2/model.safetensors",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_random_model(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    siglip, dinov2 = random_siglip(len(tokenizer)), random_dinov2()
    siglip.save_pretrained(tmp_path / "siglip")
    dinov2.save_pretrained(tmp_path / "dinov2")
    tokenizer.save_pretrained(tmp_path / "siglip")
    checkpoints.write_manifest(tmp_path)
    models = checkpoints.load(tmp_path)
    assert models.siglip is not None
    for original, model in ((siglip, models.siglip), (dinov2, models.vision["dinov2"])):
        assert original.state_dict().keys() == model.state_dict().keys()
        for name, tensor in original.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
    assert models.verified
    assert models.grounding == {}


def test_float16_becomes_float32_ready_to_serve(original: Path) -> None:
    models = checkpoints.load(original)
    assert models.siglip is not None
    assert models.aligned
    for model in (models.siglip, models.vision["dinov2"]):
        assert not model.training
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert models.grounding == {"affinity_scale": 10.0, "affinity_bias": -5.0}


def test_the_names_of_older_checkpoints_are_known(folder: Path) -> None:
    def as_published(tensors: dict[str, torch.Tensor]) -> None:
        tensors["vision_model.embeddings.position_ids"] = torch.arange(324)[None]

    tensors = load_file(folder / "dinov2/model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in tensors  # as facebook's are
    edit_weights(folder / "siglip/model.safetensors", as_published)
    checkpoints.write_manifest(folder)
    models = checkpoints.load(folder)
    query = models.vision["dinov2"].state_dict()["encoder.layer.0.attention.q_proj.weight"]
    original = tensors["encoder.layer.0.attention.attention.query.weight"]
    assert torch.equal(query, original.float())


@pytest.mark.parametrize(
    "name", ["dinov2/model.safetensors", "siglip/config.json", "siglip/tokenizer.json"]
)
def test_a_changed_file_is_refused_with_both_hashes(folder: Path, name: str) -> None:
    listed_digest = json.loads((folder / "manifest.json").read_text())["files"][name]
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    with pytest.raises(CheckpointError, match=f"{digest}.*{listed_digest}"):
        checkpoints.verify(folder)
    with pytest.raises(CheckpointError, match=f"{digest}.*{listed_digest}"):
        checkpoints.load(folder)


def test_the_bytes_that_are_verified_are_the_ones_that_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes each file after it is opened, so that a second read would see the change."""
    reads: list[str] = []
    os_open = os.open

    def count_opens(path: Any, *arguments: Any, **options: Any) -> int:
        reads.append(os.path.relpath(path, folder))
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", count_opens)
    checkpoints.load(folder)
    weights = [name for name in reads if name.endswith(".safetensors")]
    assert sorted(weights) == ["dinov2/model.safetensors", "siglip/model.safetensors"]


@pytest.mark.parametrize(
    "name", [*ENCODER_FILES, "siglip/tokenizer.json", "siglip/tokenizer_config.json"]
)
@pytest.mark.parametrize("manifest", [True, False])
def test_a_missing_file_is_named(folder: Path, name: str, manifest: bool) -> None:
    (folder / name).unlink()
    if not manifest:
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        checkpoints.load(folder)


@pytest.mark.parametrize("name", ENCODER_FILES)
@pytest.mark.parametrize("keep", [0, 7, 100])
def test_a_truncated_file_is_refused(folder: Path, name: str, keep: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    checkpoints.write_manifest(folder)
    with pytest.raises(CheckpointError, match=r"config\.json is not|not a whole safetensors"):
        checkpoints.load(folder)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(folder: Path) -> None:
    weights = folder / "dinov2/model.safetensors"
    (folder / "manifest.json").unlink()
    good = weights.read_bytes()
    edit_weights(weights, lambda tensors: tensors.pop("layernorm.weight"))
    with pytest.raises(
        CheckpointError, match=r"lacks 1 tensor\(s\), the first 'layernorm.weight'"
    ):
        checkpoints.load(folder)
    weights.write_bytes(good)
    edit_weights(weights, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"unexpected 1 tensor\(s\), the first 'extra'"):
        checkpoints.load(folder)
    weights.write_bytes(good)
    edit_weights(weights, lambda tensors: tensors.update({"layernorm.weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"wrong shape for 1 tensor\(s\)"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "clip"},
            "of the type 'clip' and must be 'siglip' or 'siglip_vision_model'",
        ),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
        ({"vision_config": {"hidden_size": "wide"}}, "is 'wide' and must be a whole number"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    (folder / "manifest.json").unlink()
    edit_json(folder / "siglip/config.json", **fields)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


def test_a_config_cannot_bring_code_along(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    edit_json(
        folder / "dinov2/config.json",
        _attn_implementation="someone/kernels",
        attn_implementation="someone/kernels",
        auto_map={"AutoModel": "evil.Model"},
    )
    model = checkpoints.load(folder).vision["dinov2"]
    reference = to_transformers(model)
    assert type(reference).__module__.startswith("transformers.models.dinov2_with_registers")
    assert reference.config._attn_implementation == "sdpa"
    assert not hasattr(reference.config, "auto_map")


def test_pickled_weights_are_not_loaded(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "siglip/model.safetensors").rename(folder / "siglip/pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"\.bin files are not loaded"):
        checkpoints.load(folder)


def test_another_kind_of_tokenizer_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    edit_json(folder / "siglip/tokenizer_config.json", tokenizer_class="BertTokenizer")
    with pytest.raises(CheckpointError, match=r"'BertTokenizer'.*not supported"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("SiglipTokenizer", "  Red   CUP, the big one! "), ("GemmaTokenizer", "RED cup the big one")],
)
def test_the_tokenizers_of_stock_checkpoints_lower_case_first(
    folder: Path, kind: str, text: str
) -> None:
    (folder / "manifest.json").unlink()
    path = folder / "siglip/tokenizer.json"
    edit_json(path, normalizer=None)
    edit_json(folder / "siglip/tokenizer_config.json", tokenizer_class=kind)
    tokenizer = checkpoints.load(folder).tokenizer
    assert tokenizer is not None
    assert tokenizer(text)["input_ids"] == tokenizer("red cup the big one")["input_ids"]


def test_padding_is_on_the_right_to_the_text_context(original: Path) -> None:
    tokenizer = checkpoints.load(original).tokenizer
    assert tokenizer is not None
    ids = tokenizer(["a", "빨간 컵"], padding="max_length", truncation=True)["input_ids"]
    assert [len(row) for row in ids] == [32, 32]
    assert ids[0][-1] == tokenizer.pad_token_id == 0
    assert ids[0][0] != 0


def test_a_folder_without_a_manifest_loads_and_says_so(folder: Path) -> None:
    before = checkpoints.load(folder)
    assert before.verified
    assert checkpoints.verify(folder) == 7
    (folder / "manifest.json").unlink()
    models = checkpoints.load(folder)
    assert checkpoints.verify(folder) == 0
    assert not models.verified
    assert models.digests == before.digests


def fingerprint(folder: Path, **changes: Any) -> str:
    contract = replace(contracts.get("tabletop"), **changes)
    return checkpoints.fingerprint(checkpoints.load(folder), contract)


def test_the_fingerprint_covers_weights_and_preprocessing(folder: Path) -> None:
    first = fingerprint(folder)
    assert len(first) == 64
    assert fingerprint(folder, description="?") == first
    assert fingerprint(folder, pixels=strategy("letterbox", "bicubic")) != first
    edit_weights(
        folder / "dinov2/model.safetensors", lambda tensors: tensors["layernorm.bias"].add_(1)
    )
    checkpoints.write_manifest(folder)
    assert fingerprint(folder) != first


def test_the_fingerprint_is_of_what_tokens_depend_on(folder: Path) -> None:
    """Tokens depend on neither the text tower, nor the pooling head, nor the config's metadata."""
    first = fingerprint(folder)

    def retrain(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("logit_bias", "text_model.head.bias", "vision_model.head.probe"):
            tensors[name].add_(1)

    edit_weights(folder / "siglip/model.safetensors", retrain)
    edit_json(folder / "dinov2/config.json", transformers_version="5.99", dtype="float32")
    checkpoints.write_manifest(folder)
    assert fingerprint(folder) == first
    edit_json(folder / "dinov2/config.json", hidden_act="gelu_pytorch_tanh")
    checkpoints.write_manifest(folder)
    assert fingerprint(folder) != first


@pytest.mark.parametrize(
    "name",
    ["", "no-such-model", "/no/such/folder", "x" * 5000, "~no-such-user/x", "nul\0", "a\nb"],
    ids=lambda name: ascii(name[:20]),
)
def test_an_unknown_model_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"^There is no model folder .* tabletop\.$"
    ) as excinfo:
        checkpoints.resolve(name)
    assert len(str(excinfo.value)) < 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", 0),
        ("image_size", []),
        ("num_hidden_layers", 100_000),
        ("hidden_size", 10**12),
        ("hidden_size", True),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", 0),
    ],
)
@pytest.mark.parametrize("part", ["siglip", "dinov2"])
def test_a_field_out_of_range_is_refused(folder: Path, part: str, field: str, value: Any) -> None:
    (folder / "manifest.json").unlink()
    path = folder / part / "config.json"
    fields = {field: value}
    if part == "siglip":
        fields = {"vision_config": {**json.loads(path.read_text())["vision_config"], **fields}}
    edit_json(path, **fields)
    with pytest.raises(CheckpointError, match=f"{field} in .*{part}/config.json is"):
        checkpoints.load(folder)


def test_fields_of_no_encoder_make_nothing(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    edit_json(folder / "dinov2/config.json", num_labels=10**12, return_dict=False, to_dict=5)
    model = checkpoints.load(folder).vision["dinov2"]
    reference = to_transformers(model)
    assert reference.config.num_labels == 2
    assert reference.config.return_dict


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"affinity_scale": "10", "affinity_bias": -5}', "affinity_scale .* is '10'"),
        ('{"affinity_scale": 10, "affinity_bias": NaN}', "affinity_bias .* is nan"),
        ('{"affinity_scale": Infinity, "affinity_bias": -5}', "affinity_scale .* is inf"),
        (f'{{"affinity_scale": 1{"0" * 400}, "affinity_bias": -5}}', "affinity_scale .* is 10"),
        ('{"affinity_scale": true, "affinity_bias": -5}', "affinity_scale .* is True"),
        ('{"affinity_scale": 10}', "affinity_bias .* is None"),
        ('{"affinity_scale": [10], "affinity_bias": -5}', "affinity_scale .* is "),
        ("[" * 100_000, "not valid JSON"),
    ],
    ids=lambda value: value[:40],
)
def test_grounding_numbers_that_are_none_are_refused(
    folder: Path, content: str, message: str
) -> None:
    (folder / "grounding.json").write_text(content)
    checkpoints.write_manifest(folder)
    with pytest.raises(CheckpointError, match=message) as excinfo:
        GroundingSettings.from_mapping(checkpoints.load(folder).grounding)
    assert "grounding.json" in str(excinfo.value)
    assert len(str(excinfo.value)) < 400


def test_grounding_numbers_are_optional() -> None:
    assert GroundingSettings.from_mapping({}) == GroundingSettings(None, None)
    numbers = {"affinity_scale": 10, "affinity_bias": -5.5, "made_by": "calibration"}
    assert GroundingSettings.from_mapping(numbers) == GroundingSettings(10.0, -5.5)


def test_a_folder_is_its_own_name(folder: Path) -> None:
    assert checkpoints.resolve(str(folder)) == folder


def test_the_embedded_model_is_whole_and_keeps_its_contract() -> None:
    folder = checkpoints.resolve("tabletop")
    models = checkpoints.load(folder)
    assert models.verified
    assert checkpoints.verify(folder) >= 7
    contracts.check(contracts.get("tabletop"), checkpoints.Checkpoint(folder).facts)
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 12 * 2**20


def test_the_network_is_switched_off() -> None:
    checkpoints.Checkpoint(checkpoints.resolve("tabletop"))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
