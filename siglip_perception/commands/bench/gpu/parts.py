"""Parts of `make gpu`: each checks one side of the CUDA path and returns Findings.

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
from siglip_perception.backends.base.cuda_graph import GraphedEncoders
from siglip_perception.backends.base.selftest import LIMITS, frames, least_cosine
from siglip_perception.checkpoints import Checkpoint, resolve
from siglip_perception.checkpoints.networks import to_transformers
from siglip_perception.commands.bench import SIZES
from siglip_perception.commands.bench.child import make as make_candidate
from siglip_perception.commands.bench.gpu.finding import Check, Findings, Timing
from siglip_perception.config import ModelSelection
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
"""Subfolder of the report's folder with the random weights, while the parts run."""

_BASELINE = "transformers bf16, eager"
# Largest error of a block's output in float32, as a share of its RMS, from rounding alone.
_FLOAT32_ERROR = 1e-3
_PHRASES = ("red cup", "blue plate")


class Bench:
    """Setup of a part: the device, the sizes, and random weights written on demand.

    rehearse: run on the CPU, at the embedded model's size. work: folder for the weights.
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
        """Return the name or folder of the size's weights."""
        if not SIZES[size]:
            return size
        folder = self._work / size
        if not folder.exists():
            write_random(contracts.get(SIZES[size]), folder, 0)
        return str(folder)

    def encoders(self, size: str) -> Encoders:
        plan = ModelPlan.load(ModelSelection(self.model(size), SIZES[size]))
        return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)

    def pipeline(self, size: str, precision: str = "auto", **options: Any) -> Pipeline:
        return Pipeline.load(
            ModelSelection(self.model(size), SIZES[size], "torch", self.device.type, precision),
            PipelineOptions(**options),
        )

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, job: Callable[[], object]) -> float:
        """Return the seconds of one call, including all the kernels that it launched."""
        self.synchronize()
        start = time.perf_counter()
        job()
        self.synchronize()
        return time.perf_counter() - start


def machine(bench: Bench) -> Findings:
    """Describe the hardware and measure its ceilings of arithmetic and memory."""
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
    bench.time(lambda: matrix @ matrix)
    seconds = statistics.median(bench.time(lambda: matrix @ matrix) for _ in range(5))
    facts["bf16 product"] = f"{2 * side**3 / seconds / 1e12:.3g} TFLOP/s"
    source = torch.empty(side * side * 16, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bench.time(lambda: target.copy_(source))
    seconds = statistics.median(bench.time(lambda: target.copy_(source)) for _ in range(5))
    facts["memory copy"] = f"{2 * source.numel() / seconds / 1e12:.2g} TB/s, read and written"
    return Findings(facts=facts)


def pixels(bench: Bench) -> Findings:
    """Check that the GPU's pixels equal the CPU's, for many frame sizes and every contract."""
    rng = np.random.default_rng(0)
    sizes = [(480, 640), (1080, 1920), (1280, 720), (405, 300), (97, 134), (20, 640)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    max_difference = 0.0
    count = 0
    for name in contracts.names():
        contract = contracts.get(name)
        inputs = [EncoderInput.of(contract, spec) for spec in contract.encoders]
        on_host, on_device = Preprocessor(inputs, CPU), Preprocessor(inputs, bench.device)
        for image in images[: 2 if bench.rehearse else None]:
            device_inputs = on_device.with_frames([torch.from_numpy(image).to(bench.device)])
            for key, values in on_host([image]).items():
                max_difference = max(
                    max_difference, float((device_inputs[key].cpu() - values).abs().max())
                )
                count += 1
    text = f"largest difference {max_difference:g} in {count} inputs, limit 0"
    return Findings((Check("pixels equal the CPU's, bit for bit", max_difference == 0.0, text),))


def blocks(bench: Bench) -> Findings:
    """Check every block of every encoder, size and precision against float32 on the CPU."""
    checks = []
    for size in bench.sizes:
        inputs = Preprocessor(bench.encoders(size).inputs, CPU)(frames(1))
        references = {
            key: list(_block_outputs(tower, inputs[tower.input]))
            for key, tower in bench.encoders(size).towers.items()
        }
        for precision in bench.precisions:
            dtype = backends.choose("torch", bench.device.type, precision).dtype
            encoders = bench.encoders(size)
            encoders.prepare(bench.device, dtype)
            cosine, error = 1.0, 0.0
            for key, tower in encoders.towers.items():
                # Only the tokens that both outputs have: the CPU's may be padded.
                for output, reference in zip(
                    _block_outputs(tower, inputs[tower.input].to(bench.device)),
                    references[key],
                    strict=True,
                ):
                    values = output[:, : reference.shape[1]].cpu()
                    cosine = min(
                        cosine, float(torch.cosine_similarity(values, reference, dim=-1).min())
                    )
                    rms = reference.square().mean().sqrt()
                    error = max(error, float((values - reference).abs().max() / rms))
            is_correct = cosine >= LIMITS[precision]
            limit = f"least cosine {cosine:.6f} (limit {LIMITS[precision]:g})"
            if precision == "fp32":
                is_correct = is_correct and error <= _FLOAT32_ERROR
            text = f"{limit}, largest error {error:.1e} of RMS"
            checks.append(Check(f"{size}, every block, {precision}", is_correct, text))
    return Findings(tuple(checks))


@torch.inference_mode()
def _block_outputs(tower: Any, values: Tensor) -> Iterator[Tensor]:
    hidden = tower.embed(values)
    for block in tower.blocks:
        hidden = block(hidden, tower.mask)
        yield hidden


def outputs(bench: Bench) -> Findings:
    """Check the serving encoders, with graphs and fused kernels, for one to three cameras."""
    checks = []
    for size in bench.sizes:
        encoders = bench.encoders(size)
        references = _run_on_host(encoders, Preprocessor(encoders.inputs, CPU), [0, 1, 2])
        for precision in bench.precisions:
            encoders = bench.encoders(size)
            serving = backends.start(
                encoders, backends.choose("torch", bench.device.type, precision)
            )
            preprocess = Preprocessor(encoders.inputs, bench.device)
            min_cosine = 1.0
            for group in ([0], [1], [2], [0, 1], [0, 1, 2], [2]):
                features = _run_on_host(serving, preprocess, group, encoders)
                min_cosine = min(min_cosine, least_cosine(features, _rows(references, group)))
            is_correct = min_cosine >= LIMITS[precision] and not serving.notes
            cosine_text = f"least cosine {min_cosine:.6f} (limit {LIMITS[precision]:g})"
            text = f"{cosine_text}; {serving.description}"
            checks.append(Check(f"{size}, tokens and features, {precision}", is_correct, text))
    return Findings(tuple(checks))


def _run_on_host(
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
    """Check the embedded model's objects on generated scenes against float32 on the CPU."""
    scenes = list(scene_samples(2 if bench.rehearse else 20, 2, 6))
    host_pipeline = Pipeline.load(ModelSelection(device="cpu", precision="fp32"))
    device_pipeline = bench.pipeline("tabletop")
    total = match_count = 0
    score_difference = 0.0
    for sample in scenes:
        phrases = tuple(dict.fromkeys(question.phrase for question in sample.questions))[:20]
        device_objects, host_objects = (
            _objects(pipeline, sample, phrases) for pipeline in (device_pipeline, host_pipeline)
        )
        total += max(len(device_objects), len(host_objects))
        for reference in host_objects:
            best = max(
                (o for o in device_objects if o.phrase == reference.phrase),
                key=lambda o: reference.box.iou(o.box),
                default=None,
            )
            if best is not None and reference.box.iou(best.box) >= 0.8:
                match_count += 1
                score_difference = max(score_difference, abs(best.score - reference.score))
    share = match_count / max(total, 1)
    text = (
        f"{match_count} of {total} objects at an IoU of 0.8 (limit 95 %), scores at most"
        f" {score_difference:.3f} apart; {device_pipeline.backend}"
    )
    return Findings((Check("tabletop, objects equal the CPU's", share >= 0.95, text),))


def _objects(
    pipeline: Pipeline, sample: Sample, phrases: tuple[str, ...]
) -> tuple[GroundedObject, ...]:
    query = pipeline.query(from_phrases(phrases))
    grounding = pipeline.process(Frame(sample.image), query).grounding
    assert grounding is not None
    return tuple(grounding.objects)


def graphs(bench: Bench) -> Findings:
    """Check CUDA graphs under a node's conditions: many sizes, failed captures, little memory."""
    if bench.rehearse:
        return Findings(facts={"graphs": "not on a CPU"})
    checks = [
        _many_sizes(bench),
        _memory_is_flat(bench),
        _infinity_passes(bench),
        _broken_capture(bench, "a capture that waits for the GPU", _wait_in_capture),
        _broken_capture(bench, "a capture that finds no memory", _starve),
        _another_thread(bench),
    ]
    return Findings(tuple(checks))


def _load_graph_encoders(bench: Bench) -> tuple[GraphedEncoders, Encoders, Preprocessor]:
    """Return encoders that run as graphs, the same ones without graphs, and their preprocessor."""
    base, plain = bench.encoders("tabletop"), bench.encoders("tabletop")
    for encoders in (base, plain):
        encoders.prepare(bench.device, torch.bfloat16)
    preprocess = Preprocessor(base.inputs, bench.device)
    return GraphedEncoders(base, bench.device), plain, preprocess


def _agreement(
    run: Any, plain: Encoders, preprocess: Preprocessor, images: list[UInt8Array]
) -> float:
    rows = list(range(len(images)))
    features = run(preprocess(images), with_tokens=True, grounding_rows=rows)
    return least_cosine(features, plain(preprocess(images), with_tokens=True, grounding_rows=rows))


def _many_sizes(bench: Bench) -> Check:
    graph_encoders, plain, preprocess = _load_graph_encoders(bench)
    picture = frames(1)[0]
    min_cosine = 1.0
    for _ in range(2):
        for number in range(12):
            image = picture[: 200 + 10 * number, : 300 + 10 * number].copy()
            min_cosine = min(min_cosine, _agreement(graph_encoders, plain, preprocess, [image]))
            min_cosine = min(
                min_cosine, _agreement(graph_encoders, plain, preprocess, [image, picture])
            )
    is_correct = min_cosine >= 0.9999 and not graph_encoders.trouble
    trouble = graph_encoders.trouble or "no trouble"
    text = f"least cosine with the plain pass {min_cosine:.6f}, {trouble}"
    return Check("frames of 12 sizes, one and two cameras", is_correct, text)


def _memory_is_flat(bench: Bench) -> Check:
    graph_encoders, plain, preprocess = _load_graph_encoders(bench)
    pictures = [frames(1)[0], frames(1)[0][:300, :400].copy()]
    sizes = []
    for _ in range(2):
        for number in range(150):
            _agreement(graph_encoders, plain, preprocess, [pictures[number % 2]])
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_allocated())
    text = f"{sizes[0] / 2**20:.1f} MiB after 150 frames, {sizes[1] / 2**20:.1f} after 300"
    return Check("memory is flat", sizes[0] == sizes[1], text)


def _infinity_passes(bench: Bench) -> Check:
    graph_encoders, plain, preprocess = _load_graph_encoders(bench)
    inputs = dict(preprocess(frames(1)))
    infinite_inputs = {key: torch.full_like(values, torch.inf) for key, values in inputs.items()}
    tokens = graph_encoders(infinite_inputs, with_tokens=True, grounding_rows=[0]).tokens
    assert tokens is not None
    all_infinite = not bool(tokens.isfinite().any())
    min_cosine = _agreement(graph_encoders, plain, preprocess, frames(1))
    is_correct = all_infinite and min_cosine >= 0.9999 and not graph_encoders.trouble
    return Check(
        "infinity in one frame, then another frame", is_correct, f"least cosine {min_cosine:.6f}"
    )


@contextmanager
def _wait_in_capture(graph_encoders: GraphedEncoders) -> Iterator[None]:
    run = graph_encoders._encoders.run_all

    def run_all(jobs: Any) -> Any:
        results = run(jobs)
        if torch.cuda.is_current_stream_capturing():
            results[0][0].sum().item()
        return results

    graph_encoders._encoders.run_all = run_all
    yield
    graph_encoders._encoders.run_all = run


@contextmanager
def _starve(graph_encoders: GraphedEncoders) -> Iterator[None]:
    """Make the process request memory beyond its limit within a capture."""
    run = graph_encoders._encoders.run_all
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

    graph_encoders._encoders.run_all = run_all
    yield
    graph_encoders._encoders.run_all = run


def _broken_capture(bench: Bench, name: str, spoil: Any) -> Check:
    graph_encoders, plain, preprocess = _load_graph_encoders(bench)
    with spoil(graph_encoders):
        first = _agreement(graph_encoders, plain, preprocess, frames(1))
    later = [_agreement(graph_encoders, plain, preprocess, frames(2)[1:]) for _ in range(3)]
    fresh, plain, preprocess = _load_graph_encoders(bench)
    recaptured = _agreement(fresh, plain, preprocess, frames(1))
    min_cosine = min(first, *later, recaptured)
    is_correct = min_cosine >= 0.9999 and bool(graph_encoders.trouble) and not fresh.trouble
    text = (
        f"least cosine {min_cosine:.6f} then; reported: {graph_encoders.trouble};"
        " another model captures again"
    )
    return Check(name, is_correct, text)


def _another_thread(bench: Bench) -> Check:
    """Check captures while another thread allocates and frees GPU memory."""
    import threading

    graph_encoders, plain, preprocess = _load_graph_encoders(bench)
    stop = threading.Event()

    def churn() -> None:
        stream = torch.cuda.Stream()
        while not stop.is_set():
            with torch.cuda.stream(stream):
                torch.randn(256, 256, device="cuda").matmul(torch.randn(256, 256, device="cuda"))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        min_cosine = min(
            _agreement(graph_encoders, plain, preprocess, [frames(1)[0][:height].copy()])
            for height in range(200, 280, 10)
        )
    finally:
        stop.set()
        thread.join()
    is_correct = min_cosine >= 0.9999 and not graph_encoders.trouble
    return Check(
        "captures beside another thread's work", is_correct, f"least cosine {min_cosine:.6f}"
    )


def speed(bench: Bench) -> Findings:
    """Time every candidate in alternation with transformers' eager bf16, one to three cameras.

    Ours go from uint8 frames on the host to tokens on the host, transformers' from normalized
    pixels on the GPU to tokens there, without the copies and the resize.
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
    """run: processes a batch of this many images into tokens, and objects if there is a query."""

    name: str
    run: Callable[[int], object]


def _ours(name: str, pipeline: Pipeline, query: Query | None = None) -> Contender:
    tasks = [Task(Frame(image), query) for image in frames(3)]
    return Contender(name, lambda batch: pipeline.process_batch(tasks[:batch]))


def _eager(bench: Bench, size: str) -> Contender:
    name = f"transformers {'fp32' if bench.rehearse else 'bf16'}"
    candidate = make_candidate(name, bench.model(size), SIZES[size], bench.device)
    return Contender(_BASELINE, torch.inference_mode()(candidate.run))


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


def compiled_models(bench: Bench) -> Findings:
    """Time transformers' models under torch.compile, at OpenVLA's size."""
    if bench.rehearse:
        return Findings(facts={"torch.compile": "not on a CPU"})
    size = "openvla"
    contract = contracts.get(SIZES[size])
    encoder_inputs = {spec.name: EncoderInput.of(contract, spec) for spec in contract.encoders}
    inputs = Preprocessor(tuple(encoder_inputs.values()), CPU)(frames(1))
    passes: list[tuple[Any, Tensor]] = []
    start = time.perf_counter()
    for name, weights in Checkpoint(resolve(bench.model(size))).load(contract).vision.items():
        network = to_transformers(weights)
        network.to(bench.device, torch.bfloat16)
        pixel_values = inputs[encoder_inputs[contract.encoder(name).name]].to(
            bench.device, torch.bfloat16
        )
        passes.append((torch.compile(network, mode="reduce-overhead"), pixel_values))

    @torch.inference_mode()
    def run(batch: int) -> None:
        for network, pixel_values in passes:
            network(pixel_values, output_hidden_states=True)

    for _ in range(3):
        run(1)
    bench.synchronize()
    facts = {"torch.compile took": f"{time.perf_counter() - start:.0f} s"}
    contenders = [_eager(bench, size), Contender("transformers bf16, torch.compile", run)]
    return Findings(timings=tuple(_in_turn(bench, size, 1, contenders)), facts=facts)


@contextmanager
def _without_kernels() -> Iterator[None]:
    with mock.patch.object(triton_kernels, "trouble", return_value="left out, to measure"):
        yield


def _in_turn(
    bench: Bench, size: str, batch: int, contenders: Sequence[Contender]
) -> Iterator[Timing]:
    """Time all contenders, a few passes each in turn, so that a disturbance hits all of them."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        for _ in range(1 if bench.rehearse else 5):
            contender.run(batch)
    for _ in range(max(bench.passes // 10, 1)):
        for contender in contenders:
            passes = min(bench.passes, 3 if contender.name == _BASELINE else 10)
            job = functools.partial(contender.run, batch)
            times[contender.name] += [bench.time(job) for _ in range(passes)]
    baseline = statistics.median(times[_BASELINE])
    for name, seconds in times.items():
        p50 = statistics.median(seconds)
        p99 = float(np.percentile(seconds, 99))
        yield Timing(size, batch, name, p50 * 1e3, p99 * 1e3, baseline / p50, len(seconds))


def tensorrt(bench: Bench) -> Findings:
    """Check TensorRT's engines, if TensorRT is installed."""
    from siglip_perception.backends.tensorrt import probe

    if bench.rehearse or not probe.is_installed():
        return Findings(facts={"tensorrt": "not installed"})
    try:
        pipeline = Pipeline.load(
            ModelSelection("tabletop", backend="tensorrt", device="cuda", precision="bf16")
        )
    except BackendError as error:
        return Findings((Check("tensorrt", False, str(error)),))
    tokens = pipeline.process(Frame(frames(1)[0]), None).tokens
    host_pipeline = Pipeline.load(ModelSelection(device="cpu", precision="fp32"))
    reference = host_pipeline.process(Frame(frames(1)[0]), None).tokens
    assert tokens is not None
    assert reference is not None
    cosine = float(
        torch.cosine_similarity(
            torch.from_numpy(tokens.data), torch.from_numpy(reference.data), dim=-1
        ).min()
    )
    text = f"least cosine {cosine:.6f} (limit {LIMITS['bf16']:g}); {pipeline.backend}"
    return Findings((Check("tabletop, TensorRT's tokens", cosine >= LIMITS["bf16"], text),))


# In order of importance, in case the time does not suffice for all.
_RUN: dict[str, Callable[[Bench], Findings]] = {
    "machine": machine,
    "pixels": pixels,
    "outputs": outputs,
    "graphs": graphs,
    "objects": objects,
    "speed": speed,
    "blocks": blocks,
    "tensorrt": tensorrt,
    "compiled": compiled_models,
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
