"""Where the processor's time goes in one frame, part by part.

    python bench/frame_parts.py [--threads 1 2] [--backend torch] [--hold avx2]

Runs the demo's frames (640x480 JPEG, two phrases each) through the decoder, the pipeline and, if
asked to, the overlay as the node does, without ROS. For each number of PyTorch's threads it prints
for each part, without the parts inside it, the medians over the frames, in milliseconds:

    cpu       the process's processor time, all threads
    least     the least of it: other processes on the same cores lengthen it, too, through caches
    clock     time by the clock, which other processes lengthen
    share     of the frame's processor time

Below it stands how much arithmetic the encoders do in that time, as a share of what one thread
reaches in a product of 2048 x 2048 matrices in float32.

--hold avx2 starts itself again with PyTorch, oneDNN (OpenVINO's, too) and MKL held to AVX2.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siglip_perception.util.threads import spin_briefly

spin_briefly()
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}

import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402
import torch  # noqa: E402

from siglip_perception import pipeline as pipeline_module  # noqa: E402
from siglip_perception.commands.demo.recording import HEIGHT, WIDTH, parts  # noqa: E402
from siglip_perception.config import ModelSelection, Settings  # noqa: E402
from siglip_perception.encoders import transformer  # noqa: E402
from siglip_perception.encoders.encoders import Encoders, Tower  # noqa: E402
from siglip_perception.encoders.onednn import fastest  # noqa: E402
from siglip_perception.grounding import grounder as grounder_module  # noqa: E402
from siglip_perception.grounding import regions as regions_module  # noqa: E402
from siglip_perception.grounding.region_head import RegionHead  # noqa: E402
from siglip_perception.images.decode import decode_compressed  # noqa: E402
from siglip_perception.images.overlay import draw  # noqa: E402
from siglip_perception.language.instruction import parse  # noqa: E402
from siglip_perception.pipeline import Pipeline, PipelineOptions, Query, Result  # noqa: E402
from siglip_perception.scenes.scenes import animate, render  # noqa: E402
from siglip_perception.types import Frame, Task  # noqa: E402
from siglip_perception.util import cpu, flops  # noqa: E402

WARM_UP = 5
SIDE = 2048
MAX_PIXELS = Settings.max_pixels


@dataclass
class Stopwatch:
    """Times parts that may lie in each other: seconds of each part itself, by name."""

    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    clock: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    inner: list[list[float]] = field(default_factory=list)
    watched: list[tuple[Any, str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.inner.append([0.0, 0.0])
        cpu_start, clock_start = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            spent = time.process_time() - cpu_start, time.perf_counter() - clock_start
            inside = self.inner.pop()
            self.cpu[name] += spent[0] - inside[0]
            self.clock[name] += spent[1] - inside[1]
            if self.inner:
                self.inner[-1][0] += spent[0]
                self.inner[-1][1] += spent[1]

    def clear(self) -> None:
        self.cpu.clear()
        self.clock.clear()

    def watch(self, owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
        """Time every call of a function or method; name: of the part, or made from the call."""
        function = getattr(owner, attribute)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name if isinstance(name, str) else name(*arguments)):
                return function(*arguments, **options)

        setattr(owner, attribute, timed)
        self.watched.append((owner, attribute, function))

    def stop(self) -> None:
        """Put the functions back that were watched."""
        while self.watched:
            setattr(*self.watched.pop())


def recording(frames: int) -> list[tuple[bytes, str]]:
    """Draw frames of the demo's bag, evenly over its instructions: JPEG and instruction."""
    story = parts(seed=1)
    count = sum(len(part.instructions) for part in story)
    pictures = []
    for part in story:
        each = -(-frames // count)
        rng = np.random.default_rng(1)
        for number, scene in enumerate(animate(part.scene, rng, each * len(part.instructions))):
            image = np.ascontiguousarray(render(scene, WIDTH, HEIGHT).image)
            text = part.instructions[number // each]
            pictures.append((simplejpeg.encode_jpeg(image, quality=90), text))
    return pictures


def watch_all(watch: Stopwatch, pipeline: Pipeline, encoders: Encoders) -> None:
    """Time the parts of a pipeline from now on."""
    names = {id(tower): key.partition(" ")[0] for key, tower in encoders.towers.items()}
    watch.watch(Tower, "run", lambda tower, *_: names[id(tower)])
    watch.watch(transformer.Attention, "attend", lambda *_: "attention (scores, softmax, sums)")
    watch.watch(pipeline, "preprocess", "resize and normalize")
    watch.watch(encoders, "finish", "tokens' cast, finite?, cosines")
    watch.watch(pipeline_module, "pixel_fingerprint", "fingerprint of the pixels")
    watch.watch(pipeline_module, "select_objects", "objects and their masks")
    watch.watch(pipeline_module, "label_mask", "objects and their masks")
    watch.watch(grounder_module, "candidates", "regions: duplicates")
    watch.watch(regions_module, "regions_at_cuts", "regions: search")
    watch.watch(regions_module, "split_components", "regions: components")
    watch.watch(RegionHead, "forward", "pooling head over the regions")
    watch.watch(pipeline.grounder, "score_all", "scores of regions and phrases")


def matrix_rate() -> float:
    """Measure one thread's GFLOP/s in a float32 product with packed weights, by processor time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    product = fastest(transformer.Linear(torch.randn(SIDE, SIDE), None))
    values, best = torch.randn(SIDE, SIDE), float("inf")
    with torch.inference_mode():
        for _ in range(4):
            start = time.thread_time()
            product(values)
            best = min(best, time.thread_time() - start)
    torch.set_num_threads(threads)
    return 2 * SIDE**3 / best / 1e9


def gflops(pipeline: Pipeline, encoders: Encoders, image: Any) -> dict[str, float]:
    """Count the products of each tower, up to its last block, in GFLOP; empty for an engine."""
    inputs = pipeline.preprocess([image])
    counts = {}
    for key, tower in encoders.towers.items():
        pixels = inputs[tower.input]
        job = functools.partial(tower.run, pixels, True, [0])
        with torch.inference_mode():
            counts[key.partition(" ")[0]] = flops.count(job) / 1e9
    return counts


def measure(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    selection = ModelSelection(
        arguments.model, backend=arguments.backend, device="cpu", precision=arguments.precision
    )
    pipeline = Pipeline.load(selection, PipelineOptions())
    encoders = pipeline._encoders.run
    assert isinstance(encoders, Encoders)
    pictures = recording(arguments.frames)
    queries: dict[str, Query] = {}
    for _, text in pictures:
        if text not in queries:
            queries[text] = pipeline.query(parse(text))
    first = decode_compressed("jpeg", pictures[0][0], max_pixels=MAX_PIXELS).pixels
    work = gflops(pipeline, encoders, first)
    rate = matrix_rate()
    watch = Stopwatch()
    watch_all(watch, pipeline, encoders)
    rows: list[tuple[dict[str, float], dict[str, float]]] = []
    for number, (data, text) in enumerate(pictures[:WARM_UP] + pictures):
        watch.clear()
        with watch.part("the rest, in Python"):
            with watch.part("decode JPEG"):
                pixels = decode_compressed("jpeg", data, max_pixels=MAX_PIXELS).pixels
            frame = Frame(pixels)
            [result] = pipeline.process_batch([Task(frame, queries[text], True)])
        assert isinstance(result, Result)
        assert result.grounding is not None
        if arguments.overlay:
            with watch.part("overlay, drawn and encoded"):
                simplejpeg.encode_jpeg(
                    np.ascontiguousarray(draw(pixels, result.grounding)), quality=80
                )
        if number >= WARM_UP:
            rows.append((dict(watch.cpu), dict(watch.clock)))
    watch.stop()
    names = list(dict.fromkeys(name for cpu_times, _ in rows for name in cpu_times))
    columns = {name: [[row[i].get(name, 0.0) for row in rows] for i in (0, 1)] for name in names}
    columns["all of it"] = [[sum(row[i].values()) for row in rows] for i in (0, 1)]
    table = {
        name: {
            "cpu": 1000 * statistics.median(cpu_times),
            "clock": 1000 * statistics.median(clock_times),
            "least": 1000 * min(cpu_times),
        }
        for name, (cpu_times, clock_times) in columns.items()
    }
    return {
        "threads": threads,
        "backend": pipeline.backend,
        "gflops_a_second": rate,
        "gflop": work,
        "parts": table,
    }


def print_table(result: dict[str, Any]) -> None:
    table, whole = result["parts"], result["parts"]["all of it"]["cpu"]
    print(
        f"\n{result['threads']} threads, {result['backend']}; one thread's float32 product:"
        f" {result['gflops_a_second']:.0f} GFLOP/s; load {os.getloadavg()[0]:.1f}\n"
    )
    print("| part | cpu ms | least cpu ms | clock ms | share |\n|---|---:|---:|---:|---:|")
    for name, times in sorted(table.items(), key=lambda entry: -entry[1]["cpu"]):
        cells = " | ".join(f"{times[kind]:.2f}" for kind in ("cpu", "least", "clock"))
        print(f"| {name} | {cells} | {times['cpu'] / whole:.0%} |")
    towers = sum(result["gflop"].values())
    spent = sum(
        table.get(name, {"cpu": 0.0})["cpu"]
        for name in (*result["gflop"], "attention (scores, softmax, sums)")
    )
    if towers:
        share = towers / (spent / 1000) / result["gflops_a_second"]
        print(f"\nBoth encoders: {towers:.2f} GFLOP in {spent:.1f} ms, {share:.0%} of the rate.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="PyTorch's")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", default="tabletop", help="name or folder")
    parser.add_argument("--backend", default="torch", choices=("auto", "torch", "openvino"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"))
    parser.add_argument("--hold", choices=("avx2",), help="libraries to these instructions")
    parser.add_argument("--overlay", action="store_true", help="draw and encode the overlay, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    arguments, _ = parser.parse_known_args()
    if arguments.hold and any(os.environ.get(name) != AVX2[name] for name in AVX2):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | AVX2)
    held = ", ".join(f"{name}={os.environ[name]}" for name in AVX2 if name in os.environ)
    print(f"{cpu.name()}, {os.cpu_count()} cores{f'; {held}' if held else ''}")
    results = []
    for threads in arguments.threads:
        results.append(measure(arguments, threads))
        print_table(results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
