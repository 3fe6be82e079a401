"""A page's server in this process, and a page without a browser."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from websockets.sync.client import connect
from websockets.typing import Origin

from siglip_perception.pipeline import Pipeline
from siglip_perception.types import UInt8Array
from siglip_perception.view.engine import Engine, EngineOptions
from siglip_perception.view.server import ViewServer, listen
from siglip_perception.view.source import LiveSource, RecordedSource

TIMEOUT_S = 60.0


@contextmanager
def served(
    source: RecordedSource | LiveSource,
    load: Callable[[], Pipeline],
    options: EngineOptions,
    token: str = "",
) -> Iterator[int]:
    """The port of a server that looks at the source."""
    bound = listen("127.0.0.1", 0)
    started = threading.Event()
    server = ViewServer(lambda publish: Engine(source, load, options, publish), token)
    thread = threading.Thread(target=server.serve, args=(bound, started.set))
    thread.start()
    try:
        assert started.wait(TIMEOUT_S)
        yield bound.getsockname()[1]
    finally:
        server.stop()
        thread.join(TIMEOUT_S)
        bound.close()


class Page:
    """One open page. head: the newest frame's; blobs: name -> (facts, bytes); state: newest."""

    def __init__(self, port: int, *, origin: str | None = None, cookie: str = "") -> None:
        own = f"http://127.0.0.1:{port}"
        self._connection = connect(
            f"ws://127.0.0.1:{port}/stream",
            origin=Origin(own if origin is None else origin),
            additional_headers={"Cookie": cookie} if cookie else None,
            max_size=None,
            open_timeout=TIMEOUT_S,
        )
        self.head: dict[str, Any] = {}
        self.blobs: dict[str, tuple[dict[str, Any], bytes]] = {}
        self.state: dict[str, Any] = {}
        self.error = ""

    def __enter__(self) -> Page:
        self._socket = self._connection.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def ask(self, kind: str, **values: Any) -> None:
        self._socket.send(json.dumps({"type": kind, **values}))

    def send(self, data: str | bytes) -> None:
        self._socket.send(data)

    def wait(self, done: Callable[[Page], Any]) -> Any:
        """Take messages until `done` of the page is true; its value."""
        while not (value := done(self)):
            self._take(self._socket.recv(timeout=TIMEOUT_S))
        return value

    def picture(self) -> UInt8Array:
        """The newest frame's pixels, uint8 [H, W, 3] BGR."""
        data = np.frombuffer(self.blobs["picture"][1], np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, str):
            content = json.loads(message)
            if content["type"] == "state":
                self.state = content
            else:
                self.error = content["text"]
            return
        size = int.from_bytes(message[:4], "little")
        self.head = json.loads(message[4 : 4 + size])
        position = 4 + size
        for facts in self.head["blobs"]:
            self.blobs[facts["name"]] = facts, message[position : position + facts["size"]]
            position += facts["size"]
        assert position == len(message)
        self.ask("shown", frame=self.head["frame"])


def get(
    port: int, path: str, *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, names, response.read()
    finally:
        connection.close()
