"""Process of one candidate: it loads the candidate once and runs passes on request.

    python -m siglip_perception.commands.bench.child CANDIDATE MODEL CONTRACT DEVICE

Jobs come as lines of JSON on standard input, and each is answered with one on standard output:

    {"pass": B, "warm": true} -> {"ms": ...}        a pass over B images, after a warm-up pass
    {"rate": "float32"}       -> {"gflops": ...}    a product of 2048 x 2048 matrices, or smaller
    {"tokens": FILE}          -> {"peak_mib": ...}  tokens of one image, into an .npy file
"""

from __future__ import annotations

import functools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siglip_perception import backends, contracts
from siglip_perception.backends.base.selftest import frames
from siglip_perception.backends.base.serving import Runner
from siglip_perception.checkpoints import Checkpoint, resolve
from siglip_perception.checkpoints.networks import to_transformers
from siglip_perception.commands.bench import MAX_IMAGES
from siglip_perception.config import ModelSelection
from siglip_perception.contracts import Contract
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import PerceptionError
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame, Task
from siglip_perception.util.flops import count

_MAX_SIDE, _MIN_SIDE = 2048, 128
# Longest time of one matrix product, in seconds: if it would take longer, as in an emulated
# precision, the matrices are smaller.
_MAX_SECONDS = 0.25
_CALIBRATION_FRAMES = 12
Pass = Callable[[int], Tensor]


@dataclass(frozen=True)
class Candidate:
    """run: B images -> tokens [B, N, dim]. says: description. gflop: per image; 0: not counted."""

    run: Pass
    says: str
    gflop: float = 0.0


def _pixels(contract: Contract, device: torch.device) -> dict[str, Tensor]:
    inputs = {spec.name: EncoderInput.of(contract, spec) for spec in contract.encoders}
    values = Preprocessor(tuple(inputs.values()), torch.device("cpu"))(frames(MAX_IMAGES))
    return {name: values[key].to(device) for name, key in inputs.items()}


def _gflop(encoders: Encoders, inputs: Mapping[EncoderInput, Tensor]) -> float:
    return count(lambda: encoders(inputs, with_tokens=True, grounding_rows=[])) / 1e9


def _transformers(
    model: str, name: str, contract: Contract, device: torch.device, dtype: torch.dtype
) -> Candidate:
    """Load transformers' own models unchanged: eager attention, all blocks, all hidden states."""
    plan = ModelPlan.load(ModelSelection(model, name))
    encoders = Encoders(plan.contract, plan.towers, plan.token_towers, {})
    pixels = _pixels(contract, device)
    inputs = {EncoderInput.of(contract, s): pixels[s.name][:1].cpu() for s in contract.encoders}
    gflop = _gflop(encoders, inputs)
    del plan, encoders
    networks: dict[str, Any] = {}
    for encoder, network in Checkpoint(resolve(model)).load(contract).vision.items():
        reference = to_transformers(network)
        reference.set_attn_implementation("eager")
        networks[encoder] = reference.to(device, dtype)

    def run(batch: int) -> Tensor:
        parts = []
        for spec in contract.encoders:
            out = networks[spec.name](
                pixels[spec.name][:batch].to(dtype), output_hidden_states=True
            )
            tokens = out.hidden_states[spec.tap]
            if spec.norm or spec.more_taps:
                raise PerceptionError("bench needs a contract of one tap before the norm.")
            parts.append(tokens[:, spec.prefix :])
        return torch.cat(parts, dim=-1)

    return Candidate(run, f"transformers' eager models, {dtype}", gflop)


def _timm(model: str, contract: Contract, device: torch.device) -> Candidate:
    from siglip_perception.parity.reference import timm_network

    if not all(spec.timm for spec in contract.encoders):
        raise PerceptionError("timm has no models of this contract's encoders.")
    pixels = _pixels(contract, device)
    networks = {
        spec.name: timm_network(spec, Path(model)).to(device) for spec in contract.encoders
    }

    def run(batch: int) -> Tensor:
        parts = []
        for spec in contract.encoders:
            network = networks[spec.name]
            parts += network.get_intermediate_layers(
                pixels[spec.name][:batch], n={len(network.blocks) + spec.tap}, norm=spec.norm
            )
        return torch.cat(parts, dim=-1)

    return Candidate(run, "timm's models, float32")


def _ours(
    model: str, contract: str, device: torch.device, backend: str, precision: str
) -> Candidate:
    if device.type == "cuda":
        return _pipeline(model, contract, backend, precision)
    plan = ModelPlan.load(ModelSelection(model, contract))
    encoders = Encoders(plan.contract, plan.towers, plan.token_towers, {})
    pixels = _pixels(plan.contract, device)
    choice = backends.choose(backend, device.type, precision)
    serving: Runner = encoders
    if precision == "int8":
        from siglip_perception.backends.base.cache import EngineCache
        from siglip_perception.backends.openvino.int8 import calibrate

        calibrate(
            encoders, frames(_CALIBRATION_FRAMES), 0.5, EngineCache(), lambda count, total: None
        )
        description = "openvino, int8"
    else:
        serving = backend_serving = backends.start(encoders, choice)
        description = backend_serving.description
    inputs = {EncoderInput.of(plan.contract, s): pixels[s.name] for s in plan.contract.encoders}

    def run(batch: int) -> Tensor:
        images: Mapping[EncoderInput, Tensor] = {
            key: values[:batch] for key, values in inputs.items()
        }
        tokens = serving(images, with_tokens=True, grounding_rows=[]).tokens
        assert tokens is not None
        return tokens

    return Candidate(run, description)


def _pipeline(model: str, contract: str, backend: str, precision: str) -> Candidate:
    """Load a pipeline for a GPU: host frames to host tokens, preprocessing and copies included."""
    pipeline = Pipeline.load(
        ModelSelection(model, contract, backend=backend, device="cuda", precision=precision)
    )
    tasks = [Task(Frame(frame)) for frame in frames(MAX_IMAGES)]

    def run(batch: int) -> Tensor:
        grids = []
        for result in pipeline.process_batch(tasks[:batch]):
            if isinstance(result, FloatingPointError) or result.tokens is None:
                raise PerceptionError("The pipeline gave no tokens.")
            grids.append(torch.from_numpy(result.tokens.data))
        return torch.stack(grids)

    return Candidate(run, pipeline.backend)


def make(name: str, model: str, contract: str, device: torch.device) -> Candidate:
    """Load the candidate of this name, a library and a precision, as in "openvino bf16"."""
    library, precision = name.split()
    content = (
        contracts.get(contract) if contract else ModelPlan.load(ModelSelection(model)).contract
    )
    if library == "transformers":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return _transformers(model, contract, content, device, dtype)
    if library == "timm":
        return _timm(model, content, device)
    return _ours(model, contract, device, library, precision)


@torch.inference_mode()
def answer(job: Mapping[str, Any], candidate: Candidate, device: torch.device) -> dict[str, Any]:
    """Do one job and return the answer; see the module."""
    if "pass" in job:
        if job["warm"]:
            candidate.run(int(job["pass"]))
        return {"ms": _time(lambda: candidate.run(int(job["pass"])), device) * 1e3}
    if "rate" in job:
        return {"gflops": _rate(getattr(torch, job["rate"]), device)}
    tokens = candidate.run(1).float().cpu().numpy()
    np.save(job["tokens"], tokens)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"peak_mib": peak, "says": candidate.says, "gflop": candidate.gflop}


def _rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the GFLOP/s of a square matrix product in the dtype."""
    side = _MIN_SIDE
    while True:
        square = torch.randn(side, side, device=device).to(dtype)
        product = functools.partial(torch.mm, square, square)
        _time(product, device)  # compiles the kernel, wakes threads and fills caches
        if side == _MAX_SIDE or 8 * _time(product, device) > _MAX_SECONDS:
            break
        side *= 2
    seconds = statistics.median(_time(product, device) for _ in range(5))
    return 2 * side**3 / seconds / 1e9


def _time(job: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> int:
    name, model, contract, device_name = sys.argv[1:]
    # Redirect stdout to stderr, so that nothing a library prints gets between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    device = torch.device(device_name)
    try:
        candidate = make(name, model, contract, device)
        with torch.inference_mode():
            for _ in range(2):
                candidate.run(1)
    except (PerceptionError, torch.OutOfMemoryError) as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return 0
    print(json.dumps({"ready": candidate.says}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), candidate, device)), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
