"""Two cameras with compressed images, on simulated time: one process for all of these tests."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from diagnostic_msgs.msg import DiagnosticStatus
from peer import NODE, Peer, Start, compressed_image
from rosgraph_msgs.msg import Clock
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
FRONT = "front/image/compressed"
TOKENS = f"{NODE}/front/tokens"


class SimulatedTime:
    """Publishes /clock; a second passes whenever a test says so."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.now = 1000.0

    def set(self, seconds: float) -> float:
        self.now = seconds
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = int(seconds), round(seconds % 1 * 1e9)
        self.peer.publish("/clock", clock)
        return seconds

    def step(self) -> float:
        return self.set(self.now + 1.0)


@pytest.fixture(scope="module")
def peer(start: Start) -> Iterator[Peer]:
    parameters = {
        "use_sim_time": True,
        "image_transport": "compressed",
        "cameras": "[front, wrist]",
        "instruction": "find the red cup.",
        "tokens__dtype": "float16",
        "max_age": 5.0,
    }
    with start(**parameters) as (_, peer):
        peer.listen(TokenSequence, TOKENS)
        peer.listen(GroundedObjectArray, f"{NODE}/front/objects")
        peer.wait_status("node", OK, "active")
        yield peer


@pytest.fixture(scope="module")
def simulation(peer: Peer) -> SimulatedTime:
    return SimulatedTime(peer)


@pytest.fixture(scope="module")
def jpeg(picture: np.ndarray[Any, Any]) -> bytes:
    return bytes(simplejpeg.encode_jpeg(picture))


def test_a_dead_camera_blocks_none(peer: Peer, simulation: SimulatedTime, jpeg: bytes) -> None:
    for _ in range(3):
        image = compressed_image(jpeg, simulation.step())
        tokens = peer.frame(image, FRONT, TOKENS)
        assert tokens.header == image.header
    assert tokens.dtype == TokenSequence.FLOAT16
    assert len(tokens.data) == 324 * 384 * 2
    peer.wait_status("camera wrist", ERROR, "stale: no frame on /wrist/image/compressed")
    send = lambda: peer.publish(FRONT, compressed_image(jpeg, simulation.step()))  # noqa: E731
    peer.wait_status("camera front", OK, "receiving", send)
    assert list(peer.heard[f"{NODE}/front/objects"][-1].phrases) == ["red cup"]
    assert peer.heard[f"{NODE}/tokens"] == []


def bomb() -> bytes:
    """A PNG whose header asks for 30000x30000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["truncated", "empty", "bomb", "other"])
def test_bad_files_are_refused_and_the_node_goes_on(
    peer: Peer, simulation: SimulatedTime, jpeg: bytes, kind: str
) -> None:
    data, name, reason, level = {
        "truncated": (jpeg[:-200], "jpeg", "corrupt", WARN),
        "empty": (b"", "rgb8; jpeg compressed bgr8", "corrupt", WARN),
        "bomb": (bomb(), "png", "too_large", ERROR),
        "other": (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2", "encoding", ERROR),
    }[kind]

    def send() -> None:
        peer.publish(FRONT, compressed_image(data, simulation.step(), name))
        peer.publish(FRONT, compressed_image(jpeg, simulation.step()))

    def is_reported() -> bool:
        status = peer.statuses["camera front"]
        return status.level >= level and f"{reason}: " in status.message

    peer.wait(is_reported, f"status with {reason}", send)
    peer.frame(compressed_image(jpeg, simulation.step()), FRONT, TOKENS)
    assert int(peer.values("camera front")[f"dropped.{reason}"]) >= 1


def test_ages_are_told_by_the_simulated_clock(
    peer: Peer, simulation: SimulatedTime, jpeg: bytes
) -> None:
    def send(offset: float) -> None:
        peer.publish(FRONT, compressed_image(jpeg, simulation.step() + offset))

    peer.wait_status("camera front", ERROR, "too_old: ", lambda: send(-10.0))
    peer.wait_status("camera front", WARN, "future: ", lambda: send(+10.0))
    peer.frame(compressed_image(jpeg, simulation.step()), FRONT, TOKENS)


def test_a_bag_that_loops(peer: Peer, simulation: SimulatedTime, jpeg: bytes) -> None:
    for _ in range(3):
        simulation.set(100.0)
        for _ in range(3):
            image = compressed_image(jpeg, simulation.step())
            assert peer.frame(image, FRONT, TOKENS).header.stamp == image.header.stamp
    peer.wait_status("camera front", WARN, "time_jump")


def test_ground_asks_the_camera_that_is_named(
    peer: Peer, simulation: SimulatedTime, jpeg: bytes
) -> None:
    image = compressed_image(jpeg, simulation.step())
    peer.frame(image, FRONT, TOKENS)
    for camera in ("front", ""):
        peer.publish(FRONT, image)
        answer = peer.ground(["red cup"], camera=camera)
        assert answer.success, answer.message
        assert answer.result.header.stamp == image.header.stamp
    silent = peer.ground(["red cup"], camera="wrist")
    assert not silent.success
    assert "/wrist/image/compressed" in silent.message
