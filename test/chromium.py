"""A headless Chromium, driven over its DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 60.0
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--mute-audio", "about:blank"),
)


def executable() -> str | None:
    """Path of the browser; None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of the browser. complaints: errors of the console and of scripts, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=TIMEOUT_S))
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Value of an expression once it is true; it fails after TIMEOUT_S."""
        end = time.monotonic() + TIMEOUT_S
        # The page looks at each of its frames, so that nothing here sleeps.
        look = f"new Promise(r => requestAnimationFrame(() => r(({script}) || null)))"
        while time.monotonic() < end:
            value = self.run(look)
            if value:
                return value
        text = self.run("document.body.innerText")
        raise AssertionError(f"never true: {script}\n{text}\n{self.complaints}")

    def open(self, address: str, width: int, height: int, scheme: str = "light") -> None:
        """Load a page in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Page.navigate", url=address)

    def type(self, selector: str, text: str) -> None:
        """Focus a field, replace its text as a person would, and press Enter."""
        self.run(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({selector!r}))")
        self.call("Input.insertText", text=text)
        self.key("Enter", 13)

    def key(self, key: str, code: int, text: str = "") -> None:
        text = text or ("\r" if key == "Enter" else "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click an element at a place in shares of its box."""
        script = (
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]; })"
            f"(document.querySelector({selector!r}))"
        )
        left, top, width, height = self.run(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=left + x * width,
                y=top + y * height,
                button="left",
                clickCount=1,
            )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A browser with a fresh profile in the folder."""
    program = executable()
    assert program is not None
    profile = folder / "profile"
    process = subprocess.Popen(
        [program, f"--user-data-dir={profile}", *_FLAGS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        address = next(
            line.rpartition(" ")[2].strip()
            for line in process.stderr
            if line.startswith("DevTools listening on ")
        )
        with connect(address, max_size=None) as root:
            root.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets: list[dict[str, Any]] = []
            while not targets:
                message = json.loads(root.recv(timeout=TIMEOUT_S))
                targets = [
                    target
                    for target in message.get("result", {}).get("targetInfos", [])
                    if target["type"] == "page"
                ]
            page = address.partition("/devtools/")[0] + f"/devtools/page/{targets[0]['targetId']}"
            with connect(page, max_size=None) as socket:
                yield Tab(socket)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
