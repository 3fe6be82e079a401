"""SIGINT and SIGTERM at any moment: exit code 0 soon, and nothing half done."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from peer import NODE, Peer, Start, raw_image
from watching import Process

# It takes under two seconds on a machine with a core to spare, on which no verdict may hang. Each
# of the waits that could be in the way, such as for a model or a frame, has a longer limit.
LIMIT = 15.0
Picture = np.ndarray[Any, np.dtype[np.uint8]]


def end(process: Process, number: signal.Signals) -> None:
    """Sends the signal and expects a clean end."""
    process.popen.send_signal(number)
    assert process.popen.wait(timeout=LIMIT) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_model_is_being_loaded(start: Start, number: signal.Signals) -> None:
    with start() as (process, _):
        process.wait_for_line("loading the model")
        end(process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_frames_are_processed(
    start: Start, picture: Picture, number: signal.Signals
) -> None:
    with start(instruction="find the red cup.") as (process, peer):
        peer.wait_status("node", DiagnosticStatus.OK, "active")
        stop = threading.Event()
        publisher = peer.publisher("image", type(raw_image(picture)))

        def flood() -> None:
            while not stop.wait(0.005):
                publisher.publish(raw_image(picture, time.time()))

        camera = threading.Thread(target=flood)
        camera.start()
        try:
            peer.wait(lambda: len(peer.heard[f"{NODE}/objects"]) > 3, "objects")
            end(process, number)
        finally:
            stop.set()
            camera.join()
        peer.wait_status("camera", DiagnosticStatus.STALE)
        expect_whole(peer)


def expect_whole(peer: Peer) -> None:
    """The last frame whose tokens came has its objects, too, and every message is complete.

    Of the frames before it a busy listener may miss either: topics keep their newest message only.
    """

    def last(topic: str) -> tuple[int, int]:
        return max(
            (m.header.stamp.sec, m.header.stamp.nanosec) for m in peer.heard[f"{NODE}/{topic}"]
        )

    peer.wait(lambda: last("tokens") == last("objects"), "objects to the last tokens")
    for tokens in peer.heard[f"{NODE}/tokens"]:
        assert len(tokens.data) == tokens.rows * tokens.cols * tokens.dim * 4


def test_with_a_model_that_cannot_be_loaded(start: Start) -> None:
    with start(model="/nowhere") as (process, peer):
        process.wait_for_line(r"configure failed: .*/nowhere")
        peer.wait_status("node", DiagnosticStatus.ERROR, "/nowhere")
        assert peer.state() == "unconfigured"
        end(process, signal.SIGINT)


def test_with_a_qos_override_that_there_is_not(start: Start) -> None:
    with start(**{"qos_overrides./image.subscription.reliability": "sometimes"}) as (
        process,
        peer,
    ):
        process.wait_for_line("activate failed: cannot subscribe to /image .*sometimes")
        peer.wait_status("node", DiagnosticStatus.ERROR, "qos_overrides./image.subscription")
        assert peer.state() == "inactive"
        end(process, signal.SIGINT)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threshold": 7.0}, "perception_node: threshold is 7.0; it must be 0 to 1."),
        ({"backend": "tpu"}, "perception_node: backend is 'tpu'; it must be one of"),
        ({"use_sim_time": "yep"}, "perception_node: .*'use_sim_time' to 'yep' .* 'BOOL'"),
    ],
)
def test_a_wrong_parameter_at_the_start_is_one_sentence_and_exit_code_2(
    start: Start, parameters: dict[str, Any], sentence: str
) -> None:
    with start(**parameters) as (process, _):
        process.wait_for_line(sentence)
        assert process.popen.wait(timeout=20) == 2
