"""Hostile model folders: each ends in one sentence, soon, and allocates little."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from models import write_random_model

from siglip_perception import checkpoints
from siglip_perception.checkpoints.normalizer_growth import growth
from siglip_perception.checkpoints.tensors import read_header
from siglip_perception.encoders.encoders import TextEncoder
from siglip_perception.errors import CheckpointError

JSON_FILES = (
    "manifest.json",
    "grounding.json",
    "siglip/config.json",
    "siglip/tokenizer.json",
    "siglip/tokenizer_config.json",
    "siglip/preprocessor_config.json",
    "siglip/special_tokens_map.json",
    "dinov2/config.json",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_random_model(folder)
    files = {
        "grounding.json": {"affinity_scale": 10, "affinity_bias": -5},
        "siglip/preprocessor_config.json": {
            "do_resize": True,
            "size": {"height": 288, "width": 288},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
        },
        "siglip/special_tokens_map.json": {"pad_token": {"content": "<pad>"}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    checkpoints.write_manifest(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as excinfo:
        checkpoints.load(folder)
    text = str(excinfo.value)
    assert len(text) < 700
    assert "\n" not in text
    return text


def put_special(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        # A socket's address has at most 107 bytes.
        handle = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{handle}/{path.name}")
        os.close(handle)


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
@pytest.mark.parametrize(
    "name", [*JSON_FILES, "siglip/model.safetensors", "dinov2/model.safetensors"]
)
def test_a_special_file_is_refused_and_never_waited_for(
    folder: Path, name: str, kind: str
) -> None:
    put_special(folder / name, kind)
    assert f"{name} is not read, for it is {kind}" in refusal(folder)
    if name != "manifest.json":
        (folder / "manifest.json").unlink()
        assert f"{name} is not read, for it is {kind}" in refusal(folder)


def test_a_special_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"pipe .*named pipe"):
        checkpoints.resolve(str(tmp_path / "pipe"))


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_configuration_without_end_is_refused(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 38)
    assert f"{name} is not read, for it is larger than" in refusal(folder)


def edit_normalizer(folder: Path, normalizer: Any) -> Path:
    (folder / "manifest.json").unlink()
    path = folder / "siglip/tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    return path


@pytest.mark.parametrize(
    ("charsmap", "message"),
    [
        (b"\xff\xff\xff\xff", "is not a whole tokenizer"),  # panics when it is read
        (b"\x04\0\0\0\xff\xff\xff\xffab", "is damaged, for the tokenizers library"),  # when used
    ],
)
def test_a_tokenizer_that_panics_is_refused(folder: Path, charsmap: bytes, message: str) -> None:
    text = base64.b64encode(charsmap).decode()
    edit_normalizer(folder, {"type": "Precompiled", "precompiled_charsmap": text})
    assert message in refusal(folder)


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize(
    "steps",
    [
        [replace({"String": "a"}, "aa")] * 30,
        [replace({"Regex": "."}, "aaaaaaaa")] * 9,
        [replace({"String": "a"}, "a" * 10_000)],
        [{"type": "Sequence", "normalizers": [replace({"String": "a"}, "aaaa")] * 4}] * 2,
    ],
)
def test_a_normalizer_that_multiplies_text_is_refused(folder: Path, steps: list[Any]) -> None:
    edit_normalizer(folder, {"type": "Sequence", "normalizers": steps})
    assert "can make a text more than 4096 times as long" in refusal(folder)


def test_the_growth_of_normalizers() -> None:
    assert growth({"type": "NFKC"}) == 18
    assert growth(replace({"String": "ab"}, "cdef")) == 2
    assert growth({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Strip"}]}) == 4
    assert growth({"type": "Unknown"}) == float("inf")
    assert growth(replace({"String": ""}, "a")) == float("inf")


def write_header(path: Path, header: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


def test_a_header_of_99_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 99_000_000))
        file.truncate(8 + 99_000_000)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="its header is too large"):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_tensor_of_256_gigabytes_of_holes_is_not_read(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    path = folder / "siglip/model.safetensors"
    size = 256_000_000_000
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    write_header(path, json.dumps({"vision_model.x": entry}).encode(), size)
    assert "holds 256,000 MB of tensors" in refusal(folder)


def test_an_encoder_far_larger_than_its_weights_is_not_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siglip_perception.checkpoints.build.available_bytes", lambda: 10**15)
    (folder / "manifest.json").unlink()
    path = folder / "siglip/config.json"
    fields = json.loads(path.read_text())
    fields["vision_config"] |= {"num_hidden_layers": 256, "hidden_size": 1536}
    path.write_text(json.dumps(fields))
    assert "is 1536 and the weights' is 192" in refusal(folder)


def test_weights_that_do_not_fit_in_memory_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siglip_perception.checkpoints.build.available_bytes", lambda: 1_000_000)
    assert "1 MB are available: give a smaller model" in refusal(folder)


WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    1e300,
    float("nan"),
    "x",
    "",
    [],
    [[]],
    {},
    {"a": 1},
)


def keys_of(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the paths to all values, of long lists and vocabularies only the first ones."""
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(itertools.islice(content.items(), 40))
    elif isinstance(content, list):
        items = list(enumerate(content[:3]))
    for key, value in items:
        yield (*path, key)
        yield from keys_of(value, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def mutations(folder: Path) -> list[tuple[str, tuple[Any, ...], Any]]:
    return [
        (name, path, value)
        for name in JSON_FILES
        for path in keys_of(json.loads((folder / name).read_text()))
        if not (name == "siglip/tokenizer.json" and path[:2] == ("model", "vocab") and path[2:])
        for value in WRONG_VALUES
    ]


def load_mutated(folder: Path, cases: list[tuple[str, tuple[Any, ...], Any]]) -> None:
    manifest = (folder / "manifest.json").read_text()
    for name, path, value in cases:
        good = (folder / name).read_text()
        (folder / name).write_text(json.dumps(with_value(json.loads(good), path, value)))
        if name != "manifest.json":
            (folder / "manifest.json").unlink()
        with contextlib.suppress(CheckpointError):
            checkpoints.load(folder)
        (folder / name).write_text(good)
        (folder / "manifest.json").write_text(manifest)


def test_a_wrong_value_at_any_key_is_one_sentence_or_harmless(folder: Path) -> None:
    load_mutated(folder, random.Random(3).sample(mutations(folder), 10))


@pytest.mark.soak
def test_every_wrong_value_at_every_key_is_one_sentence_or_harmless(folder: Path) -> None:
    load_mutated(folder, mutations(folder))


class PanicException(BaseException):
    """Like the one that PyO3 raises, which is no Exception."""


def test_a_text_that_makes_the_tokenizer_panic_is_an_error_of_the_folder() -> None:
    def tokenizer(*_: Any, **__: Any) -> Any:
        raise PanicException("index out of bounds")

    tower: Any = torch.nn.Identity()
    tower.config = SimpleNamespace(max_position_embeddings=8)
    siglip: Any = SimpleNamespace(text_model=tower)
    encode = TextEncoder(siglip, cast("Any", tokenizer), torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json fails on this text"):
        encode(("cup",))
