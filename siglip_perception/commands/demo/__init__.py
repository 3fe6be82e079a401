"""`siglip-perception demo`: run the real node on a sample bag, with a policy node beside it.

Node, policy and player are separate processes that communicate over ROS 2. This one starts them,
reads their output and shows the results; it does not import ROS.
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

# Time limit of the whole demo, above the sum of the player's limits for each step.
TIMEOUT_S = 300.0
DEFAULT_SEED = 1
LOG_TAIL = 15
# Marks a folder that a demo wrote and may clear.
_MARKER = ".siglip_perception_demo"
_OUTPUT_FOLDERS = ("bag", "frames", "ros_log")


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
        "--seed", type=int, default=DEFAULT_SEED, help="seed of the scenes (default: 1)"
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=RATE_HZ,
        help="camera's frame rate in Hz (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if every frame is accounted for and every process ended well.

    Raises RosError, before any work, if ROS 2 is missing, and DemoError or BagError if the demo
    cannot run to its end.
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
    print(f"Drawing a sample bag, {out / 'bag'}: a few seconds", flush=True)
    recording = write_recording(out / "bag", arguments.seed, rate)
    print(f"  {recording.frames} camera images at {rate} Hz, and instructions", flush=True)
    raw, problems = _play(out, arguments.model)
    results = Results(raw, recording.truth)
    problems += results.problems()
    print("\n" + "\n".join(table(results)) + "\n", flush=True)
    if results.raw["pictures"]:
        write_sheet(results, out / "frames", out / "sheet.png")
        write_animation(results, out / "frames", out / "overlay.webp", rate)
        print(f"Pictures: {out / 'sheet.png'}; animation, for a browser: {out / 'overlay.webp'}")
    else:
        problems.append("No overlay pictures arrived.")
    print(f"Logs: {out / 'node.log'}")
    print("A simulated arm that acts on what the node sees: make robot")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def _clear(out: Path) -> None:
    """Create the folder, or remove an earlier demo's files from it; touch no other files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / _MARKER).is_file():
            raise DemoError(
                f"{out} has files that no demo wrote: name an empty or a new folder with --out."
            )
        (out / _MARKER).touch()
        for name in _OUTPUT_FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("results.json", "sheet.png", "overlay.webp"):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(
            f"Cannot write to {out} ({error.strerror}): name another --out."
        ) from error


def _play(out: Path, model: str) -> tuple[dict[str, Any], list[str]]:
    """Run the processes; return the player's results and sentences on ends that went wrong."""
    parameters = ("image_transport:=compressed", f"model:={model}")
    ros = [word for parameter in parameters for word in ("-p", parameter)]
    problems = []
    with (
        (out / "node.log").open("w", encoding="utf-8") as log,
        Processes(environment(out / "ros_log")) as processes,
    ):
        print("Starting node, policy and player, which communicate over ROS 2", flush=True)
        node = partial(print, file=log, flush=True)
        processes.start("node", node, "node.perception_node", "--ros-args", *ros)
        processes.start("policy", partial(_say, "policy"), "node.example_policy")
        player = (str(out / "bag"), str(out))
        before: dict[str, float] = {}

        def say(line: str) -> None:
            # The first line says that the node is active: until here all have loaded.
            before.update({} if before else processes.processor_s())
            _say("player", line)

        processes.start("player", say, "node.bag_player", *player)
        name = processes.first_to_end(TIMEOUT_S)
        after = processes.processor_s()
        code = processes.wait(name)
        if name != "player" or code:
            print("\n".join(Path(log.name).read_text().splitlines()[-LOG_TAIL:]))
            raise DemoError(f"The {name} ended early, with exit code {code}; see {log.name}.")
        for name in ("policy", "node"):
            processes.interrupt(name)
            if code := processes.wait(name):
                problems.append(f"The {name} ended with exit code {code} on SIGINT.")
        results = json.loads((out / "results.json").read_text())
        spent = {name: after[name] - before[name] for name in after}
        return results | {"processor_s": spent}, problems


def _say(name: str, line: str) -> None:
    print(f"  {name:<6} | {line}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
