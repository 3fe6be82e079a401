"""Latency of the node's answers while a publisher floods it, side by side in one run.

    source .venv/ros.sh && python bench/flood.py [--seconds 10] [--rounds 5] [--hz 1000]

A camera sends pictures of 640 x 480 at 20 Hz, and a process takes turns: it is quiet, it sends
instructions at 1 kHz to a topic that nobody hears, which costs this machine's cores as much, and
it sends them to the node. Prints p50, p99 and the longest latency from message to message of each
turn, and the last turn's as ratios. Then the node is killed and started anew: seconds from the
kill to the third answer.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import message_to_message as messages  # noqa: E402
from siglip_perception.util import cpu  # noqa: E402

TURNS = ("quiet", "flood elsewhere", "flood")
_TEXTS = ("pick up the red cup", "put the red cup on the blue plate")
_LIMIT_S = 120.0
_EXTRA_S = 2.0
"""Left out at the start of each turn, in seconds: the turn before may still be answered."""


def be_the_flood(seconds: float, rounds: int, hz: float) -> None:
    """The flooding process: takes its turns, and says when each began."""
    import rclpy
    from std_msgs.msg import String

    rclpy.init()
    node = rclpy.create_node("flood")
    publishers: dict[str, Any] = {
        "flood elsewhere": node.create_publisher(String, "elsewhere", 10),
        "flood": node.create_publisher(String, "instruction", 10),
    }
    while publishers["flood"].get_subscription_count() == 0:
        rclpy.spin_once(node, timeout_sec=0.1)
    for _ in range(rounds):
        for turn in TURNS:
            print(f"turn {time.time_ns()} {turn}", flush=True)
            due = time.monotonic()
            end = due + seconds
            number = 0
            while due < end:
                if turn in publishers:
                    publishers[turn].publish(String(data=_TEXTS[number % 2]))
                    number += 1
                due += 1 / hz if turn in publishers else seconds
                time.sleep(max(0.0, due - time.monotonic()))
    print(f"turn {time.time_ns()} end", flush=True)


class Robot:
    """A camera, a subscriber and the node, in processes of their own."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._setting = messages.Setting()
        self._folder, self._stack = folder, stack
        self._variables = messages.variables_of(self._setting, folder)
        self.answers = folder / "answers.json"
        setting = json.dumps(vars(self._setting))
        roles = [sys.executable, messages.__file__, "--setting", setting, "--role"]
        self.node = self._start_node()
        self.subscriber = self.start("subscriber", [*roles, "subscriber", str(self.answers)])
        self.start("cameras", [*roles, "cameras", "--frames", str(10**6), "--hz", "20"])
        self.wait_for(20)

    def start(self, name: str, command: list[str]) -> messages.Process:
        process = messages.Process(command, self._variables, self._folder / f"{name}.log")
        self._stack.callback(process.end)
        return process

    def _start_node(self) -> messages.Process:
        return self.start("node", messages.node_command(self._setting, "tabletop"))

    def count(self) -> int:
        return len(self.subscriber.said("answer"))

    def wait_for(self, count: int) -> None:
        """Wait until so many pictures have been answered."""
        end = time.monotonic() + _LIMIT_S
        while self.count() < count:
            if time.monotonic() > end:
                raise SystemExit(f"the node does not answer: {self.node.last_line()}")
            time.sleep(0.01)

    def kill_and_start(self) -> float:
        """Kill the node and start it at once; seconds from the kill to the third answer."""
        os.kill(self.node.popen.pid, signal.SIGKILL)
        start = time.monotonic()
        self.node.popen.wait()
        before = self.count()
        self.node = self._start_node()
        self.wait_for(before + 3)
        return time.monotonic() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hz", type=float, default=1000.0, help="instructions a second")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--be-the-flood", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be_the_flood:
        be_the_flood(args.seconds, args.rounds, args.hz)
        return
    identity: dict[str, Any] = cpu.identity()
    print(f"{identity['cpu']}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="flood.") as name, contextlib.ExitStack() as stack:
        robot = Robot(Path(name), stack)
        words = [f"--seconds={args.seconds}", f"--rounds={args.rounds}", f"--hz={args.hz}"]
        flood = robot.start("flood", [sys.executable, __file__, *words, "--be-the-flood"])
        while flood.popen.poll() is None:
            time.sleep(0.2)
        turns = [line.split(maxsplit=2)[1:] for line in flood.said("turn")]
        kills = [robot.kill_and_start() for _ in range(args.kills)]
        robot.subscriber.end()
        answers = [(stamp, latency) for _, stamp, latency in json.loads(robot.answers.read_text())]
    latencies: dict[str, list[float]] = {turn: [] for turn in TURNS}
    for (start, turn), (stop, _) in itertools.pairwise(turns):
        first = int(start) + _EXTRA_S * 1e9
        latencies[turn] += [took for stamp, took in answers if first <= stamp < int(stop)]
    for turn, values in latencies.items():
        figures = [messages.percentile(values, share) for share in (0.5, 0.99, 1.0)]
        print(
            f"{turn:<16} {len(values)} answers: p50 {figures[0]:.1f}, p99 {figures[1]:.1f},"
            f" longest {figures[2]:.1f} ms"
        )
    for share, label in ((0.5, "p50"), (0.99, "p99")):
        pair = [messages.percentile(latencies[turn], share) for turn in TURNS]
        print(
            f"{label} of the flood: {pair[2] / pair[1]:.2f} times that of the flood elsewhere,"
            f" {pair[2] / pair[0]:.2f} times that without"
        )
    if kills:
        text = ", ".join(f"{value:.1f}" for value in kills)
        print(f"from kill -9 to the third answer: {text} s")


if __name__ == "__main__":
    main()
