"""The real node builds TensorRT engines while it serves, and changes over without losing a frame.

There is no GPU: TensorRT is a stand-in that runs ONNX on the CPU, and the node is told that a CPU
will do for it. All else is as it is on a robot: node, worker, diagnostics, the building process.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from peer import Peer, peer_of, raw_image
from watching import isolated, running

from siglip_perception.client import tokens_to_numpy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "test" / "backends" / "fake_tensorrt"
NODE = """
import sys
import torch
from siglip_perception.backends import select
from siglip_perception.node.perception_node import main
select._device = lambda name, backend: (torch.device("cpu"), [])
main(sys.argv)
"""


def drop_counts(peer: Peer) -> dict[str, str]:
    """Dropped frames by reason, without those that the peer, who waits briefly, sent twice."""
    values = peer.values("camera")
    return {
        name: count
        for name, count in values.items()
        if name.startswith("dropped.") and name != "dropped.superseded"
    }


def test_a_node_serves_while_its_engines_are_built_and_then_from_them(
    model_folder: Path, picture: np.ndarray[Any, np.dtype[np.uint8]], tmp_path: Path
) -> None:
    environment = isolated(tmp_path)
    paths = [str(FAKE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = [sys.executable, "-c", NODE, "--ros-args", "-p", f"model:={model_folder}"]
    command += ["-p", "backend:=tensorrt", "-p", "precision:=fp32", "-p", "max_age:=0.0"]
    texts: list[str] = []
    answer_count = 0

    def backend(peer: Peer) -> str:
        backend_text = peer.values("node").get("backend", "")
        if backend_text and (not texts or texts[-1] != backend_text):
            texts.append(backend_text)
        return backend_text

    with peer_of(environment) as peer, running(command, environment, ROOT):
        peer.wait_status("node", DiagnosticStatus.OK, "active")
        peer.wait(lambda: backend(peer), "backend")
        deadline = time.monotonic() + 120
        while not backend(peer).startswith("tensorrt"):
            assert time.monotonic() < deadline, texts
            before = peer.frame(raw_image(picture, round(time.time(), 6)))
            answer_count += 1
        after = peer.frame(raw_image(picture, round(time.time(), 6)))
        np.testing.assert_allclose(tokens_to_numpy(after), tokens_to_numpy(before), atol=1e-4)
        assert drop_counts(peer) == {}
    assert answer_count > 0
    assert texts[0].startswith("torch ")
    assert "TensorRT engines are being built" in texts[0]
    assert any("being built: " in backend_text for backend_text in texts)
    assert texts[-1] == "tensorrt 10.3.0 on cpu, fp32"
