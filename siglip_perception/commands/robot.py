"""`siglip-perception robot`: a simulated arm that does what it is told by what the node sees.

Simulator, node and policy are separate processes that communicate over ROS 2. This one starts them
and shows what came of it; it does not import ROS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from functools import partial
from pathlib import Path
from types import FrameType

from siglip_perception.commands.arguments import number, output_folder
from siglip_perception.commands.demo.processes import DemoError, Processes, environment
from siglip_perception.util import requirements, ros

SECONDS_AN_EPISODE = 45.0
START_S = 180.0
LOG_TAIL = 15


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
        "--episodes", type=number(int, 1), default=12, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=number(int, 0), default=1, metavar="N", help="of scenes and orders"
    )


def run(args: argparse.Namespace) -> int:
    """Run the episodes and print the table; 0 unless a process failed."""
    ros.require("The robot")
    requirements.require("The robot", "mujoco")
    from siglip_perception.robot.results import table

    signal.signal(signal.SIGTERM, _interrupt)
    out: Path = args.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "film.mp4"):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(
            f"Cannot write to {out} ({error.strerror}): name another --out."
        ) from error
    parameters = (
        f"model:={args.model}",
        "depth.enabled:=true",
        "publish_mask:=true",
        "use_sim_time:=true",
    )
    options = [word for parameter in parameters for word in ("-p", parameter)]
    variables = environment(out / "ros_log")
    # Mesa's software renderer would take every core from the node.
    variables.setdefault("LP_NUM_THREADS", "1")
    if not os.environ.get("DISPLAY"):
        variables.setdefault("MUJOCO_GL", "egl")
    with (
        (out / "node.log").open("w", encoding="utf-8") as log,
        Processes(variables) as processes,
    ):
        print("Starting node, policy and simulator, which communicate over ROS 2", flush=True)
        processes.start(
            "node",
            partial(print, file=log, flush=True),
            "node.perception_node",
            "--ros-args",
            *options,
        )
        clock = ("--ros-args", "-p", "use_sim_time:=true")
        processes.start("policy", partial(_say, "policy"), "node.robot_policy", *clock)
        simulation = (str(out), "--episodes", str(args.episodes), "--seed", str(args.seed))
        processes.start("simulator", partial(_say, "robot"), "node.robot_simulator", *simulation)
        name = processes.first_to_end(START_S + args.episodes * SECONDS_AN_EPISODE)
        code = processes.wait(name)
        if name != "simulator" or code:
            print("\n".join(Path(log.name).read_text().splitlines()[-LOG_TAIL:]))
            raise DemoError(f"The {name} ended early, with exit code {code}; see {log.name}.")
    content = json.loads((out / "results.json").read_text())
    print("\n" + "\n".join(table(content)) + "\n")
    print(f"Film: {out / 'film.mp4'}; results: {out / 'results.json'}; log: {out / 'node.log'}")
    return 0


def _say(name: str, line: str) -> None:
    print(f"  {name:<6} | {line}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
