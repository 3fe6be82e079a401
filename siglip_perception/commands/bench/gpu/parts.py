"""The parts of `make gpu`: each looks at one side of the CUDA path and gives Findings.

python -m siglip_perception.commands.bench.gpu.parts PART FOLDER [--rehearse]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from siglip_perception import backends, contracts
from siglip_perception.backends.cuda_graph import GraphedEncoders
from siglip_perception.backends.selftest import LIMITS, frames, least_cosine
from siglip_perception.checkpoints import Checkpoint, resolve
from siglip_perception.commands.bench import SIZES
from siglip_perception.commands.bench.child import make as make_candidate
from siglip_perception.commands.bench.gpu.finding import Check, Findings, Timing
from siglip_perception.encoders import triton_kernels
from siglip_perception.encoders.encoders import Encoders, Features
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import BackendError
from siglip_perception.evaluation.samples import Sample, scene_samples
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.language.instruction import from_phrases
from siglip_perception.parity.random_weights import write_random
from siglip_perception.pipeline import Pipeline, PipelineOptions, Query
from siglip_perception.types import Frame, GroundedObject, Precision, Task, UInt8Array
from siglip_perception.util import cpu
from siglip_perception.util.files import write_atomically

CPU = torch.device("cpu")
WEIGHTS = "weights"
"""Folder below the report's in which the random weights lie while the parts run."""

_BASELINE = "transformers bf16, eager"
# Largest error of a block's output in float32, as a share of its RMS: rounding alone.
_FLOAT32_ERROR = 1e-3
_PHRASES = ("red cup", "blue plate")


class Bench:
    """Where a part runs: the device, the sizes, and random weights written on demand.

    rehearse: on the CPU, at the embedded model's size. work: folder of the weights.
    """

    def __init__(self, rehearse: bool, work: Path) -> None:
        self.rehearse = rehearse
        self.device = CPU if rehearse else torch.device("cuda")
        self.sizes = ("tabletop",) if rehearse else tuple(SIZES)
        self.precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
        if rehearse:
            self.precisions = ("fp32",)
        self.passes = 2 if rehearse else 200
        self._work = work

    def model(self, size: str) -> str:
        """Name or folder of the size's weights."""
        if not SIZES[size]:
            return size
        folder = self._work / size
        if not folder.exists():
            write_random(contracts.get(SIZES[size]), folder, 0)
        return str(folder)

    def encoders(self, size: str) -> Encoders:
        plan = ModelPlan.load(self.model(size), SIZES[size], "", "")
        return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)

    def pipeline(self, size: str, precision: str = "auto", **options: Any) -> Pipeline:
        return Pipeline.load(
            PipelineOptions(
                self.model(size),
                SIZES[size],
                backend="torch",
                device=self.device.type,
                precision=precision,
                **options,
            )
        )

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, job: Callable[[], object]) -> float:
        """Seconds of one call, with all that it launched."""
        self.synchronize()
        began = time.perf_counter()
        job()
        self.synchronize()
        return time.perf_counter() - began


def machine(bench: Bench) -> Findings:
    """The hardware, and the ceilings that figures are held against."""
    facts = {"cpu": cpu.name(), "torch": torch.__version__}
    side = 256
    if not bench.rehearse:
        properties = torch.cuda.get_device_properties(0)
        side = 8192
        facts |= {
            "gpu": properties.name,
            "gpu memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "compute capability": f"{properties.major}.{properties.minor}",
            "cuda": str(torch.version.cuda),
        }
    facts["triton kernels"] = triton_kernels.trouble(bench.device, torch.bfloat16) or "yes"
    matrix = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)
    bench.timed(lambda: matrix @ matrix)
    seconds = statistics.median(bench.timed(lambda: matrix @ matrix) for _ in range(5))
    facts["bf16 product"] = f"{2 * side**3 / seconds / 1e12:.3g} TFLOP/s"
    source = torch.empty(side * side * 16, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bench.timed(lambda: target.copy_(source))
    seconds = statistics.median(bench.timed(lambda: target.copy_(source)) for _ in range(5))
    facts["memory copy"] = f"{2 * source.numel() / seconds / 1e12:.2g} TB/s, read and written"
    return Findings(facts=facts)


def pixels(bench: Bench) -> Findings:
    """Frames of many sizes under every packaged contract: the GPU's pixels are the CPU's."""
    rng = np.random.default_rng(0)
    sizes = [(480, 640), (1080, 1920), (1280, 720), (405, 300), (97, 134), (20, 640)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    worst = 0.0
    compared = 0
    for name in contracts.names():
        contract = contracts.get(name)
        fed = [EncoderInput.of(contract, spec) for spec in contract.encoders]
        on_host, on_device = Preprocessor(fed, CPU), Preprocessor(fed, bench.device)
        for image in images[: 2 if bench.rehearse else None]:
            uploaded = on_device.with_frames([torch.from_numpy(image).to(bench.device)])
            for key, values in on_host([image]).items():
                worst = max(worst, float((uploaded[key].cpu() - values).abs().max()))
                compared += 1
    seen = f"largest difference {worst:g} in {compared} inputs, limit 0"
    return Findings((Check("pixels equal the CPU's, bit for bit", worst == 0.0, seen),))


def blocks(bench: Bench) -> Findings:
    """Every block of every encoder and size, in each precision, against the CPU's float32."""
    checks = []
    for size in bench.sizes:
        inputs = Preprocessor(bench.encoders(size).inputs, CPU)(frames(1))
        expected = {
            key: list(_block_outputs(tower, inputs[tower.input]))
            for key, tower in bench.encoders(size).towers.items()
        }
        for precision in bench.precisions:
            dtype = backends.choose("torch", bench.device.type, precision).dtype
            encoders = bench.encoders(size)
            encoders.prepare(bench.device, dtype)
            cosine, error = 1.0, 0.0
            for key, tower in encoders.towers.items():
                # Padding is the CPU's alone: what both have are the real tokens.
                for ours, theirs in zip(
                    _block_outputs(tower, inputs[tower.input].to(bench.device)),
                    expected[key],
                    strict=True,
                ):
                    real = ours[:, : theirs.shape[1]].cpu()
                    cosine = min(
                        cosine, float(torch.cosine_similarity(real, theirs, dim=-1).min())
                    )
                    rms = theirs.square().mean().sqrt()
                    error = max(error, float((real - theirs).abs().max() / rms))
            right = cosine >= LIMITS[precision]
            limit = f"least cosine {cosine:.6f} (limit {LIMITS[precision]:g})"
            if precision == "fp32":
                right = right and error <= _FLOAT32_ERROR
            seen = f"{limit}, largest error {error:.1e} of RMS"
            checks.append(Check(f"{size}, every block, {precision}", right, seen))
    return Findings(tuple(checks))


@torch.inference_mode()
def _block_outputs(tower: Any, values: Tensor) -> Iterator[Tensor]:
    hidden = tower.embed(values)
    for block in tower.blocks:
        hidden = block(hidden, tower.mask)
        yield hidden


def outputs(bench: Bench) -> Findings:
    """What serves, graphs and fused kernels included, for one to three cameras."""
    checks = []
    for size in bench.sizes:
        encoders = bench.encoders(size)
        expected = _served(encoders, Preprocessor(encoders.inputs, CPU), [0, 1, 2])
        for precision in bench.precisions:
            encoders = bench.encoders(size)
            serving = backends.start(
                encoders, backends.choose("torch", bench.device.type, precision)
            )
            preprocess = Preprocessor(encoders.inputs, bench.device)
            least = 1.0
            for group in ([0], [1], [2], [0, 1], [0, 1, 2], [2]):
                features = _served(serving, preprocess, group, encoders)
                least = min(least, least_cosine(features, _rows(expected, group)))
            right = least >= LIMITS[precision] and not serving.notes
            seen = f"least cosine {least:.6f} (limit {LIMITS[precision]:g}); {serving.description}"
            checks.append(Check(f"{size}, tokens and features, {precision}", right, seen))
    return Findings(tuple(checks))


def _served(
    run: Any, preprocess: Preprocessor, group: Sequence[int], encoders: Encoders | None = None
) -> Features:
    reads = (encoders or run).grounding_keys
    images = [frames(3)[index] for index in group]
    grounding_rows = list(range(len(group))) if reads else []
    features = run(preprocess(images), with_tokens=True, grounding_rows=grounding_rows)
    return Features(_host(features.tokens), _host(features.siglip), _host(features.dino))


def _host(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.float().cpu()


def _rows(features: Features, group: Sequence[int]) -> Features:
    def pick(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[list(group)]

    return Features(pick(features.tokens), pick(features.siglip), pick(features.dino))


def objects(bench: Bench) -> Findings:
    """The embedded model's objects on generated scenes: the GPU's against the CPU's float32."""
    scenes = list(scene_samples(2 if bench.rehearse else 20, 2, 6))
    host = Pipeline.load(PipelineOptions(device="cpu", precision="fp32"))
    device = bench.pipeline("tabletop")
    total = matched = 0
    apart = 0.0
    for sample in scenes:
        phrases = tuple(dict.fromkeys(question.phrase for question in sample.questions))[:20]
        ours, theirs = (_objects(pipeline, sample, phrases) for pipeline in (device, host))
        total += max(len(ours), len(theirs))
        for expected in theirs:
            best = max(
                (o for o in ours if o.phrase == expected.phrase),
                key=lambda o: _overlap(o, expected),
                default=None,
            )
            if best is not None and _overlap(best, expected) >= 0.8:
                matched += 1
                apart = max(apart, abs(best.score - expected.score))
    share = matched / max(total, 1)
    seen = (
        f"{matched} of {total} objects at an IoU of 0.8 (limit 95 %), scores at most"
        f" {apart:.3f} apart; {device.backend}"
    )
    return Findings((Check("tabletop, objects equal the CPU's", share >= 0.95, seen),))


def _objects(
    pipeline: Pipeline, sample: Sample, phrases: tuple[str, ...]
) -> tuple[GroundedObject, ...]:
    query = pipeline.query(from_phrases(phrases))
    grounding = pipeline.process(Frame(sample.image), query).grounding
    assert grounding is not None
    return tuple(grounding.objects)


def _overlap(one: GroundedObject, other: GroundedObject) -> float:
    a, b = one.box, other.box
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(width, 0) * max(height, 0)
    return shared / (a.width * a.height + b.width * b.height - shared)


def graphs(bench: Bench) -> Findings:
    """CUDA graphs under what a node meets: many sizes, a failed capture, want of memory."""
    if bench.rehearse:
        return Findings(facts={"graphs": "not on a CPU"})
    checks = [
        _many_sizes(bench),
        _memory_is_flat(bench),
        _infinity_passes(bench),
        _a_broken_capture(bench, "a capture that waits for the GPU", _wait_in_capture),
        _a_broken_capture(bench, "a capture that finds no memory", _starve),
        _another_thread(bench),
    ]
    return Findings(tuple(checks))


def _graphed(bench: Bench) -> tuple[GraphedEncoders, Encoders, Preprocessor]:
    """Encoders that run as graphs, the same that do not, and what feeds both."""
    served, plain = bench.encoders("tabletop"), bench.encoders("tabletop")
    for encoders in (served, plain):
        encoders.prepare(bench.device, torch.bfloat16)
    preprocess = Preprocessor(served.inputs, bench.device)
    return GraphedEncoders(served, bench.device), plain, preprocess


def _agreement(
    run: Any, plain: Encoders, preprocess: Preprocessor, images: list[UInt8Array]
) -> float:
    rows = list(range(len(images)))
    ours = run(preprocess(images), with_tokens=True, grounding_rows=rows)
    return least_cosine(ours, plain(preprocess(images), with_tokens=True, grounding_rows=rows))


def _many_sizes(bench: Bench) -> Check:
    graphed, plain, preprocess = _graphed(bench)
    picture = frames(1)[0]
    least = 1.0
    for _ in range(2):
        for number in range(12):
            image = picture[: 200 + 10 * number, : 300 + 10 * number].copy()
            least = min(least, _agreement(graphed, plain, preprocess, [image]))
            least = min(least, _agreement(graphed, plain, preprocess, [image, picture]))
    right = least >= 0.9999 and not graphed.trouble
    seen = f"least cosine with the plain pass {least:.6f}, {graphed.trouble or 'no trouble'}"
    return Check("frames of 12 sizes, one and two cameras", right, seen)


def _memory_is_flat(bench: Bench) -> Check:
    graphed, plain, preprocess = _graphed(bench)
    pictures = [frames(1)[0], frames(1)[0][:300, :400].copy()]
    held = []
    for _ in range(2):
        for number in range(150):
            _agreement(graphed, plain, preprocess, [pictures[number % 2]])
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    seen = f"{held[0] / 2**20:.1f} MiB after 150 frames, {held[1] / 2**20:.1f} after 300"
    return Check("memory is flat", held[0] == held[1], seen)


def _infinity_passes(bench: Bench) -> Check:
    graphed, plain, preprocess = _graphed(bench)
    inputs = dict(preprocess(frames(1)))
    broken = {key: torch.full_like(values, torch.inf) for key, values in inputs.items()}
    tokens = graphed(broken, with_tokens=True, grounding_rows=[0]).tokens
    assert tokens is not None
    withheld = not bool(tokens.isfinite().any())
    least = _agreement(graphed, plain, preprocess, frames(1))
    right = withheld and least >= 0.9999 and not graphed.trouble
    return Check("infinity in one frame, then another frame", right, f"least cosine {least:.6f}")


@contextmanager
def _wait_in_capture(graphed: GraphedEncoders) -> Iterator[None]:
    run = graphed._encoders.run_all

    def run_all(jobs: Any) -> Any:
        results = run(jobs)
        if torch.cuda.is_current_stream_capturing():
            results[0][0].sum().item()
        return results

    graphed._encoders.run_all = run_all
    yield
    graphed._encoders.run_all = run


@contextmanager
def _starve(graphed: GraphedEncoders) -> Iterator[None]:
    """Let the process ask within a capture for memory that it is not allowed."""
    run = graphed._encoders.run_all
    total = torch.cuda.get_device_properties(0).total_memory

    def run_all(jobs: Any) -> Any:
        if torch.cuda.is_current_stream_capturing():
            share = torch.cuda.memory_reserved() / total
            torch.cuda.set_per_process_memory_fraction(share)
            try:
                torch.empty(2**30, dtype=torch.uint8, device="cuda")
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
        return run(jobs)

    graphed._encoders.run_all = run_all
    yield
    graphed._encoders.run_all = run


def _a_broken_capture(bench: Bench, name: str, spoil: Any) -> Check:
    graphed, plain, preprocess = _graphed(bench)
    with spoil(graphed):
        first = _agreement(graphed, plain, preprocess, frames(1))
    later = [_agreement(graphed, plain, preprocess, frames(2)[1:]) for _ in range(3)]
    fresh, plain, preprocess = _graphed(bench)
    again = _agreement(fresh, plain, preprocess, frames(1))
    least = min(first, *later, again)
    right = least >= 0.9999 and bool(graphed.trouble) and not fresh.trouble
    seen = f"least cosine {least:.6f} then; said: {graphed.trouble}; another model captures again"
    return Check(name, right, seen)


def _another_thread(bench: Bench) -> Check:
    """Another thread takes and gives back the GPU's memory while graphs are captured."""
    import threading

    graphed, plain, preprocess = _graphed(bench)
    stop = threading.Event()

    def churn() -> None:
        stream = torch.cuda.Stream()
        while not stop.is_set():
            with torch.cuda.stream(stream):
                torch.randn(256, 256, device="cuda").matmul(torch.randn(256, 256, device="cuda"))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        least = min(
            _agreement(graphed, plain, preprocess, [frames(1)[0][:height].copy()])
            for height in range(200, 280, 10)
        )
    finally:
        stop.set()
        thread.join()
    right = least >= 0.9999 and not graphed.trouble
    return Check("captures beside another thread's work", right, f"least cosine {least:.6f}")


def speed(bench: Bench) -> Findings:
    """Every candidate in turn with transformers' eager bf16, one to three cameras.

    Ours from uint8 frames on the host to tokens on the host; transformers' from normalized pixels
    on the GPU to tokens there, so without the copies and the resize.
    """
    timings: list[Timing] = []
    for size in bench.sizes:
        contenders = list(_contenders(bench, size))
        for batch in (1, 2, 3):
            timings += _in_turn(bench, size, batch, contenders)
    facts = {}
    if not bench.rehearse:
        facts["peak memory of all candidates"] = (
            f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        )
    return Findings(timings=tuple(timings), facts=facts)


@dataclass(frozen=True)
class Contender:
    """run: images of a batch -> tokens, or all that a frame is asked for."""

    name: str
    run: Callable[[int], object]


def _ours(name: str, pipeline: Pipeline, query: Query | None = None) -> Contender:
    tasks = [Task(Frame(image), query) for image in frames(3)]
    return Contender(name, lambda batch: pipeline.process_batch(tasks[:batch]))


def _eager(bench: Bench, size: str) -> Contender:
    name = f"transformers {'fp32' if bench.rehearse else 'bf16'}"
    made = make_candidate(name, bench.model(size), SIZES[size], bench.device)
    return Contender(_BASELINE, torch.inference_mode()(made.run))


def _contenders(bench: Bench, size: str) -> Iterator[Contender]:
    precision = "fp32" if bench.rehearse else "bf16"
    yield _eager(bench, size)
    yield _ours("ours, as served", bench.pipeline(size, precision))
    narrow = bench.pipeline(size, precision, tokens_dtype="bfloat16")
    yield _ours("ours, tokens in bfloat16", narrow)
    with _without_kernels():
        plain = bench.pipeline(size, precision)
    yield _ours("ours without Triton's kernels", plain)
    if narrow.can_ground:
        query = narrow.query(from_phrases(_PHRASES))
        yield _ours("ours, tokens in bfloat16 and two phrases", narrow, query)


def compiled(bench: Bench) -> Findings:
    """transformers' models through torch.compile, at OpenVLA's size."""
    if bench.rehearse:
        return Findings(facts={"torch.compile": "not on a CPU"})
    size = "openvla"
    contract = contracts.get(SIZES[size])
    fed = {spec.name: EncoderInput.of(contract, spec) for spec in contract.encoders}
    inputs = Preprocessor(tuple(fed.values()), CPU)(frames(1))
    passes: list[tuple[Any, Tensor]] = []
    began = time.perf_counter()
    for name, network in Checkpoint(resolve(bench.model(size))).load(contract).vision.items():
        network.set_attn_implementation("sdpa")
        network.to(bench.device, torch.bfloat16)
        pixel_values = inputs[fed[contract.encoder(name).name]].to(bench.device, torch.bfloat16)
        passes.append((torch.compile(network, mode="reduce-overhead"), pixel_values))

    @torch.inference_mode()
    def run(batch: int) -> None:
        for network, pixel_values in passes:
            network(pixel_values, output_hidden_states=True)

    for _ in range(3):
        run(1)
    bench.synchronize()
    facts = {"torch.compile took": f"{time.perf_counter() - began:.0f} s"}
    contenders = [_eager(bench, size), Contender("transformers bf16, torch.compile", run)]
    return Findings(timings=tuple(_in_turn(bench, size, 1, contenders)), facts=facts)


@contextmanager
def _without_kernels() -> Iterator[None]:
    with mock.patch.object(triton_kernels, "trouble", return_value="left out, to measure"):
        yield


def _in_turn(
    bench: Bench, size: str, batch: int, contenders: Sequence[Contender]
) -> Iterator[Timing]:
    """Time all of them, a few passes each in turn, so that what disturbs one disturbs all."""
    took: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        for _ in range(1 if bench.rehearse else 5):
            contender.run(batch)
    for _ in range(max(bench.passes // 10, 1)):
        for contender in contenders:
            passes = min(bench.passes, 3 if contender.name == _BASELINE else 10)
            job = functools.partial(contender.run, batch)
            took[contender.name] += [bench.timed(job) for _ in range(passes)]
    baseline = statistics.median(took[_BASELINE])
    for name, seconds in took.items():
        p50 = statistics.median(seconds)
        p99 = float(np.percentile(seconds, 99))
        yield Timing(size, batch, name, p50 * 1e3, p99 * 1e3, baseline / p50, len(seconds))


def tensorrt(bench: Bench) -> Findings:
    """TensorRT's engines where it is installed."""
    from siglip_perception.backends.tensorrt import probe

    if bench.rehearse or not probe.is_installed():
        return Findings(facts={"tensorrt": "not installed"})
    try:
        pipeline = Pipeline.load(
            PipelineOptions("tabletop", backend="tensorrt", device="cuda", precision="bf16")
        )
    except BackendError as error:
        return Findings((Check("tensorrt", False, str(error)),))
    tokens = pipeline.process(Frame(frames(1)[0]), None).tokens
    host = Pipeline.load(PipelineOptions(device="cpu", precision="fp32"))
    expected = host.process(Frame(frames(1)[0]), None).tokens
    assert tokens is not None
    assert expected is not None
    cosine = float(
        torch.cosine_similarity(
            torch.from_numpy(tokens.data), torch.from_numpy(expected.data), dim=-1
        ).min()
    )
    seen = f"least cosine {cosine:.6f} (limit {LIMITS['bf16']:g}); {pipeline.backend}"
    return Findings((Check("tabletop, TensorRT's tokens", cosine >= LIMITS["bf16"], seen),))


# In order of worth, should the time end before they do.
_RUN: dict[str, Callable[[Bench], Findings]] = {
    "machine": machine,
    "pixels": pixels,
    "outputs": outputs,
    "graphs": graphs,
    "objects": objects,
    "speed": speed,
    "blocks": blocks,
    "tensorrt": tensorrt,
    "compiled": compiled,
}
PARTS = tuple(_RUN)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        print("PyTorch sees no CUDA GPU: check nvidia-smi and torch.version.cuda", file=sys.stderr)
        return 2
    findings = _RUN[args.part](Bench(args.rehearse, args.folder / WEIGHTS))
    content = json.dumps(findings.as_json(), indent=2) + "\n"
    write_atomically(args.folder / f"{args.part}.json", content.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
