"""Contracts on the wire: joined cameras, a grounding model of its own, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from peer import NODE, Peer, Start, raw_image
from rclpy.qos import QoSProfile
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence

from siglip_perception import contracts
from siglip_perception.client import TokensError, expect, tokens_to_torch

RELIABLE = QoSProfile(depth=10)
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@pytest.fixture(scope="module")
def joined_contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = contracts.path("tabletop").read_text().replace("name: tabletop", "name: joined", 1)
    file = tmp_path_factory.mktemp("contract") / "joined.yaml"
    file.write_text(text + "join_cameras: true\n")
    return file


def test_joined_cameras_give_one_sequence_and_objects_of_their_own(
    start: Start, joined_contract: Path, model_folder: Path, picture: np.ndarray[Any, Any]
) -> None:
    with start(
        contract=joined_contract,
        cameras="[wrist, front]",
        instruction="find the red cup.",
        grounding__model=model_folder,
        grounding__rate=0.5,
        image_reliability="reliable",  # each image is sent once
    ) as (_, peer):
        objects = f"{NODE}/front/objects"
        peer.listen(GroundedObjectArray, objects)
        peer.listen(TokenSequence, f"{NODE}/front/tokens")
        peer.wait_status("node", OK, "active")
        assert "a model of its own" in peer.values("node")["grounding"]
        tokens = f"{NODE}/tokens"
        peer.publish("front/image", raw_image(picture, 100.0), RELIABLE)
        peer.publish("wrist/image", raw_image(picture[::-1].copy(), 100.5), RELIABLE)
        first = peer.wait(lambda: peer.heard[tokens], tokens)[0]
        assert (first.rows, first.cols, first.dim) == (36, 18, 384)
        assert (first.header.stamp.sec, first.header.stamp.nanosec) == (100, 0)  # the older one
        wrist, front = tokens_to_torch(first).chunk(2)
        check = expect(contract="joined", fingerprint=first.fingerprint, rows=36)
        assert check(first) is first
        with pytest.raises(TokensError, match="'joined' and 'openvla-224' is expected"):
            expect(contract="openvla-224")(first)
        message = peer.wait(lambda: peer.heard[objects], objects)[0]
        assert message.header.stamp.sec == 100
        # The same images the other way round: the halves change places.
        peer.publish("front/image", raw_image(picture[::-1].copy(), 101.0), RELIABLE)
        peer.publish("wrist/image", raw_image(picture, 101.0), RELIABLE)
        second = peer.wait(lambda: peer.heard[tokens][1:], "the second tokens")[0]
        swapped_wrist, swapped_front = tokens_to_torch(second).chunk(2)
        assert float((wrist - swapped_front).abs().max()) < 1e-4
        assert float((front - swapped_wrist).abs().max()) < 1e-4
        assert float((wrist - front).abs().max()) > 1e-2
        assert peer.heard[f"{NODE}/front/tokens"] == []
        # Half a frame a second: of two frames a second apart, the first has objects.
        peer.publish("front/image", raw_image(picture, 102.0), RELIABLE)
        peer.publish("wrist/image", raw_image(picture, 102.0), RELIABLE)
        peer.wait(lambda: len(peer.heard[objects]) == 2, "objects of the third frame")
        assert [item.header.stamp.sec for item in peer.heard[objects]] == [100, 102]


def test_a_contract_with_history_gives_the_frame_before_with_each_frame(
    start: Start, tmp_path: Path, picture: np.ndarray[Any, Any]
) -> None:
    """As RDT runs it: the mean color stands before the first frame of an instruction."""
    text = contracts.path("tabletop").read_text()
    (tmp_path / "pairs.yaml").write_text(f"{text}history: 2\nhistory_start: mean\n")
    with start(contract=tmp_path / "pairs.yaml", image_reliability="reliable") as (_, peer):
        peer.wait_status("node", OK, "active")
        tokens = f"{NODE}/tokens"

        def halves(image: np.ndarray[Any, Any], stamp: float) -> Any:
            count = len(peer.heard[tokens])
            peer.publish("image", raw_image(image, stamp), RELIABLE)
            message = peer.wait(lambda: peer.heard[tokens][count:], f"tokens of {stamp}")[0]
            assert (message.rows, message.header.stamp.sec) == (36, int(stamp))
            return tokens_to_torch(message).chunk(2)

        mean, first = halves(picture, 100.0)
        before, second = halves(picture[::-1].copy(), 101.0)
        assert float((before - first).abs().max()) < 1e-4
        assert float((second - first).abs().max()) > 1e-2
        peer.say("find the red cup.")
        peer.wait_status("instruction", OK, "instruction")
        after_new_goal, _ = halves(picture, 102.0)
        assert float((after_new_goal - mean).abs().max()) < 1e-4
        halves(picture, 103.0)
        after_jump, _ = halves(picture, 50.0)
        assert float((after_jump - mean).abs().max()) < 1e-4


def test_a_contract_that_cannot_be_kept_is_refused_by_field(start: Start) -> None:
    with start(contract="openvla-224") as (_, peer):
        status = peer.wait_status("node", ERROR, "cannot keep the contract openvla-224")
        assert "hidden_size in dinov2/config.json is 192 and must be 1024" in status.message
        assert peer.state() == "unconfigured"


def test_tokens_go_on_where_a_contract_has_no_language(
    start: Start, tmp_path: Path, picture: np.ndarray[Any, Any]
) -> None:
    text = contracts.path("tabletop").read_text()
    alone = text[: text.index("  - name: siglip")].replace("dim: 384\n", "", 1)
    (tmp_path / "alone.yaml").write_text(alone)
    with start(contract=tmp_path / "alone.yaml", instruction="find the cup.") as (_, peer):
        peer.wait_status("instruction", WARN, "no_grounding: The contract tabletop has no SigLIP")
        tokens = _frame(peer, picture)
        assert tokens.dim == 192
        answer = peer.ground(["cup"])
        assert not answer.success
        assert "grounding.model" in answer.message


def _frame(peer: Peer, picture: np.ndarray[Any, Any]) -> Any:
    return peer.frame(raw_image(picture, 50.0))
