"""Fixtures of the tests of a running node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_random_model
from peer import Peer, Start, peer_of
from watching import Process, isolated, running


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    folder = tmp_path_factory.mktemp("random_model")
    write_random_model(folder)
    return folder


@pytest.fixture(scope="session")
def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [120, 160, 3] RGB: small enough for one datagram."""
    down, across = np.mgrid[0:120, 0:160]
    return np.stack([across, 2 * down, (across * down) % 256], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def start(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts the node's process with these parameters, and a peer of it."""

    @contextmanager
    def run_node(**parameters: Any) -> Iterator[tuple[Process, Peer]]:
        folder = tmp_path_factory.mktemp("node")
        environment = isolated(folder)
        command = [sys.executable, "-m", "siglip_perception.node.perception_node", "--ros-args"]
        for name, value in {"model": model_folder, **parameters}.items():
            value_text = str(value).lower() if isinstance(value, bool) else value
            command += ["-p", f"{name.replace('__', '.')}:={value_text}"]
        with (
            peer_of(environment) as peer,
            running(command, environment, Path(__file__).parents[2]) as process,
        ):
            yield process, peer

    return run_node
