"""What a person waits for at the page of `siglip-perception view`, in a headless Chromium.

    python bench/viewing.py [--seconds 10] [--rounds 3] [--without-node]

On the sample recording, 640 x 480 at 20 Hz, with the page, its server and the browser on this
machine: seconds from the command to the first picture; frames a second in the page while the
recording plays; milliseconds from Enter in the instruction's box to the first picture with the new
answer. Then, beside a running node (source .venv/ros.sh before), the pictures that the node
answers with the page open, of those that it answers without, in turn: of a camera of 20 Hz, and of
one that sends more than the node can take. There the page is once Chromium's, and once a client
that takes every frame and draws nothing, as a browser on another machine costs this one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from chromium import Tab, browser  # noqa: E402
from pages import Page  # noqa: E402

from bench import message_to_message  # noqa: E402
from siglip_perception.commands.demo.recording import write_recording  # noqa: E402
from siglip_perception.util import cpu  # noqa: E402

WIDTH, HEIGHT = 1280, 860
# More than a node on this machine can take, pictures a second.
_FLOOD_HZ = 100.0
_LIMIT_S = 120.0
_INSTRUCTIONS = ("red cup", "blue plate", "초록 컵을 집어라", "yellow car", "하얀 접시")
_COUNT = """
window.observer?.disconnect();
window.shown = 0;
window.observer = new MutationObserver(() => { window.shown += 1; });
window.observer.observe(document.body, {attributes: true, attributeFilter: ["data-frame"]});
"""
# Resolves with the milliseconds from Enter to the frame that has the new phrases.
_ASK = """
new Promise((done) => {
  const phrases = () => [...document.querySelectorAll('#presence .phrase')]
    .map((e) => e.textContent).join();
  const before = phrases();
  const box = document.getElementById('instruction');
  box.value = TEXT;
  const start = performance.now();
  box.form.requestSubmit();
  const look = () => phrases() === before
    ? requestAnimationFrame(look) : done(performance.now() - start);
  look();
})
"""


class Server:
    """`siglip-perception view` in a process of its own; address: the page's."""

    def __init__(self, *arguments: str, variables: dict[str, str] | None = None) -> None:
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [*_command("view"), *arguments, "--port", "0", "--no-browser"],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        self.address = self._address()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put("")

    def _address(self) -> str:
        while line := self._lines.get(timeout=_LIMIT_S):
            word = next((word for word in line.split() if word.startswith("http://")), None)
            if word is not None:
                return word.rstrip(".,")
        raise SystemExit("the view ended before it told its address")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "siglip_perception.commands.main", name]


@contextlib.contextmanager
def _server(*arguments: str, variables: dict[str, str] | None = None) -> Iterator[Server]:
    server = Server(*arguments, variables=variables)
    try:
        yield server
    finally:
        server.end()


def look_at_a_recording(tab: Tab, bag: Path, seconds: float, rounds: int) -> list[str]:
    """Measure the page on a recording; return lines about it."""
    first = []
    for _ in range(rounds):
        with _server(str(bag), "--paused") as server:
            tab.open(server.address, WIDTH, HEIGHT)
            tab.wait("document.body.dataset.frame")
            first.append(time.monotonic() - server.started)
            tab.open("about:blank", WIDTH, HEIGHT)
    lines = [f"from the command to the first picture: {_spread(first)} s"]
    with _server(str(bag), "--paused") as server:
        tab.open(server.address, WIDTH, HEIGHT)
        tab.wait("document.querySelectorAll('#presence li').length > 0")
        rates = []
        for _ in range(rounds):
            rates.append(_rate(tab, seconds))
        lines.append(f"frames a second in the page, of a recording of 20: {_spread(rates)}")
        _play(tab)
        waits = []
        for text in _INSTRUCTIONS * rounds:
            waits.append(float(tab.run(_ASK.replace("TEXT", json.dumps(text)))))
        lines.append(
            f"from Enter to the answer in the page while it plays, {len(waits)} instructions:"
            f" median {statistics.median(waits):.0f} ms, longest {max(waits):.0f} ms"
        )
    return lines


def _play(tab: Tab) -> None:
    """Play the recording from its start."""
    tab.run("document.getElementById('scrub').value = 0")
    tab.run("document.getElementById('scrub').dispatchEvent(new Event('input'))")
    tab.wait("document.getElementById('place').textContent.startsWith('1 /')")
    if tab.run("document.getElementById('play').getAttribute('aria-pressed')") != "true":
        tab.click("#play")


def _rate(tab: Tab, seconds: float) -> float:
    _play(tab)
    tab.wait("!document.getElementById('place').textContent.startsWith('1 /')")
    tab.run(_COUNT)
    start = tab.run("performance.now()")
    time.sleep(seconds)
    shown, end = tab.run("[window.shown, performance.now()]")
    rate: float = shown * 1000 / (end - start)
    return rate


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.1f}, {min(values):.1f} to {max(values):.1f}"


class Answers:
    """A node, its camera and its subscriber, over ROS 2, at a rate."""

    def __init__(self, hz: float, folder: Path, stack: contextlib.ExitStack) -> None:
        setting = message_to_message.Setting(outputs="objects")
        self.variables = message_to_message.variables_of(setting, folder)
        roles = [
            *(sys.executable, str(ROOT / "bench" / "message_to_message.py")),
            *("--setting", json.dumps(vars(setting)), "--role"),
        ]
        frames = str(10**6)
        commands = {
            "node": message_to_message.node_command(setting, "tabletop"),
            "subscriber": [*roles, "subscriber", str(folder / "answers.json")],
            "cameras": [*roles, "cameras", "--frames", frames, "--hz", str(hz)],
        }
        self._processes = {}
        for name, command in commands.items():
            process = message_to_message.Process(command, self.variables, folder / f"{name}.log")
            stack.callback(process.end)
            self._processes[name] = process
        self._until(lambda: self.count() > 3 * hz)

    def count(self) -> int:
        return len(self._processes["subscriber"].said("answer"))

    def _until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + _LIMIT_S
        while not done():
            for name, process in self._processes.items():
                if process.popen.poll() is not None:
                    raise SystemExit(f"the {name} ended: {process.last_line()}")
            if time.monotonic() > end:
                raise SystemExit("the node does not answer")
            time.sleep(0.1)

    def rate(self, seconds: float) -> float:
        """Count the answers of some seconds: answers a second."""
        before, start = self.count(), time.monotonic()
        time.sleep(seconds)
        return (self.count() - before) / (time.monotonic() - start)


def look_at_a_node(tab: Tab, hz: float, seconds: float, rounds: int, folder: Path) -> list[str]:
    """Measure what an open page costs the node; return lines about it."""
    rates: dict[str, list[float]] = {"no page": [], "a client": [], "Chromium": []}
    with contextlib.ExitStack() as stack:
        folder.mkdir()
        answers = Answers(hz, folder, stack)
        server = stack.enter_context(_server(variables=answers.variables))
        port = int(server.address.rstrip("/").rpartition(":")[2])
        for _ in range(rounds):
            rates["no page"].append(answers.rate(seconds))
            with _client(port) as taken:
                taken.wait()
                rates["a client"].append(answers.rate(seconds))
            tab.open(server.address, WIDTH, HEIGHT)
            tab.wait("document.body.dataset.frame")
            rates["Chromium"].append(answers.rate(seconds))
            tab.open("about:blank", WIDTH, HEIGHT)
    lines = [f"node beside a camera of {hz:g} Hz, answers a second:"]
    for who, values in rates.items():
        ratios = [value / bare for value, bare in zip(values, rates["no page"], strict=True)]
        lines.append(
            f"  {who}: {_spread(values)}; {statistics.median(ratios):.1%} of those without"
        )
    return lines


@contextlib.contextmanager
def _client(port: int) -> Iterator[threading.Event]:
    """Take every frame in a thread; the event tells that the first has come."""
    taken, closing = threading.Event(), threading.Event()

    def take(page: Page) -> bool:
        if page.head:
            taken.set()
        return closing.is_set()

    def run() -> None:
        with Page(port) as page:
            page.wait(take)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield taken
    finally:
        closing.set()
        thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each count (at most 13)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-node", action="store_true", help="needs no ROS")
    args = parser.parse_args()
    identity: dict[str, Any] = cpu.identity()
    print(f"{identity['cpu']}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="viewing.") as name, browser(Path(name)) as tab:
        bag = Path(name) / "recording"
        write_recording(bag, 7)
        for line in look_at_a_recording(tab, bag, args.seconds, args.rounds):
            print(line, flush=True)
        if args.without_node:
            return
        for hz in (20.0, _FLOOD_HZ):
            folder = Path(name) / f"node{hz:g}"
            for line in look_at_a_node(tab, hz, args.seconds, args.rounds, folder):
                print(line, flush=True)


if __name__ == "__main__":
    main()
