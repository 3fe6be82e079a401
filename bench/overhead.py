"""The node's own overhead: everything between the camera's message and the results but the model.

For each image size and transport the real node runs in this process, with its real model, and a
second process is the camera and the subscriber: it sends a frame, waits for its tokens, and sends
the next. Medians, in milliseconds:

    receive   deserializing the message, as rclpy does when it takes it
    convert   the message to RGB pixels: check and convert, or decode
    publish   tokens and objects to messages, serialized and handed to the middleware
    handover  the mailbox, the worker's turn, waiting for Python's lock: what else there is between
              a frame's arrival and its publishing
    model     resize, encoders, grounding
    share     of everything but the model in the sum of all
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simplejpeg

if TYPE_CHECKING:
    from siglip_perception.config import Settings
    from siglip_perception.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((640, 480), (1920, 1080))
TRANSPORTS = ("raw", "compressed")
WARM_UP = 5
TIMEOUT = 120.0


@dataclass(frozen=True)
class Row:
    """Medians of one size and transport, in milliseconds; share in [0, 1]."""

    width: int
    height: int
    transport: str
    frames: int
    receive: float
    convert: float
    publish: float
    handover: float
    overhead: float
    model: float
    share: float


def picture(width: int, height: int) -> Any:
    """A rendered scene, which compresses as a camera's picture does."""
    from siglip_perception.scenes.scenes import render, sample_scene

    scene = sample_scene(np.random.default_rng(7), 3)
    return np.ascontiguousarray(render(scene, width, height).image)


def image_message(width: int, height: int, transport: str) -> Any:
    from sensor_msgs.msg import CompressedImage, Image

    pixels = picture(width, height)
    if transport == "compressed":
        message = CompressedImage(format="rgb8; jpeg compressed bgr8")
        message.data.frombytes(simplejpeg.encode_jpeg(pixels, quality=90))
        return message
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(pixels.tobytes())
    return message


def be_the_camera(width: int, height: int, transport: str, frames: int) -> None:
    """The second process: sends its frames one by one and stays subscribed until it is ended."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence

    rclpy.init()
    node = rclpy.create_node("camera")
    message = image_message(width, height, transport)
    topic = "image/compressed" if transport == "compressed" else "image"
    publisher = node.create_publisher(type(message), topic, qos_profile_sensor_data)
    replies: list[Any] = []
    node.create_subscription(
        TokenSequence, "/siglip_perception/tokens", lambda m: replies.append(m.header.stamp), 1
    )
    node.create_subscription(GroundedObjectArray, "/siglip_perception/objects", lambda m: None, 1)
    deadline = time.monotonic() + TIMEOUT
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
    for _ in range(frames):
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        give_up = time.monotonic() + 5.0
        while message.header.stamp not in replies and time.monotonic() < give_up:
            rclpy.spin_once(node, timeout_sec=0.1)
    print("done", flush=True)
    rclpy.spin(node)


class TimedPipeline:
    """The real pipeline, each of its passes timed."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.seconds: list[float] = []
        self.last: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def process_batch(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        results = self._pipeline.process_batch(*arguments, **options)
        self.seconds.append(time.perf_counter() - start)
        self.last = results[0]
        return results


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


def median_run_ms(action: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a few runs, in milliseconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return median_ms(seconds)


def measure(width: int, height: int, transport: str, model: str, frames: int) -> Row:
    """One row of the table, from a node of its own."""
    import rclpy
    from rclpy.parameter import Parameter
    from rclpy.serialization import deserialize_message, serialize_message

    from siglip_perception.config import Settings
    from siglip_perception.node.conversions import decode_message
    from siglip_perception.node.executor import NodeExecutor
    from siglip_perception.node.node import PerceptionNode
    from siglip_perception.node.outputs import NodeOutputs
    from siglip_perception.node.pipeline_loader import load_pipeline
    from siglip_perception.node.qos import QosWatch
    from siglip_perception.stream.accounting import Ledger
    from siglip_perception.stream.camera_stream import CameraStream

    pipelines: list[TimedPipeline] = []
    failures: list[str] = []
    latencies: list[float] = []
    loaded, finished = threading.Event(), threading.Event()

    def load(settings: Settings) -> Pipeline:
        pipelines.append(TimedPipeline(load_pipeline(settings)))
        loaded.set()
        return cast("Pipeline", pipelines[-1])

    rclpy.init()
    parameters = {
        "model": model,
        "image_transport": transport,
        "instruction": "put the red cup on the blue plate",
    }
    node = PerceptionNode(
        failures.append,
        load,
        parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
    )
    publish = Ledger._publish

    def note_latency(ledger: Ledger, ticket: Any) -> float:
        latencies.append(publish(ledger, ticket))
        return latencies[-1]

    Ledger._publish = note_latency  # type: ignore[method-assign,assignment]
    executor = NodeExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin, daemon=True)
    spinner.start()
    command = [sys.executable, __file__, "--camera", str(width), str(height), transport]
    camera = subprocess.Popen(
        [*command, "--frames", str(frames + WARM_UP)], stdout=subprocess.PIPE, text=True
    )
    try:
        if not loaded.wait(TIMEOUT):
            raise SystemExit(f"the model {model!r} was not loaded; the log above says why")

        def await_camera() -> None:
            assert camera.stdout is not None
            camera.stdout.readline()
            finished.set()

        threading.Thread(target=await_camera, daemon=True).start()
        if not finished.wait(TIMEOUT) or len(latencies) <= WARM_UP:
            raise SystemExit("the camera's frames did not come through")
        message = image_message(width, height, transport)
        wire = serialize_message(message)
        settings = Settings(publish_mask=False)
        # More publishers on the node's topics: the camera hears them, too.
        outputs = NodeOutputs(node, QosWatch(node))
        outputs.create([""])
        outputs.open()
        stream = CameraStream("", "", decode_message, lambda: settings, lambda: 0)
        pending = stream.admit(message, stream.ledger.receive())
        result = pipelines[0].last
        receive = median_run_ms(lambda: deserialize_message(wire, type(message)), frames)
        convert = median_run_ms(lambda: stream.frame(pending, settings), frames)
        publish_ms = median_run_ms(lambda: outputs.publish(pending, result, False), frames)
    finally:
        Ledger._publish = publish  # type: ignore[method-assign]
        camera.kill()
        camera.wait()
        node.stop(5.0)
        executor.shutdown(5.0)
        node.destroy_node()
        rclpy.try_shutdown()
    if failures:
        raise SystemExit(failures[0])
    passes = pipelines[0].seconds[-len(latencies) :][WARM_UP:]
    other_nodes = [
        latency - seconds for latency, seconds in zip(latencies[WARM_UP:], passes, strict=True)
    ]
    model_ms = median_ms(passes)
    overhead = receive + median_ms(other_nodes)
    return Row(
        width,
        height,
        transport,
        len(passes),
        receive,
        convert,
        publish_ms,
        max(0.0, median_ms(other_nodes) - convert - publish_ms),
        overhead,
        model_ms,
        overhead / (overhead + model_ms),
    )


def table(rows: Sequence[Row]) -> str:
    columns = ("receive", "convert", "publish", "handover", "overhead", "model")
    lines = [
        f"{'image':>10} {'transport':>11} "
        + " ".join(f"{name:>9}" for name in columns)
        + f" {'share':>7}"
    ]
    lines += [
        f"{f'{row.width}x{row.height}':>10} {row.transport:>11} "
        + " ".join(f"{getattr(row, name):>9.2f}" for name in columns)
        + f" {row.share:>6.1%}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tabletop", help="name or folder, as the parameter")
    parser.add_argument("--frames", type=int, default=40, help="frames of each row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--camera", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.camera:
        width, height, transport = options.camera
        be_the_camera(int(width), int(height), transport, options.frames)
        return 0
    # As the node's own process does.
    from siglip_perception.node.perception_node import SWITCH_INTERVAL
    from siglip_perception.util.threads import spin_briefly

    spin_briefly()
    sys.setswitchinterval(SWITCH_INTERVAL)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, str(ROOT / "config" / "fastdds.xml"))
    rows = []
    for width, height in SIZES:
        for transport in TRANSPORTS:
            rows.append(measure(width, height, transport, options.model, options.frames))
            print(f"{width}x{height} {transport}: measured", file=sys.stderr)
    print("Milliseconds, medians; everything but the model is the node's own overhead.")
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
