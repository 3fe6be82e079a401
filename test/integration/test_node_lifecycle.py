"""Every transition of the real node, and configure failing with one clear sentence."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from peer import Peer, Start, raw_image
from watching import Process

OK, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP


@pytest.fixture(scope="module")
def node(start: Start) -> Iterator[tuple[Process, Peer]]:
    with start(autostart=False) as peer:
        peer[1].wait_status("node", OK, "unconfigured")
        yield peer


@pytest.fixture
def peer(node: tuple[Process, Peer]) -> Peer:
    return node[1]


def broken_model(model_folder: Path, folder: Path, kind: str) -> str:
    """A model folder of which one thing is wrong."""
    if kind == "missing":
        return str(folder / "nowhere")
    if kind == "unknown":
        return "no_such_model"
    copy = folder / "model"
    shutil.copytree(model_folder, copy)
    weights = copy / "siglip" / "model.safetensors"
    if kind == "corrupt":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif kind == "incomplete":
        weights.unlink()
    return str(copy)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "nowhere"),
        ("unknown", "no_such_model"),
        ("corrupt", "model.safetensors"),
        ("incomplete", "model.safetensors"),
    ],
)
def test_configure_fails_in_one_clear_sentence_and_can_be_tried_again(
    node: tuple[Process, Peer], model_folder: Path, tmp_path: Path, kind: str, words: str
) -> None:
    process, peer = node
    assert peer.set(model=broken_model(model_folder, tmp_path, kind)).successful
    assert not peer.change(CONFIGURE)
    assert peer.state() == "unconfigured"
    status = peer.wait_status("node", ERROR, words)
    assert "\n" not in status.message
    line = process.wait_for_line(r"\[ERROR\].*configure failed: .*\.$")
    assert words in line.string
    assert peer.set(model=str(model_folder)).successful


def test_every_transition(peer: Peer, picture: np.ndarray[Any, Any]) -> None:
    for cycle in range(3):
        assert peer.change(CONFIGURE)
        assert peer.state() == "inactive"
        peer.wait_status("node", OK, "inactive")
        response = peer.ground(["cup"], raw_image(picture))
        assert not response.success
        assert "inactive" in response.message
        assert peer.change(ACTIVATE)
        assert peer.state() == "active"
        tokens = peer.frame(raw_image(picture, 10.0 + cycle))
        assert tokens.header.stamp.sec == 10 + cycle
        assert not peer.set(device="cpu").successful
        assert peer.change(DEACTIVATE)
        assert peer.change(ACTIVATE)
        peer.frame(raw_image(picture, 20.0 + cycle))
        assert peer.change(DEACTIVATE)
        assert peer.change(CLEANUP)
        assert peer.state() == "unconfigured"
        assert peer.set(device="cpu").successful
    values = peer.values("camera")
    received, published, dropped = (
        int(values[name]) for name in ("received", "published", "dropped")
    )
    assert published >= 6
    assert received == published + dropped


@pytest.mark.parametrize("transition", [ACTIVATE, DEACTIVATE, CLEANUP, 99])
def test_a_transition_that_is_not_possible_is_refused(peer: Peer, transition: int) -> None:
    assert not peer.change(transition)
    assert peer.state() == "unconfigured"


def test_the_end(node: tuple[Process, Peer]) -> None:
    process, peer = node
    assert peer.change(CONFIGURE)
    assert peer.change(ACTIVATE)
    assert peer.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert peer.state() == "finalized"
    peer.wait_status("node", STALE)
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(timeout=20) == 0
