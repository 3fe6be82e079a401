"""fetch with the real client against a local Hub: real files, interrupted connections."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from models import write_random_model
from safetensors.torch import save

from siglip_perception import checkpoints
from siglip_perception.commands import fetch as fetching
from siglip_perception.commands.fetch import FetchError
from siglip_perception.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sibling(name: str, data: bytes) -> dict[str, Any]:
    """Describe a file as the Hub does: weights are stored with Git LFS, all others by Git."""
    entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        return {**entry, "lfs": {"sha256": digest, "size": len(data), "pointerSize": 1}}
    if name == "special_tokens_map.json":
        return entry
    return {**entry, "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


@dataclass
class Hub:
    """Hub with repositories: name -> file -> bytes. cut: bytes before a first answer breaks.

    forged: file -> bytes that are sent instead of those listed.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    forged: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    ranges: list[str] = field(default_factory=list)
    request_counts: Counter[str] = field(default_factory=Counter)
    address: str = ""

    def handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path = self.path.partition("?")[0].strip("/")
                for name, files in hub.repositories.items():
                    if path.startswith(f"api/models/{name}"):
                        return self.listing(name, files, path.rpartition("/revision/")[2])
                    if path.startswith(f"{name}/resolve/"):
                        return self.file(path.split("/", 4)[4], files, body)
                return self.refuse("RepoNotFound")

            def refuse(self, code: str) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def listing(self, name: str, files: dict[str, bytes], revision: str) -> None:
                if revision not in ("main", COMMIT):
                    return self.refuse("RevisionNotFound")
                siblings = [sibling(file, data) for file, data in files.items()]
                text = json.dumps({"id": name, "sha": hub.commit, "siblings": siblings}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                return None

            def file(self, name: str, files: dict[str, bytes], body: bool) -> None:
                data = hub.forged.get(name, files[name])
                first = 0
                if byte_range := self.headers.get("Range"):
                    hub.ranges.append(f"{name} {byte_range}")
                    first = int(byte_range.removeprefix("bytes=").partition("-")[0])
                self.send_response(206 if first else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Accept-Ranges", "bytes")
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - first))
                self.end_headers()
                if not body:
                    return
                hub.request_counts[name] += 1
                if name in hub.cut:
                    self.wfile.write(data[first : first + hub.cut.pop(name)])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                else:
                    self.wfile.write(data[first:])

        return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    fake_hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), fake_hub.handler())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake_hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake_hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make a repository such as google/siglip2-..., which holds more files than needed."""
    folder = tmp_path_factory.mktemp("random")
    write_random_model(folder)
    contents = {path.name: path.read_bytes() for path in (folder / "siglip").iterdir()}
    contents["preprocessor_config.json"] = b'{"size": 216}'
    return contents | {"README.md": b"text", "flax_model.msgpack": b"\0" * 1000}


def fetch(
    hub: Hub, home: Path, *arguments: str, **options: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.address, "XDG_DATA_HOME": str(home), "HF_HOME": str(home)}
    command = [sys.executable, "-m", "siglip_perception.commands.main", "fetch", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment | options, timeout=120
    )


@pytest.mark.slow
def test_a_repository_becomes_a_model_folder_with_its_commit(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["someone/siglip"] = files
    process = fetch(hub, tmp_path, "someone/siglip")
    out = tmp_path / "siglip_perception/models/someone--siglip"
    assert process.returncode == 0, process.stderr
    assert "model.safetensors (" in process.stdout
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "manifest.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["."] == {"repository": "someone/siglip", "revision": COMMIT}
    assert checkpoints.verify(out) == 5
    assert checkpoints.load(out).verified

    again = fetch(hub, tmp_path, "someone/siglip")
    assert "already there" in again.stdout
    (out / "config.json").write_text("{}")
    second_process = fetch(hub, tmp_path, "someone/siglip")
    assert second_process.returncode == 2
    assert "is not the file that the manifest lists" in second_process.stderr


def policy() -> dict[str, bytes]:
    """Make two shards, one without vision, as in openvla-7b; 24 MB, for the client reads by 10."""
    shards = {
        "model-00001-of-00002.safetensors": {
            "vision_backbone.fused_featurizer.patch_embed.proj.weight": torch.zeros(8, 3, 14, 14),
            "vision_backbone.fused_featurizer.pos_embed": torch.zeros(1, 256, 8),
            "vision_backbone.fused_featurizer.blocks.0.norm1.weight": torch.zeros(8),
            "language_model.model.embed_tokens.weight": torch.zeros(6_000_000),
        },
        "model-00002-of-00002.safetensors": {"language_model.lm_head.weight": torch.zeros(9, 8)},
    }
    index = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    return {
        "config.json": json.dumps({"model_type": "openvla"}).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": index}).encode(),
        **{name: save(tensors) for name, tensors in shards.items()},
    }


@pytest.mark.slow
def test_of_a_policy_only_shards_with_vision_are_fetched_and_a_cut_one_goes_on(
    hub: Hub, tmp_path: Path
) -> None:
    hub.repositories["openvla/openvla-7b"] = policy()
    shard = "model-00001-of-00002.safetensors"
    hub.cut[shard] = 15_000_000
    out = tmp_path / "policy"
    process = fetch(hub, tmp_path, "openvla-224", "-o", str(out))
    if process.returncode:  # the client gave up at the cut: the next run goes on from there
        assert "which resumes" in process.stderr
        assert not out.exists()
        process = fetch(hub, tmp_path, "openvla-224", "-o", str(out))
    assert process.returncode == 0, process.stderr
    assert [r.partition("=")[0] for r in hub.ranges] == [f"{shard} bytes"]
    assert hub.request_counts[shard] == 2
    assert hub.request_counts["model-00002-of-00002.safetensors"] == 0
    assert json.loads((out / "manifest.json").read_text())["contract"] == "openvla-224"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("someone/nothing",), "there is no such repository"),
        (("someone/siglip", "--revision", "v9"), "there is no such revision"),
        (("someone/pickled",), "only safetensors are used"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    hub.repositories["someone/siglip"] = files
    hub.repositories["someone/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"\0"}
    process = fetch(hub, tmp_path, *arguments)
    assert process.returncode == 2
    assert words in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_file_that_arrives_changed_is_refused(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["someone/siglip"] = files
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        changed = bytearray(files[name])
        changed[-2] ^= 1
        hub.forged = {name: bytes(changed)}
        process = fetch(hub, tmp_path / name, "someone/siglip")
        assert process.returncode == 2
        assert f"{name} of someone/siglip did not arrive as the Hub lists it" in process.stderr
    hub.forged = {}
    hub.commit = "../../../evil"
    process = fetch(hub, tmp_path, "someone/siglip")
    assert "The Hub names no commit of someone/siglip, but '../../../evil'" in process.stderr
    hub.commit = COMMIT
    hub.repositories["someone/siglip"] = {**files, "special_tokens_map.json": b"{}"}
    process = fetch(hub, tmp_path, "someone/siglip")
    assert "lists no digest of special_tokens_map.json" in process.stderr
    assert not (tmp_path / "siglip_perception/models/someone--siglip").exists()


@pytest.mark.slow
def test_a_dead_network_is_said_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.address = "http://127.0.0.1:9"
    dead = fetch(hub, tmp_path, "someone/siglip")
    assert dead.returncode == 2
    assert "check the network" in dead.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabletop"], "comes with this package"),
        (["no-such-thing"], "There is no model 'no-such-thing' to fetch"),
        (["siglip2-dinov2-224", "--revision", "main"], "give --revision for each"),
        (["someone/siglip"], "HF_HUB_OFFLINE is set"),
        (["someone/siglip", "--revision", "../../../evil"], "'../../../evil' is no revision"),
        (["someone/siglip", "--revision", "a/../../b"], "is no revision"),
        (["someone/siglip", "--revision=-x"], "is no revision"),
    ],
)
def test_what_needs_no_hub_is_refused_before_any_network(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(FetchError, match=words):
        cli_run(arguments)


def cli_run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    fetching.add_arguments(parser)
    return fetching.run(parser.parse_args(arguments))


def test_a_model_that_was_not_fetched_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="siglip-perception fetch openvla-224"):
        checkpoints.resolve("openvla-224")
    folder = tmp_path / "siglip_perception/models/openvla-224"
    folder.mkdir(parents=True)
    assert checkpoints.resolve("openvla-224") == folder
