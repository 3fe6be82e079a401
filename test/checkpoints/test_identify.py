"""Paths passed as a model: each is loaded, or explained in one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import write_random_model
from PIL import Image
from safetensors.torch import load_file, save_file

from siglip_perception import checkpoints
from siglip_perception.checkpoints.match import choose_contract
from siglip_perception.commands import main
from siglip_perception.errors import CheckpointError, ContractError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 812672520\n"
WEIGHT = "vision_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_random_model(folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture
def pair(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "pair"))


@pytest.fixture
def siglip(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original / "siglip", tmp_path / "siglip"))


def load(path: Path | str) -> checkpoints.Models:
    return checkpoints.load(checkpoints.resolve(str(path)))


def refusal(path: Path | str) -> str:
    """Return the refusal: one sentence that names the path and ends with what to do."""
    with pytest.raises(CheckpointError) as excinfo:
        load(path)
    sentence = str(excinfo.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert str(path) in sentence
    assert ": " in sentence
    return sentence


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def rename(path: Path, name: Callable[[str], str]) -> None:
    save_file({name(key): tensor for key, tensor in load_file(path).items()}, path)


def cache(hub: Path, model: Path, name: str = "google--siglip", commit: str = "abc") -> Path:
    """Make a repository's folder as the Hub's cache lays it out."""
    repository = hub / f"models--{name}"
    shutil.copytree(model, repository / "blobs")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    (hub / "version.txt").write_text("1")
    return repository


def test_a_cache_folder_stands_for_its_snapshot(original: Path, tmp_path: Path) -> None:
    repository = cache(tmp_path / "home" / "hub", original / "siglip")
    snapshot = repository / "snapshots" / "abc"
    for path in (
        repository,
        snapshot,
        repository / "snapshots",
        repository.parent,
        repository.parent.parent,
    ):
        assert checkpoints.resolve(str(path)) == snapshot
    assert load(repository).tokenizer is not None
    # A second one: refs/main decides, and where it does not, both are named.
    (snapshot.parent / "def").mkdir()
    assert checkpoints.resolve(str(repository)) == snapshot
    (repository / "refs" / "main").write_text("gone")
    assert "holds 2 snapshots (abc, def)" in refusal(repository)
    shutil.rmtree(snapshot.parent / "def")
    cache(repository.parent, original / "dinov2", "facebook--dinov2")
    assert "cache of 2 models (models--facebook--dinov2, models--google" in refusal(
        repository.parent
    )


def test_a_cache_folder_that_is_not_whole_is_named(original: Path, tmp_path: Path) -> None:
    repository = cache(tmp_path, original / "siglip")
    assert f"give the folder above it, {repository}" in refusal(repository / "blobs")
    snapshot_copy = shutil.copytree(
        repository / "snapshots" / "abc", tmp_path / "moved", symlinks=True
    )
    assert "a link to a file that is not there" in refusal(snapshot_copy)
    shutil.rmtree(repository / "snapshots" / "abc")
    assert "without a snapshot" in refusal(repository)


def test_a_repository_in_the_cache_is_known_by_its_name(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = cache(tmp_path, original / "siglip")
    assert checkpoints.resolve("google/siglip") == repository / "snapshots" / "abc"
    assert "run `siglip-perception fetch google/other`" in refusal("google/other")


@pytest.mark.parametrize("address", ["https://huggingface.co/google/siglip", "hf://google/siglip"])
def test_an_address_is_told_to_be_fetched(address: str) -> None:
    assert "is an address" in refusal(address)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.pt", b"\x80\x02}", "a PyTorch file in pickle form"),
        ("model.pth", b"PK\x03\x04....model/data.pkl", "a PyTorch file in pickle form"),
        ("pytorch_model.bin", b"PK\x03\x04", "PyTorch weights in pickle form"),
        ("last.ckpt", b"", "a checkpoint of a training"),
        ("weights", b"PK\x03\x04....archive/data.pkl", "a PyTorch file in pickle form"),
        ("flax_model.msgpack", b"", "Flax weights"),
        ("siglip.npz", b"PK\x03\x04", "NumPy arrays, as big_vision"),
        ("model.safetensors", b"GGUF", "a GGUF file"),
        ("model.gguf", b"", "a GGUF file"),
        ("model.onnx", b"", "an ONNX graph"),
        ("tf_model.h5", b"", "TensorFlow weights"),
        ("model.engine", b"", "a TensorRT engine"),
        ("model.tar.gz", b"\x1f\x8b", "a compressed file"),
        ("model.zip", b"PK\x03\x04", "an archive"),
        ("model.safetensors", LFS, r"Git LFS pointer to a file of 812\.7 MB.*git lfs pull"),
        ("model.safetensors", b"<!DOCTYPE html><html>", "a page of a web site"),
        ("model.safetensors", b"\x10" + bytes(30), r"without its config\.json"),
        ("notes.xyz", b"hello", "is a file, not a model folder"),
    ],
)
def test_a_file_is_told_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert re.search(says, refusal(tmp_path / name))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_of_a_model_is_told_to_be_its_folder(siglip: Path, name: str) -> None:
    assert f"give the folder that holds it, {siglip}." in refusal(siglip / name)


def files(**contents: bytes | str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


ADAPTER = '{"base_model_name_or_path": "google/siglip-base-patch16-224", "peft_type": "LORA"}'
OPEN_CLIP = """{"model_cfg": {"vision_cfg": {"timm_model_name": "vit_so400m_patch14_siglip_384"},
"text_cfg": {"vocab_size": 256000}}}"""


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (files(), "is an empty folder"),
        (files(_dot_gitattributes=b""), "is an empty folder"),
        (files(adapter_config_dot_json=ADAPTER), "LoRA adapter of google/siglip-base-patch16-224"),
        (files(open_clip_config_dot_json=OPEN_CLIP), "google/siglip2-so400m-patch14-384"),
        (files(open_clip_model_dot_safetensors=b""), "is an open_clip model"),
        (files(onnx__model_dot_onnx=b""), "ONNX graph, and .onnx files are not loaded"),
        (files(model_dot_gguf=b""), "GGUF"),
        (files(openvino_model_dot_xml=b"", openvino_model_dot_bin=b""), "OpenVINO graph"),
        (files(flax_model_dot_msgpack=b""), "Flax weights"),
        (files(tf_model_dot_h5=b""), "TensorFlow weights"),
        (files(checkpoint_dot_pt=b""), ".pt files are not loaded"),
        (
            files(tokenizer_dot_json="{}", tokenizer_config_dot_json="{}"),
            "holds a tokenizer alone",
        ),
        (files(model_dot_safetensors=LFS), "Git LFS pointer"),
        (files(config_dot_json=LFS), "Git LFS pointer"),
        (
            files(**{"model-00001-of-00002_dot_safetensors": b""}),
            "without model.safetensors.index",
        ),
        (files(siglip_dot_safetensors=b""), "no model.safetensors: rename it"),
        (
            files(a_dot_jpg=b"", b_dot_jpg=b""),
            "holds no model: it needs siglip/ .* and holds a.jpg, b.jpg",
        ),
    ],
)
def test_a_folder_is_told_for_what_it_is(
    tmp_path: Path, write: Callable[[Path], None], says: str
) -> None:
    write(tmp_path)
    assert re.search(says, refusal(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", ".bin files are not loaded"),
        ("model.onnx", "an ONNX graph"),
        ("flax_model.msgpack", "Flax weights"),
        ("model.gguf", "GGUF"),
    ],
)
def test_other_weights_beside_a_config_are_named(siglip: Path, name: str, says: str) -> None:
    (siglip / "model.safetensors").rename(siglip / name)
    sentence = refusal(siglip)
    assert "model.safetensors is missing" in sentence
    assert says in sentence


def test_a_folder_too_high_and_one_too_low_are_told(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "models" / "v1")
    assert f"give {tmp_path / 'models' / 'v1'}" in refusal(tmp_path / "models")
    shutil.copytree(original, tmp_path / "models" / "v2")
    assert "2 folders of one (v1, v2)" in refusal(tmp_path / "models")
    low = tmp_path / "models" / "v1" / "siglip"
    with pytest.raises(ContractError, match=f"one encoder of the model {low.parent}.*give that"):
        choose_contract("", checkpoints.Checkpoint(low))


def test_encoders_under_other_names_are_told_theirs(pair: Path) -> None:
    (pair / "siglip").rename(pair / "siglip2-base")
    assert "holds a siglip encoder and would not be looked at" in _sentence(pair)
    (pair / "dinov2").rename(pair / "dinov2-base")
    assert "name these folders siglip and dinov2" in refusal(pair)
    (pair / "siglip2-base").rename(pair / "dinov2")
    (pair / "dinov2-base").rename(pair / "siglip")
    assert "move it to the folder siglip" in _sentence(pair)


def _sentence(path: Path) -> str:
    with pytest.raises(CheckpointError) as excinfo:
        load(path)
    return str(excinfo.value)


@pytest.mark.parametrize(
    ("kind", "says"), [("siglip2", "NaFlex"), ("clip", "is CLIP"), ("vit", "a plain ViT")]
)
def test_models_that_are_taken_for_a_siglip_are_named(
    siglip: Path, pair: Path, kind: str, says: str
) -> None:
    edit_json(siglip / "config.json", model_type=kind)
    assert says in refusal(siglip)
    edit_json(pair / "siglip" / "config.json", model_type=kind)
    assert says in _sentence(pair)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."),
        *("model._orig_mod.", "net.encoder.", "_fsdp_wrapped_module."),
    ],
)
def test_what_a_training_put_before_the_names_is_taken_off(
    original: Path, pair: Path, prefix: str
) -> None:
    for part in ("siglip", "dinov2"):
        rename(pair / part / "model.safetensors", lambda name: prefix + name)
    models, plain = load(pair), load(original)
    assert models.digests == plain.digests
    for name, encoder in plain.vision.items():
        state = models.vision[name].state_dict()
        assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())


def test_wrappers_inside_the_names_are_taken_off(original: Path, siglip: Path) -> None:
    def wrap(name: str) -> str:
        name = name.replace("vision_model.", "vision_model._orig_mod.")
        return name.replace("layers.0.", "layers.0._checkpoint_wrapped_module.")

    rename(siglip / "model.safetensors", wrap)
    assert load(siglip).digests["siglip"] == load(original / "siglip").digests["siglip"]


def test_a_tensor_under_two_names_is_refused(siglip: Path) -> None:
    edit_weights(
        siglip / "model.safetensors",
        lambda tensors: tensors.update({"module.logit_bias": torch.ones(1)}),
    )
    assert "holds 'logit_bias' twice" in refusal(siglip)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].to(torch.float8_e4m3fn)}),
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].to(torch.int8)}),
        lambda tensors: tensors.update({WEIGHT: torch.zeros(64, 1, dtype=torch.uint8)}),
        lambda tensors: tensors.update({f"{WEIGHT[:-6]}qweight": torch.zeros(4, dtype=torch.int)}),
        lambda tensors: tensors.update({f"{WEIGHT}_scale": torch.ones(1)}),
    ],
    ids=["fp8", "bitsandbytes-int8", "bitsandbytes-4bit", "gptq", "scale"],
)
def test_quantized_weights_are_refused(
    siglip: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    edit_weights(siglip / "model.safetensors", change)
    sentence = refusal(siglip)
    assert "quantized" in sentence
    assert "fc1.weight" in sentence or "qweight" in sentence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda tensors: tensors.update(
                {"vision_model.embeddings.class_embedding": torch.zeros(4)}
            ),
            "its weights are CLIP's",
        ),
        (
            lambda tensors: tensors.update({"classifier.weight": torch.zeros(4)}),
            "image classifier",
        ),
        (
            lambda tensors: tensors.update({f"{WEIGHT[:-6]}lora_A.weight": torch.zeros(4)}),
            "LoRA layers were not merged",
        ),
        (
            lambda tensors: [
                tensors.pop(name) for name in list(tensors) if not name.startswith("vision")
            ],
            "vision tower alone",
        ),
    ],
    ids=["clip", "classifier", "lora", "vision"],
)
def test_tensors_that_do_not_fit_are_named_for_what_they_are(
    siglip: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    edit_weights(siglip / "model.safetensors", change)
    assert says in refusal(siglip)


def test_an_adapter_beside_whole_weights_is_not_passed_over(siglip: Path) -> None:
    (siglip / "adapter_config.json").write_text(ADAPTER)
    assert "would not be applied" in refusal(siglip)


def test_a_missing_shard_is_named_before_any_is_read(siglip: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (siglip / "model.safetensors").rename(siglip / names["a"])
    (siglip / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        checkpoints.Checkpoint(siglip)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"model_type": 5}', "model_type in .* is 5 and must be text"),
        ('{"model_type": ["siglip"]}', "must be text"),
        ('{"model_type": "siglip", "vision_config": []}', "must be an object"),
        ('{"model_type": "siglip", "text_config": 5}', "must be an object"),
        ('{"model_type": "siglip", "vision_config": {"patch_size": 0}}', "from 1 to 4096"),
        ('{"model_type": "siglip", "vision_config": {"hidden_size": null}}', "is None and"),
        (
            '{"model_type": "siglip", "vision_config": {"image_size": "224"}}',
            "is '224' and must be",
        ),
        ('{"model_type": "siglip", "vision_config": {"num_hidden_layers": -1}}', "from 1 to 256"),
        ('{"model_type": "siglip", "vision_config": {"hidden_act": "magic"}}', "cannot be"),
        ('{"model_type": "siglip", "vision_config": {"hidden_act": 3}}', "must be text"),
        ('{"model_type": "siglip", "vision_config": {"layer_norm_eps": "x"}}', "must be a number"),
        ('{"model_type": "siglip", "text_config": {"vocab_size": 1e300}}', "from 1 to 4000000"),
        ('{"model_type": "siglip", "text_config": {"max_position_embeddings": -4}}', "must be"),
    ],
)
def test_a_config_of_wrong_types_is_one_sentence(siglip: Path, text: str, says: str) -> None:
    (siglip / "config.json").write_text(text)
    assert re.search(says, _sentence(siglip)), _sentence(siglip)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_in_another_unicode_form_is_read(siglip: Path, encoding: str) -> None:
    path = siglip / "config.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert load(siglip).siglip is not None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_named(
    siglip: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os_open = os.open

    def raise_denied(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", raise_denied)
    assert f"Cannot read {siglip / name} (Permission denied)" in refusal(siglip)


def test_a_folder_that_may_not_be_read_is_named(
    siglip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_denied(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    (siglip / "config.json").unlink()
    (siglip / "model.safetensors").unlink()
    monkeypatch.setattr(Path, "iterdir", raise_denied)
    assert f"Cannot read {siglip} (Permission denied)" in refusal(siglip)


def test_an_encoders_folder_that_is_none_is_told(pair: Path) -> None:
    shutil.rmtree(pair / "siglip")
    (pair / "siglip").symlink_to("gone")
    assert "siglip is a link to a folder that is not there" in _sentence(pair)
    (pair / "siglip").unlink()
    (pair / "siglip").write_text("../siglip")
    assert "siglip is a file" in _sentence(pair)


@pytest.mark.parametrize(
    "command",
    [
        "tokens {image} -o {out} --model {model}",
        "ground {image} cup --model {model}",
        "ground {image} cup --grounding-model {model}",
        "evaluate --scenes 1 --model {model}",
        "train --data {pictures} -o {out} --model {model}",
        "export -o {out} --model {model}",
        "parity --contract tabletop --model {model}",
    ],
)
def test_every_command_says_the_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "pictures").mkdir()
    image = tmp_path / "pictures" / "frame.png"
    Image.new("RGB", (64, 48)).save(image)
    image.with_suffix(".txt").write_text("a cup")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(ADAPTER)
    names = {
        "image": image,
        "pictures": image.parent,
        "out": tmp_path / "out",
        "model": adapter,
    }
    assert main.main([word.format(**names) for word in command.split()]) == 2
    error = capsys.readouterr().err
    assert "LoRA adapter of google/siglip-base-patch16-224" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_doctor_says_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text(ADAPTER)
    assert main.main(["doctor", "--model", str(tmp_path)]) == 1
    assert "LoRA adapter of google/siglip-base-patch16-224" in capsys.readouterr().out


def test_timms_folder_is_known_by_its_tensors(tmp_path: Path) -> None:
    save_file(
        {
            "cls_token": torch.zeros(1, 1, 8),
            "patch_embed.proj.weight": torch.zeros(8, 3, 4, 4),
            "pos_embed": torch.zeros(1, 5, 8),
        },
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text('{"architecture": "vit_small_patch14_dinov2"}')
    assert "name the contract" in refusal(tmp_path)
