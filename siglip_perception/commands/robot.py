"""`siglip-perception robot`: a simulated arm that does what it is told by what the node sees.

Simulator, node and policy are separate processes that communicate over ROS 2. This one starts
them, starts each again that ends or hangs in mid-run, and shows what came of it; it does not
import ROS.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from siglip_perception.commands.arguments import (
    add_threshold_argument,
    input_file,
    number,
    output_folder,
)
from siglip_perception.commands.demo.processes import DemoError, Processes, environment
from siglip_perception.config import CALIBRATED
from siglip_perception.util import requirements, ros

if TYPE_CHECKING:
    from siglip_perception.robot.episodes import Order
    from siglip_perception.robot.results import Loss, Plan

STALL_S = 300.0
"""Silence of the simulator, in seconds, after which it is taken to hang."""
MAX_LOSSES = 3
"""Episodes that may be lost one after another: more mean that it does not work here at all."""
DEFAULT_EPISODES = 12
LOG_TAIL = 15
_CLOCK = ("--ros-args", "-p", "use_sim_time:=true")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception robot`."""
    parser.add_argument(
        "--out",
        type=output_folder,
        default=Path("out", "robot"),
        metavar="FOLDER",
        help="where film, results and logs go (default: %(default)s)",
    )
    parser.add_argument("--model", default="tabletop", help="packaged model, or a folder")
    parser.add_argument(
        "--episodes",
        type=number(int, 1),
        metavar="N",
        help=f"default: {DEFAULT_EPISODES}, or one for each instruction",
    )
    parser.add_argument(
        "--seed", type=number(int, 0), default=1, metavar="N", help="of scenes and orders"
    )
    parser.add_argument(
        "--instruction",
        action="append",
        default=[],
        metavar="TEXT",
        help='an order of your own, such as "put the red cup on the plate"; may be repeated',
    )
    parser.add_argument(
        "--instructions", type=input_file, metavar="FILE", help="the same from a file, one a line"
    )
    parser.add_argument(
        "--perception",
        choices=("node", "truth"),
        default="node",
        help="truth: the simulator's own positions in the node's place: what the arm can do",
    )
    add_threshold_argument(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in FOLDER that was broken off, instead of beginning anew",
    )


def run(args: argparse.Namespace) -> int:
    """Run the episodes and print the table; 0 if all were run, 130 after Ctrl-C."""
    from siglip_perception.robot.orders import read_order, read_orders

    orders = [read_order(text) for text in args.instruction]
    if args.instructions is not None:
        orders += read_orders(args.instructions)
    ros.require("The robot")
    requirements.require("The robot", "mujoco")
    from siglip_perception.robot.results import Plan, read_results

    count = args.episodes or len(orders) or DEFAULT_EPISODES
    texts = tuple(item.instruction for item in orders)
    plan = Plan(args.seed, args.model, args.perception, texts, args.threshold)
    out: Path = args.out
    _prepare(out, args.resume)
    outcomes, _ = read_results(out, plan)
    remaining = count - sum(outcome.number < count for outcome in outcomes)
    if args.resume:
        print(f"{count - remaining} of {count} episodes are there already, in {out}", flush=True)
    signal.signal(signal.SIGTERM, _interrupt)
    code = 0
    if remaining:
        try:
            _act(out, plan, orders, count)
        except KeyboardInterrupt:
            code = 130
        finally:
            _show(out, plan)
    else:
        _show(out, plan)
    if code:
        print("Interrupted; the same command with --resume goes on from here.", flush=True)
    return code


def _prepare(out: Path, resume: bool) -> None:
    """Make the folder, empty of an earlier run's results unless that is to go on."""
    from siglip_perception.robot.film import FILM
    from siglip_perception.robot.results import LATENCIES, RESULTS

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / FILM).unlink(missing_ok=True)
        if not resume:
            for path in (out / RESULTS, out / LATENCIES, *out.glob("clips/*.mp4")):
                path.unlink(missing_ok=True)
        with (out / "node.log").open("w", encoding="utf-8"):
            pass
    except OSError as error:
        raise DemoError(
            f"Cannot write to {out} ({error.strerror}): name another --out."
        ) from error


def _act(out: Path, plan: Plan, orders: Sequence[Order], count: int) -> None:
    """Run the processes until the simulator has run all its episodes."""
    variables = environment(out / "ros_log")
    # Mesa's software renderer would take every core from the node.
    variables.setdefault("LP_NUM_THREADS", "1")
    if not os.environ.get("DISPLAY"):
        variables.setdefault("MUJOCO_GL", "egl")
    with (
        (out / "node.log").open("a", encoding="utf-8") as log,
        Processes(variables) as processes,
    ):
        print("Starting node, policy and simulator, which communicate over ROS 2", flush=True)
        _Supervisor(processes, out, plan, orders, count, log).run()


def _show(out: Path, plan: Plan) -> None:
    """Print the table of what there is, and make one film of the clips."""
    from siglip_perception.robot.film import FILM, join_clips
    from siglip_perception.robot.results import RESULTS, read_results, report, table

    outcomes, latencies = read_results(out, plan)
    if not outcomes:
        return
    print("\n" + "\n".join(table(report(plan, outcomes, latencies))) + "\n")
    join_clips(out)
    print(f"Film: {out / FILM}; results: {out / RESULTS}; log: {out / 'node.log'}", flush=True)


@dataclass(frozen=True)
class _Event:
    """A line of a process, or its end: None."""

    process: str
    line: str | None


class _Supervisor:
    """Starts the processes, and starts again those that end or hang once the robot has acted."""

    def __init__(
        self,
        processes: Processes,
        out: Path,
        plan: Plan,
        orders: Sequence[Order],
        count: int,
        log: IO[str],
    ) -> None:
        self._processes = processes
        self._out, self._plan, self._orders, self._count = out, plan, orders, count
        self._log = log
        self._events: queue.Queue[_Event] = queue.Queue()
        self._started_at: dict[str, float] = {}
        self._last_line: dict[str, str] = {}
        self._ended: list[str] = []
        """Processes to start again after the running episode, in which the arm has to stand."""
        self._episode: int | None = None
        """Episode that is running."""
        self._begun_at: float | None = None
        """Monotonic time at which the latest episode began; None: none ever has."""
        self._losses = 0

    def run(self) -> None:
        """Return once the simulator has run all episodes; DemoError if that cannot be."""
        for name in ("perception", "policy", "simulator"):
            self._start(name)
        while True:
            try:
                event = self._events.get(timeout=STALL_S)
            except queue.Empty:
                self._processes.send("simulator", signal.SIGKILL)
                continue
            if event.line is not None:
                self._read(event.process, event.line)
            elif self._end(event.process):
                return

    def _start(self, name: str) -> None:
        plan = self._plan
        module, arguments = {
            "perception": self._perception(),
            "policy": ("node.robot_policy", _CLOCK),
            "simulator": (
                "node.robot_simulator",
                (
                    str(self._out),
                    *("--episodes", str(self._count), "--seed", str(plan.seed)),
                    *("--model", plan.model, "--perception", plan.perception),
                    *(() if plan.threshold is None else ("--threshold", str(plan.threshold))),
                    *(word for text in plan.orders for word in ("--instruction", text)),
                ),
            ),
        }[name]
        self._started_at[name] = time.monotonic()
        self._processes.start(
            name,
            lambda line: self._events.put(_Event(name, line)),
            module,
            *arguments,
            on_end=partial(self._events.put, _Event(name, None)),
        )

    def _perception(self) -> tuple[str, tuple[str, ...]]:
        plan = self._plan
        if plan.perception == "truth":
            return "node.robot_truth", _CLOCK
        parameters = (
            f"model:={plan.model}",
            "depth.enabled:=true",
            "publish_mask:=true",
            "use_sim_time:=true",
            f"threshold:={CALIBRATED if plan.threshold is None else plan.threshold}",
        )
        options = (word for parameter in parameters for word in ("-p", parameter))
        return "node.perception_node", ("--ros-args", *options)

    def _read(self, name: str, line: str) -> None:
        """Take a line: the simulator's tell of episodes, the others' are for people."""
        self._last_line[name] = line
        if name == "perception":
            print(line, file=self._log, flush=True)
            return
        word, _, rest = line.partition(" ")
        if name == "simulator" and word in ("begin", "end"):
            episode, _, text = rest.partition(" ")
            print(f"  {int(episode) + 1:>3} of {self._count} {text}", flush=True)
            if word == "begin":
                self._episode, self._begun_at = int(episode), time.monotonic()
            else:
                self._finish(text)
            return
        print(f"  {name:<9} | {line}", flush=True)

    def _finish(self, verdict: str) -> None:
        """Note the end of an episode; end a process that is there but silent."""
        self._episode = None
        while self._ended:
            self._start(self._ended.pop())
        if not verdict.startswith("lost"):
            self._losses = 0
            return
        self._count_loss(f"an episode was {verdict}")
        name = verdict.partition("(")[2].rstrip(")")
        if name != "simulator" and self._started_at[name] < (self._begun_at or 0.0):
            # It was there before the episode, and has not been started since: it hangs.
            self._processes.send(name, signal.SIGKILL)

    def _end(self, name: str) -> bool:
        """Start a process that has ended again; True if it was the simulator's own end."""
        code = self._processes.wait(name)
        if name == "simulator" and code == 0:
            return True
        sentence = self._last_line.get(name, "")
        if self._begun_at is None or (name == "simulator" and code == 2):
            # Nothing has worked yet, or it cannot: starting it again would not help.
            self._fail(name, code, sentence)
        print(f"  the {name} ended with exit code {code}; it will be started again", flush=True)
        if name == "simulator":
            if self._episode is not None:
                self._record_loss(self._episode, "simulator")
            self._start(name)
            return False
        self._processes.send(
            "simulator", signal.SIGUSR1 if name == "perception" else signal.SIGUSR2
        )
        if self._episode is None:
            self._count_loss(f"the {name} ended between two episodes")
            self._start(name)
        else:
            self._ended.append(name)
        return False

    def _fail(self, name: str, code: int, sentence: str) -> None:
        if name == "simulator" and code == 2:
            raise DemoError(sentence)
        if name == "perception":
            lines = Path(self._log.name).read_text(encoding="utf-8").splitlines()
            print("\n".join(lines[-LOG_TAIL:]))
        raise DemoError(
            f"The {name} ended before the first episode, with exit code {code}; see"
            f" {self._log.name}."
        )

    def _record_loss(self, episode_number: int, loss: Loss) -> None:
        """Write the episode in which the simulator itself ended, which cannot."""
        from siglip_perception.robot.episodes import sample_episode
        from siglip_perception.robot.results import lost_outcome, read_results, write_results

        outcomes, latencies = read_results(self._out, self._plan)
        episode = sample_episode(episode_number, self._plan.seed, self._orders)
        outcome = lost_outcome(episode, loss)
        outcomes = sorted([*outcomes, outcome], key=lambda item: item.number)
        write_results(self._out, self._plan, outcomes, latencies)
        print(f"  {episode_number + 1:>3} of {self._count} {outcome.verdict}", flush=True)
        self._finish(outcome.verdict)

    def _count_loss(self, cause: str) -> None:
        self._losses += 1
        if self._losses > MAX_LOSSES:
            raise DemoError(
                f"{self._losses} failures in a row, the last: {cause}; see {self._log.name}, and"
                " go on with --resume."
            )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
