"""Latency that a robot waits for: from a camera's message to the answer's, over real processes.

    python bench/message_to_message.py [--frames 2000] [--all] [--json FILE] [--markdown FILE]

A publisher process sends pictures at a fixed rate, a node answers, and a subscriber process takes
the time from each picture's stamp, set just before it is published, to the arrival of its tokens,
its objects, or the later of both. Each row has nodes and a ROS domain of its own. Beside the real
node stand a node as most people write one (bench/nodes/straightforward_node.py) and, without ROS,
the bare pass of transformers' models that it runs.

Without --all one thing at a time differs from a 640 x 480 raw stream of one camera on an idle
machine, tokens and objects, over Fast DDS with this project's profile. --json is written after
each row, and a row that it has with as many frames is not measured again; bench/nodes/
message_to_message.schema.json describes it. "loaded" keeps every core busy with a process of its
own. `lost` counts pictures without an answer: queues keep the newest, as cameras go on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from siglip_perception.commands.demo.processes import (
    PROFILE_VARIABLES,
    DemoError,
    environment,
    profile,
)
from siglip_perception.errors import PerceptionError
from siglip_perception.util import cpu
from siglip_perception.util.files import write_atomically

NODES = Path(__file__).resolve().parent / "nodes"
FORMAT = 1
SIZES = {"480p": (640, 480), "1080p": (1920, 1080)}
PHRASES = ("red cup", "blue plate")
INSTRUCTION = "put the red cup on the blue plate"
# Fast DDS with its defaults, with this project's profile, and over shared memory alone.
MIDDLEWARES = {
    "fastdds default": ("rmw_fastrtps_cpp", None),
    "fastdds tuned": ("rmw_fastrtps_cpp", profile),
    "fastdds shm": ("rmw_fastrtps_cpp", lambda: NODES / "fastdds_shm.xml"),
    "cyclonedds": ("rmw_cyclonedds_cpp", None),
    "zenoh": ("rmw_zenoh_cpp", None),
}
_PICTURES = 8
_WARM_UP = 10
# Longest wait for a node to load its model and subscribe, for its first answer after the last
# picture, and from one of its last answers to the next, in seconds.
_START_S, _FIRST_S, _NEXT_S = 300.0, 60.0, 3.0


@dataclass(frozen=True, order=True)
class Setting:
    """One row's conditions; the fields' values are those of the JSON."""

    subject: str = "siglip_perception"
    middleware: str = "fastdds tuned"
    transport: str = "raw"
    size: str = "480p"
    cameras: int = 1
    machine: str = "idle"
    outputs: str = "both"


CHOICES: dict[str, tuple[Any, ...]] = {
    "subject": ("siglip_perception", "straightforward node", "transformers pass"),
    "middleware": tuple(MIDDLEWARES),
    "transport": ("raw", "jpeg"),
    "size": tuple(SIZES),
    "cameras": (1, 3),
    "machine": ("idle", "loaded"),
    "outputs": ("both", "tokens", "objects"),
}


def settings(everything: bool) -> list[Setting]:
    """List the rows: all combinations, or those that differ in one thing from the first."""
    if everything:
        rows = [Setting(*values) for values in itertools.product(*CHOICES.values())]
    else:
        rows = []
        for subject in CHOICES["subject"]:
            first = Setting(subject=subject)
            rows.append(first)
            for field, values in CHOICES.items():
                if field != "subject":
                    rows += [_with(first, **{field: value}) for value in values]
    # The bare pass knows no middleware, and its pictures are decoded already.
    rows = [
        _with(row, middleware="none", transport="raw", cameras=1)
        if row.subject == "transformers pass"
        else row
        for row in rows
    ]
    return list(dict.fromkeys(rows))


def _with(setting: Setting, **fields: Any) -> Setting:
    return dataclasses.replace(setting, **fields)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * round(share * 1000) // 1000)
    return ordered[max(rank, 1) - 1]


def summary(latencies_ms: Sequence[float], sent: int) -> dict[str, Any]:
    """Summarize a row: counts, and percentiles in milliseconds; None without an answer."""
    names = {"p50_ms": 0.5, "p99_ms": 0.99, "p99_9_ms": 0.999, "max_ms": 1.0}
    figures = {
        name: round(percentile(latencies_ms, share), 3) if latencies_ms else None
        for name, share in names.items()
    }
    return {"sent": sent, "answered": len(latencies_ms), **figures}


def hardware() -> dict[str, Any]:
    """Describe the machine; a report is of one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **cpu.identity(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "gpu": _gpu(),
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"


def software() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "numpy", "opencv-python-headless")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def pictures(width: int, height: int) -> list[Any]:
    """Render scenes, uint8 [H, W, 3], the same in every row."""
    from siglip_perception.scenes.scenes import render, sample_scene

    return [
        np.ascontiguousarray(
            render(sample_scene(np.random.default_rng(seed), 3), width, height).image
        )
        for seed in range(_PICTURES)
    ]


def cameras_of(count: int) -> list[str]:
    """Name the cameras; a single one has no name."""
    return [""] if count == 1 else [f"camera{number}" for number in range(count)]


def be_the_cameras(setting: Setting, frames: int, hz: float) -> None:
    """The publisher's process: all cameras at once, `hz` times a second."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage, Image

    rclpy.init()
    node = rclpy.create_node("cameras")
    width, height = SIZES[setting.size]
    messages: list[Any] = []
    for pixels in pictures(width, height):
        if setting.transport == "jpeg":
            message = CompressedImage(format="rgb8; jpeg compressed bgr8")
            message.data.frombytes(simplejpeg.encode_jpeg(pixels, quality=90))
        else:
            message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
            message.data.frombytes(pixels.tobytes())
        messages.append(message)
    end = "image/compressed" if setting.transport == "jpeg" else "image"
    publishers = [
        node.create_publisher(
            type(messages[0]), f"{camera}/{end}" if camera else end, qos_profile_sensor_data
        )
        for camera in cameras_of(setting.cameras)
    ]
    deadline = time.monotonic() + _START_S
    while any(publisher.get_subscription_count() == 0 for publisher in publishers):
        if time.monotonic() > deadline:
            raise SystemExit("the node did not subscribe")
        rclpy.spin_once(node, timeout_sec=0.1)
    due = time.monotonic()
    for number in range(-_WARM_UP, frames):
        if number == 0:
            print(f"first {time.time_ns()}", flush=True)
        message = messages[number % len(messages)]
        for publisher in publishers:
            stamp = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            publisher.publish(message)
        due += 1 / hz
        time.sleep(max(0.0, due - time.monotonic()))
    print("done", flush=True)


def be_the_subscriber(setting: Setting, output: Path) -> None:
    """The subscriber's process: writes (camera, stamp, latency) of each answer at its end."""
    import rclpy
    from rclpy.node import Node
    from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence

    from siglip_perception.node.ros_process import spin_until_interrupted

    needed = 2 if setting.outputs == "both" else 1
    arrivals: dict[tuple[str, int], list[int]] = {}

    def hear(camera: str, message: Any) -> None:
        now = time.time_ns()
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        times = arrivals.setdefault((camera, stamp), [])
        times.append(now)
        if len(times) == needed:
            print("answer", flush=True)

    def subscriber() -> Node:
        node = rclpy.create_node("subscriber")
        for camera in cameras_of(setting.cameras):
            prefix = f"siglip_perception/{camera}/" if camera else "siglip_perception/"
            for kind, name in ((TokenSequence, "tokens"), (GroundedObjectArray, "objects")):
                if setting.outputs in ("both", name):
                    node.create_subscription(
                        kind, f"{prefix}{name}", lambda m, camera=camera: hear(camera, m), 10
                    )
        print("listening", flush=True)
        return node

    spin_until_interrupted(subscriber)
    answers = [
        (camera, stamp, (max(times) - stamp) / 1e6)
        for (camera, stamp), times in arrivals.items()
        if len(times) >= needed
    ]
    write_atomically(output, json.dumps(answers).encode())


def pass_without_ros(setting: Setting, model: str, frames: int) -> dict[str, Any]:
    """Measure transformers' models alone, as the straightforward node calls them."""
    from siglip_perception import checkpoints

    sys.path.insert(0, str(NODES.parents[1]))
    from bench.nodes.straightforward_node import Models

    phrases = () if setting.outputs == "tokens" else PHRASES
    models = Models(checkpoints.resolve(model), phrases)
    images = pictures(*SIZES[setting.size])
    latencies = []
    for number in range(-_WARM_UP, frames):
        start = time.perf_counter()
        models(images[number % len(images)])
        if number >= 0:
            latencies.append((time.perf_counter() - start) * 1000)
    return summary(latencies, frames)


class Process:
    """A child process; its output goes to a file, which tells why it ended."""

    def __init__(self, command: Sequence[str], variables: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self.popen = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, word: str) -> list[str]:
        """Return the lines that begin with a word."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(word)]

    def last_line(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "no output")[:300]

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class RowError(PerceptionError):
    """A row could not be measured."""


def measure(setting: Setting, model: str, frames: int, hz: float) -> dict[str, Any]:
    """Measure one row over ROS; raises RowError with the reason if a process ends early."""
    me = [sys.executable, __file__, "--setting", json.dumps(dataclasses.asdict(setting))]
    with tempfile.TemporaryDirectory(prefix="message_to_message.") as name:
        folder = Path(name)
        variables = variables_of(setting, folder)
        answers = folder / "answers.json"
        with contextlib.ExitStack() as stack:

            def start(label: str, command: Sequence[str]) -> Process:
                process = Process(command, variables, folder / f"{label}.log")
                stack.callback(process.end)
                return process

            if setting.middleware == "zenoh":
                start("router", ["ros2", "run", "rmw_zenoh_cpp", "rmw_zenohd"])
            node = start("node", node_command(setting, model))
            subscriber = start("subscriber", [*me, "--role", "subscriber", str(answers)])
            _wait(lambda: bool(subscriber.said("listening")), {"subscriber": subscriber}, 60.0)
            rest = ["--frames", str(frames), "--hz", str(hz)]
            cameras = start("cameras", [*me, "--role", "cameras", *rest])
            processes = {"node": node, "subscriber": subscriber, "cameras": cameras}
            limit = _START_S + 2 * (frames + _WARM_UP) / hz + 60
            _wait(lambda: bool(cameras.said("done")), processes, limit)
            _await_last_answers(subscriber, setting.cameras * (frames + _WARM_UP))
            subscriber.end()
            first_ns = int(cameras.said("first")[0].split()[1])
        if not answers.is_file():
            raise RowError(f"The subscriber wrote no answers: {subscriber.last_line()}")
        latencies = [
            latency for _, stamp, latency in json.loads(answers.read_bytes()) if stamp >= first_ns
        ]
    return summary(latencies, frames * setting.cameras)


def _wait(is_done: Any, processes: dict[str, Process], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not is_done():
        for name, process in processes.items():
            if process.popen.poll() is not None and not is_done():
                raise RowError(f"The {name} ended: {process.last_line()}")
        if time.monotonic() > deadline:
            lines = "; ".join(f"{name}: {p.last_line()}" for name, p in processes.items())
            raise RowError(f"Not done within {limit_s:.0f} s ({lines}).")
        time.sleep(0.05)


def _await_last_answers(subscriber: Process, expected: int) -> None:
    """Wait until all have come, or until no more come: pictures may have been lost."""
    count, since = 0, time.monotonic()
    while count < expected and time.monotonic() - since < (_NEXT_S if count else _FIRST_S):
        time.sleep(0.2)
        answers = len(subscriber.said("answer"))
        if answers > count:
            count, since = answers, time.monotonic()


def variables_of(setting: Setting, folder: Path) -> dict[str, str]:
    implementation, dds_profile = MIDDLEWARES[setting.middleware]
    variables = environment(folder)
    for variable in PROFILE_VARIABLES:
        variables.pop(variable, None)
        if dds_profile is not None:
            variables[variable] = str(dds_profile())
    variables["RMW_IMPLEMENTATION"] = implementation
    return variables


def node_command(setting: Setting, model: str) -> list[str]:
    """Return the command of the node that is measured."""
    from siglip_perception import checkpoints

    cameras = cameras_of(setting.cameras)
    has_objects = setting.outputs != "tokens"
    transport = "compressed" if setting.transport == "jpeg" else "raw"
    if setting.subject == "straightforward node":
        return [
            *(sys.executable, str(NODES / "straightforward_node.py")),
            *(str(checkpoints.resolve(model)), "--transport", transport),
            *("--cameras", *(camera for camera in cameras if camera)),
            *(("--phrases", *PHRASES) if has_objects else ()),
        ]
    parameters = [f"model:={model}", f"image_transport:={transport}"]
    if cameras != [""]:
        parameters.append(f"cameras:=[{', '.join(cameras)}]")
    if has_objects:
        parameters.append(f"instruction:={INSTRUCTION}")
    module = "siglip_perception.node.perception_node"
    command = [sys.executable, "-m", module, "--ros-args"]
    return [*command, *(word for parameter in parameters for word in ("-p", parameter))]


@contextlib.contextmanager
def load(machine: str) -> Iterator[None]:
    """Keep every core busy, if the machine is to be loaded."""
    count = (os.cpu_count() or 1) if machine == "loaded" else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def trouble(setting: Setting) -> str:
    """Say why a row cannot be measured here; empty if it can."""
    if setting.subject == "transformers pass":
        return ""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    implementation, _ = MIDDLEWARES[setting.middleware]
    try:
        get_package_prefix(implementation)
    except PackageNotFoundError:
        return f"{implementation} is not installed"
    return ""


class Report:
    """The rows of a JSON file, which is written after each."""

    def __init__(self, path: Path | None, model: str) -> None:
        self._path = path
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "hardware": hardware(),
            "software": software(),
            "model": model,
            "rows": [],
            "left_out": [],
        }
        if path is not None and path.exists():
            self._resume(path)

    def _resume(self, path: Path) -> None:
        try:
            earlier = json.loads(path.read_bytes())
            same = [earlier[key] == self.content[key] for key in ("format", "hardware", "model")]
            rows = [row for row in earlier["rows"] if Setting(**row["setting"])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PerceptionError(
                f"{path} is no report of message_to_message: name another file."
            ) from error
        if not all(same):
            raise PerceptionError(
                f"{path} is of another machine or model: name another file for this one."
            )
        self.content["rows"] = rows

    def has(self, setting: Setting, frames: int) -> bool:
        """Return True if a row was measured with at least as many frames."""
        key = dataclasses.asdict(setting)
        return any(
            row["setting"] == key and row["frames"] >= frames for row in self.content["rows"]
        )

    def add(self, setting: Setting, row: dict[str, Any]) -> None:
        key = dataclasses.asdict(setting)
        rows = [other for other in self.content["rows"] if other["setting"] != key]
        self.content["rows"] = [*rows, {"setting": key, **row}]
        self.write()

    def leave_out(self, setting: Setting, reason: str) -> None:
        entry = {"setting": dataclasses.asdict(setting), "reason": reason}
        self.content["left_out"].append(entry)
        self.write()

    def write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, (json.dumps(self.content, indent=2) + "\n").encode())


def table(content: dict[str, Any]) -> str:
    """Return the report as Markdown: a line on the machine, the table, and what was left out."""
    machine, versions = content["hardware"], content["software"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, GPU"
        f" {machine['gpu']}; Python {versions['python']}, PyTorch {versions['torch']},"
        f" transformers {versions['transformers']}; model {content['model']}. Milliseconds from"
        " message to message.",
        "",
        "| who answers | middleware | picture | cameras | machine | answer | frames | p50 | p99"
        " | p99.9 | lost | load before |",
        "|---|---|---|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in content["rows"]:
        key = Setting(**row["setting"])
        figures = [
            "-" if row[name] is None else f"{row[name]:.1f}"
            for name in ("p50_ms", "p99_ms", "p99_9_ms")
        ]
        lines.append(
            f"| {key.subject} | {key.middleware} | {key.size} {key.transport} | {key.cameras}"
            f" | {key.machine} | {key.outputs} | {row['sent']} | {' | '.join(figures)}"
            f" | {row['sent'] - row['answered']} | {row['load_before']:.1f} |"
        )
    reasons: dict[str, int] = {}
    for entry in content["left_out"]:
        reasons[entry["reason"]] = reasons.get(entry["reason"], 0) + 1
    lines += [f"\nLeft out: {count} rows, as {reason}" for reason, count in reasons.items()]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    """Measure the rows that are due; return 1 if one failed."""
    report = Report(options.json, options.model)
    rows = [row for row in settings(options.all) if _is_selected(row, options)]
    failed = 0
    for number, setting in enumerate(rows, 1):
        label = f"{number}/{len(rows)} {', '.join(map(str, dataclasses.astuple(setting)))}"
        if report.has(setting, options.frames):
            print(f"{label}: measured before", file=sys.stderr, flush=True)
            continue
        reason = trouble(setting)
        if reason:
            report.leave_out(setting, f"{reason}.")
            print(f"{label}: left out, {reason}", file=sys.stderr, flush=True)
            continue
        load_before = os.getloadavg()[0]
        try:
            with load(setting.machine):
                if setting.subject == "transformers pass":
                    figures = pass_without_ros(setting, options.model, options.frames)
                else:
                    figures = measure(setting, options.model, options.frames, options.hz)
        except (RowError, DemoError) as error:
            failed += 1
            report.leave_out(setting, str(error))
            print(f"{label}: failed: {error}", file=sys.stderr, flush=True)
            continue
        row = {"frames": options.frames, "hz": options.hz, "load_before": round(load_before, 2)}
        report.add(setting, {**row, **figures})
        print(f"{label}: p50 {figures['p50_ms']} ms", file=sys.stderr, flush=True)
    report.write()
    text = table(report.content)
    print(text)
    if options.markdown:
        write_atomically(options.markdown, (text + "\n").encode())
    return 1 if failed else 0


def _is_selected(setting: Setting, options: argparse.Namespace) -> bool:
    return all(
        not getattr(options, field) or str(getattr(setting, field)) in getattr(options, field)
        for field in CHOICES
    )


def main() -> int:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tabletop", help="name or folder, as the parameter")
    parser.add_argument("--frames", type=int, default=2000, help="pictures of each camera and row")
    parser.add_argument("--hz", type=float, default=10.0, help="pictures a second (10)")
    parser.add_argument("--all", action="store_true", help="all combinations: hours")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="written after each row, resumed"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    for field, values in CHOICES.items():
        choices = [*map(str, values), *(["none"] if field == "middleware" else [])]
        parser.add_argument(f"--{field}", nargs="+", choices=choices, help="only these rows")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.frames < 1 or not 0.01 <= options.hz <= 1000:
        parser.error("--frames is at least 1, and --hz from 0.01 to 1000")
    if options.role:
        setting = Setting(**json.loads(options.setting))
        if options.role[0] == "cameras":
            be_the_cameras(setting, options.frames, options.hz)
        else:
            be_the_subscriber(setting, Path(options.role[1]))
        return 0
    try:
        return run(options)
    except PerceptionError as error:
        print(f"message_to_message: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
