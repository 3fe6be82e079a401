"""The real node over real ROS 2, raw images: one process for all of these tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from diagnostic_msgs.msg import DiagnosticStatus
from peer import LATCHED, NODE, Peer, Start, raw_image
from sensor_msgs.msg import CompressedImage
from siglip_perception_msgs.msg import TokenSequence
from std_msgs.msg import String

from siglip_perception.client import tokens_to_numpy
from siglip_perception.config import ModelSelection
from siglip_perception.language.instruction import parse
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
Picture = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def peer(start: Start) -> Iterator[Peer]:
    with start() as (_, peer):
        peer.wait_status("node", OK, "active")
        yield peer


def now() -> float:
    return round(time.time(), 6)


def test_it_activates_itself_without_a_launch_file(peer: Peer) -> None:
    assert peer.state() == "active"


def test_tokens_and_objects_bear_the_image_s_own_header_and_are_the_pipeline_s(
    peer: Peer, picture: Picture, model_folder: Path
) -> None:
    peer.say("pick up the red cup")
    image = raw_image(picture, now())
    image.header.frame_id = "wrist_optical"
    objects = peer.frame(image, output=f"{NODE}/objects")
    tokens = peer.frame(image)
    assert tokens.header == image.header
    assert objects.header == image.header
    assert (tokens.rows, tokens.cols, tokens.dim) == (18, 18, 384)
    assert tokens.contract == objects.contract == "tabletop"
    assert list(objects.phrases) == ["red cup"]
    pipeline = Pipeline.load(ModelSelection(str(model_folder)))
    query = pipeline.query(parse("pick up the red cup"), 1)
    expected = pipeline.process(Frame(picture), query)
    assert expected.tokens is not None
    assert expected.grounding is not None
    assert tokens.fingerprint == expected.tokens.fingerprint
    np.testing.assert_allclose(tokens_to_numpy(tokens), expected.tokens.data, atol=1e-4)
    assert list(objects.presence) == pytest.approx(expected.grounding.presence, abs=1e-4)


def test_an_instruction_is_heard_from_a_volatile_publisher_and_numbered(peer: Peer) -> None:
    peer.say("find the green plate.")
    number = int(peer.values("instruction")["instruction_id"])
    peer.say("find the blue plate.")
    assert int(peer.values("instruction")["instruction_id"]) == number + 1
    assert peer.values("instruction")["instruction"] == "find the blue plate."


def test_an_instruction_is_heard_once_from_a_latched_publisher(peer: Peer) -> None:
    peer.silence("instruction")
    number = int(peer.values("instruction")["instruction_id"])
    publisher = peer.publisher("instruction", String, LATCHED)
    # At once: nobody has matched yet, so this is the stored sample.
    publisher.publish(String(data="find the latched bowl."))

    def wait_for(text: str) -> None:
        peer.wait(lambda: peer.values("instruction")["instruction"] == text, text)

    wait_for("find the latched bowl.")
    assert int(peer.values("instruction")["instruction_id"]) == number + 1
    # Now both of the node's subscriptions hear it.
    peer.wait(lambda: publisher.get_subscription_count() == 2, "second subscription")
    for offset in (2, 3):
        text = f"find the bowl of number {offset}."
        publisher.publish(String(data=text))
        wait_for(text)
        assert int(peer.values("instruction")["instruction_id"]) == number + offset
    peer.silence("instruction")


@pytest.mark.parametrize(
    ("text", "level", "state"),
    [
        ("", OK, "no_instruction"),
        ("x" * 1025, WARN, "instruction_rejected"),
        ("y" * 1_000_000, WARN, "instruction_rejected"),
    ],
    ids=["empty", "1 KiB", "1 MB"],
)
def test_tokens_go_on_without_objects(
    peer: Peer, picture: Picture, text: str, level: bytes, state: str
) -> None:
    peer.say("find the red cup.")
    image = raw_image(picture, now())
    peer.frame(image, output=f"{NODE}/objects")
    peer.say(text)
    peer.wait_status("instruction", level, state)
    later = raw_image(picture, now())
    peer.frame(later)
    # Objects are published right after the tokens of their frame: the next frame's come later.
    peer.frame(raw_image(picture, now()))
    assert all(
        message.header.stamp != later.header.stamp for message in peer.heard[f"{NODE}/objects"]
    )


@pytest.mark.parametrize(
    ("changes", "level", "reason", "field"),
    [
        ({"step": 479}, ERROR, "malformed", "step"),
        ({"height": 119}, ERROR, "malformed", "data"),
        ({"height": 0}, ERROR, "malformed", "height"),
        ({"encoding": "32FC1"}, ERROR, "encoding", "32FC1"),
        ({"encoding": "mono16"}, ERROR, "encoding", "mono16_white"),
        ({"width": 60000, "height": 60000}, ERROR, "too_large", "max_pixels"),
    ],
)
def test_a_bad_image_is_refused_with_its_reason_and_the_node_goes_on(
    peer: Peer,
    picture: Picture,
    changes: dict[str, Any],
    level: bytes,
    reason: str,
    field: str,
) -> None:
    bad = raw_image(picture, now(), **changes)
    before = int(peer.values("camera").get(f"dropped.{reason}", 0))
    status = peer.wait_status("camera", level, field, lambda: peer.publish("image", bad))
    assert f"{reason}: " in status.message
    assert int(peer.values("camera")[f"dropped.{reason}"]) > before
    peer.frame(raw_image(picture, now()))


def test_every_frame_is_accounted_for(peer: Peer, picture: Picture) -> None:
    before = int(peer.values("camera")["received"])
    for _ in range(20):
        peer.publish("image", raw_image(picture, now()))
    peer.frame(raw_image(picture, now()))

    def is_settled() -> bool:
        message = peer.values("camera")
        return int(message["received"]) > before and message["in_flight"] == "0"

    peer.wait(is_settled, "end of all frames")
    peer.wait_status("camera", ERROR, "stale")
    values = {key: value for key, value in peer.values("camera").items() if value.isdigit()}
    count = {key: int(value) for key, value in values.items()}
    reasons = sum(number for key, number in count.items() if key.startswith("dropped."))
    assert count["dropped"] == reasons
    assert count["received"] == count["published"] + count["dropped"] + count["in_flight"]
    assert count["in_flight"] == 0
    assert count["published"] > 0


def test_a_silent_camera_is_told_and_so_is_its_return(peer: Peer, picture: Picture) -> None:
    peer.wait_status("camera", ERROR, "stale: no frame on /image")
    send = lambda: peer.publish("image", raw_image(picture, now()))  # noqa: E731
    peer.wait_status("camera", OK, "receiving", send)


def test_a_jump_back_in_time_is_told_and_survived(peer: Peer, picture: Picture) -> None:
    peer.frame(raw_image(picture, now()))
    loop = now() - 1000
    assert peer.frame(raw_image(picture, loop)).header.stamp.sec == int(loop)
    peer.wait_status(
        "camera", WARN, "time_jump", lambda: peer.publish("image", raw_image(picture, now() - 900))
    )
    ahead = raw_image(picture, now() + 3600)
    peer.wait_status("camera", WARN, "future: ", lambda: peer.publish("image", ahead))
    peer.frame(raw_image(picture, now()))


def test_ground_with_an_image_of_its_own(peer: Peer, picture: Picture) -> None:
    peer.wait_status("camera", ERROR, "stale: ")
    before = peer.values("camera")["received"]
    image = raw_image(picture, 77.5)
    answer = peer.ground(["red cup", "접시"], image, with_mask=True)
    assert answer.success, answer.message
    assert answer.result.header == image.header
    assert list(answer.result.phrases) == ["red cup", "접시"]
    assert answer.result.instruction_id == 0
    assert (answer.result.mask.height, answer.result.mask.width) == (120, 160)
    text = peer.statuses["camera"]
    peer.wait(lambda: peer.statuses["camera"] is not text, "later /diagnostics")
    assert peer.values("camera")["received"] == before


def test_ground_with_the_newest_frame(peer: Peer, picture: Picture) -> None:
    image = raw_image(picture, now())
    peer.frame(image)
    peer.publish("image", image)
    answer = peer.ground(["red cup"])
    assert answer.success, answer.message
    assert answer.result.header.stamp == image.header.stamp
    assert len(answer.result.mask.data) == 0


@pytest.mark.parametrize(
    ("phrases", "changes", "words"),
    [
        ([], {}, "phrase"),
        (["cup"], {"step": 3}, "step"),
        (["cup"], {"encoding": "nonsense"}, "nonsense"),
        (["x" * 2000], {}, "1 KiB|1024|1,024|long"),
    ],
)
def test_ground_says_what_is_wrong(
    peer: Peer, picture: Picture, phrases: list[str], changes: dict[str, Any], words: str
) -> None:
    answer = peer.ground(phrases, raw_image(picture, **changes))
    assert not answer.success
    assert any(word in answer.message for word in words.split("|")), answer.message
    assert "\n" not in answer.message


def test_ground_refuses_an_unknown_camera_and_an_old_frame(peer: Peer, picture: Picture) -> None:
    peer.frame(raw_image(picture, now()))
    unknown = peer.ground(["cup"], camera="elbow")
    assert not unknown.success
    assert "'elbow'" in unknown.message
    peer.wait(lambda: not peer.ground(["cup"]).success, "refusal of an old frame")
    assert "ago" in peer.ground(["cup"]).message


def test_parameters_at_run_time(peer: Peer, picture: Picture) -> None:
    peer.say("find the yellow cup.")
    assert peer.set(publish_mask=True, threshold=0.0, max_objects=1).successful
    message = peer.frame(raw_image(picture, now()), output=f"{NODE}/objects")
    assert (message.mask.height, message.mask.width) == (120, 160)
    assert len(message.objects) <= 1
    assert peer.set(publish_mask=False, threshold=1.0).successful
    message = peer.frame(raw_image(picture, now()), output=f"{NODE}/objects")
    assert len(message.mask.data) == len(message.objects) == 0
    for wrong in ({"model": "other"}, {"threshold": 2.0}, {"max_objects": 5, "backend": "torch"}):
        response = peer.set(**wrong)
        assert not response.successful
        assert response.reason
    assert peer.set(threshold=0.5, max_objects=20).successful


def test_the_overlay_is_a_jpeg_of_the_frame(peer: Peer, picture: Picture) -> None:
    subscription = peer.listen(CompressedImage, f"{NODE}/overlay/compressed")
    image = raw_image(picture, now())
    overlay = peer.frame(image, output=f"{NODE}/overlay/compressed")
    assert overlay.header == image.header
    assert simplejpeg.decode_jpeg(bytes(overlay.data)).shape == picture.shape
    peer.node.destroy_subscription(subscription)


def test_a_frame_too_wide_for_a_jpeg_has_outputs_and_the_next_one_an_overlay(
    peer: Peer, picture: Picture
) -> None:
    overlay = f"{NODE}/overlay/compressed"
    subscription = peer.listen(CompressedImage, overlay)
    published = int(peer.values("camera")["published"])
    wide = raw_image(np.zeros((1, 65_501, 3), np.uint8), now())
    assert peer.frame(wide).header == wide.header
    image = raw_image(picture, now())
    assert peer.frame(image, output=overlay).header == image.header
    assert wide.header.stamp not in [message.header.stamp for message in peer.heard[overlay]]
    peer.wait(lambda: int(peer.values("camera")["published"]) >= published + 2, "count")
    peer.node.destroy_subscription(subscription)


def test_a_qos_mismatch_is_named_while_it_lasts(peer: Peer) -> None:
    subscription = peer.listen(TokenSequence, f"{NODE}/tokens", LATCHED)
    status = peer.wait_status("topics", ERROR, "DURABILITY")
    assert f"{NODE}/tokens" in status.message
    peer.node.destroy_subscription(subscription)
    peer.wait_status("topics", OK)
