"""The main job, seen to work: a sample bag through the real node, with a policy node beside it.

Node, policy and player are processes of their own that talk over ROS 2; this one only starts
them, listens, and shows what came out. It imports no ROS.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from siglip_perception.commands.demo.processes import DemoError, Processes, environment
from siglip_perception.commands.demo.recording import RATE_HZ, write_recording
from siglip_perception.commands.demo.report import Results, table, write_animation, write_sheet
from siglip_perception.util import ros

# The player has its own limits for each step; this one is above their sum.
LONGEST_S = 300.0
DEFAULT_SEED = 1
LOG_TAIL = 15
# In a folder that a demo wrote, and may clear.
_MARKER = ".siglip_perception_demo"
_MADE_HERE = ("bag", "frames", "ros_log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out", "demo"),
        metavar="FOLDER",
        help="where bag, pictures and logs go (default: %(default)s)",
    )
    parser.add_argument("--model", default="tabletop", help="packaged model, or a folder")
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="of the generated scenes (default: 1)"
    )
    parser.add_argument(
        "--rate", type=int, default=RATE_HZ, help="camera's frames a second (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when all frames are accounted for and every process ended well.

    Raises RosError, before any work, where ROS 2 is missing; DemoError or BagError where it could
    not run to its end.
    """
    rate: int = arguments.rate
    if not 1 <= rate <= 60:
        raise DemoError(
            f"The demo's camera cannot send {rate} frames a second: --rate is 1 to 60."
        )
    ros.require("The demo")
    signal.signal(signal.SIGTERM, _interrupt)
    out: Path = arguments.out
    _clear(out)
    print(f"Drawing a sample bag, {out / 'bag'}: some seconds", flush=True)
    recording = write_recording(out / "bag", arguments.seed, rate)
    print(f"  {recording.frames} camera images at {rate} Hz, and instructions", flush=True)
    raw, problems = _play(out, arguments.model)
    results = Results(raw, recording.truth)
    problems += results.problems()
    print("\n" + "\n".join(table(results)) + "\n", flush=True)
    if results.raw["pictures"]:
        write_sheet(results, out / "frames", out / "sheet.png")
        write_animation(results, out / "frames", out / "overlay.webp", rate)
        print(f"Pictures: {out / 'sheet.png'}, moving: {out / 'overlay.webp'} (open in a browser)")
    else:
        problems.append("No overlay pictures arrived.")
    print(f"Logs: {out / 'node.log'}")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def _clear(out: Path) -> None:
    """Make the folder, without what an earlier demo left in it; touch no other files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / _MARKER).is_file():
            raise DemoError(
                f"{out} holds files that no demo wrote: name an empty or a new folder with --out."
            )
        (out / _MARKER).touch()
        for name in _MADE_HERE:
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("results.json", "sheet.png", "overlay.webp"):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(
            f"Cannot write to {out} ({error.strerror}): name another --out."
        ) from error


def _play(out: Path, model: str) -> tuple[dict[str, Any], list[str]]:
    """What the player wrote down, and what was wrong with how the processes ended."""
    parameters = ("image_transport:=compressed", f"model:={model}")
    ros = [word for parameter in parameters for word in ("-p", parameter)]
    problems = []
    with (
        (out / "node.log").open("w", encoding="utf-8") as log,
        Processes(environment(out / "ros_log")) as processes,
    ):
        print("Starting node, policy and player, which talk over ROS 2", flush=True)
        node = partial(print, file=log, flush=True)
        processes.start("node", node, "node.perception_node", "--ros-args", *ros)
        processes.start("policy", partial(_say, "policy"), "node.example_policy")
        player = (str(out / "bag"), str(out))
        processes.start("player", partial(_say, "player"), "node.bag_player", *player)
        ended = processes.first_to_end(LONGEST_S)
        code = processes.wait(ended)
        if ended != "player" or code:
            print("\n".join(Path(log.name).read_text().splitlines()[-LOG_TAIL:]))
            raise DemoError(f"The {ended} ended early, with exit code {code}; see {log.name}.")
        for name in ("policy", "node"):
            processes.interrupt(name)
            if code := processes.wait(name):
                problems.append(f"The {name} ended with exit code {code} on SIGINT.")
        return json.loads((out / "results.json").read_text()), problems


def _say(name: str, line: str) -> None:
    print(f"  {name:<6} | {line}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
