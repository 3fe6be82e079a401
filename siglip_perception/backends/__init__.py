"""Backends: PyTorch, or engines built from its ONNX export, run the encoders behind one protocol.

The protocol is encoders.Segment: a range of one tower's blocks, tensors in, tensors out. What is
common to all backends, such as the tapped block and the final norm, is in encoders.py, once.
"""

from __future__ import annotations

import torch

from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.base.cuda_graph import capture_lock
from siglip_perception.backends.base.precision import without_bf16
from siglip_perception.backends.base.serving import Runner, Serving, runner
from siglip_perception.backends.select import BackendChoice, choose
from siglip_perception.backends.tensorrt.background_build import (
    BackgroundServing,
    builder_command,
)
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.errors import BackendError, CacheError

__all__ = ["BackendChoice", "Serving", "choose", "start", "without_bf16"]

# Largest model, in weights, that OpenVINO serves in bf16 by choice of `auto`. There it takes two
# thirds of PyTorch's time with the embedded model's 3.4 M weights, and as long, with twice the
# memory, with two ViT-B's 170 M (docs/speed.md).
_SMALL_MODEL_WEIGHTS = 30_000_000


def start(
    encoders: Encoders, choice: BackendChoice, selection: ModelSelection | None = None
) -> Serving:
    """Make the encoders ready to serve with a backend; the result is called in their place.

    selection: what the encoders were loaded by. With it, missing TensorRT engines are
        built by another process while PyTorch serves; without it, this call waits for them.

    Raises BackendError, one sentence, if the backend cannot serve.
    """
    cache = EngineCache.usable()
    try:
        serving = _start(encoders, choice, selection, cache)
    except CacheError as error:  # such as a disk that is full now
        cache = EngineCache.private(str(error))
        serving = _start(encoders, choice, selection, cache)
    serving.warnings = cache.warnings
    return serving


def _start(
    encoders: Encoders,
    choice: BackendChoice,
    selection: ModelSelection | None,
    cache: EngineCache,
) -> Serving:
    if encoders.free:
        if choice.backend != "torch":
            raise BackendError(
                f"{choice.backend} runs one size of image, and the contract's grid changes with"
                " the image: use the backend torch."
            )
        encoders.prepare(choice.device, choice.dtype)
        return Serving(encoders, _title(f"torch {torch.__version__}", choice), [choice.reason])
    if choice.backend == "openvino":
        from siglip_perception.backends.openvino import graphs, int8

        notes = [choice.reason]
        if choice.precision == "int8":
            notes.append(str(int8.report_of(encoders, cache)))
        title = _title(graphs.serve(encoders, choice.precision, cache), choice)
        return Serving(encoders, title, notes)
    if choice.backend == "tensorrt":
        return _tensorrt(encoders, choice, selection, cache)
    engine, reason = _proven_engine(encoders, choice, cache) if choice.automatic else (None, "")
    if engine is not None:
        return Serving(*engine, [choice.reason, reason])
    return _torch(encoders, choice, reason)


def _title(name: str, choice: BackendChoice) -> str:
    device = torch.cuda.get_device_name() if choice.device.type == "cuda" else choice.device.type
    return f"{name} on {device}, {choice.precision}"


def _torch(encoders: Encoders, choice: BackendChoice, *notes: str) -> Serving:
    encoders.prepare(choice.device, choice.dtype)
    title = _title(f"torch {torch.__version__}", choice)
    return Serving(runner(encoders, choice.device), title, [choice.reason, *notes])


def _tensorrt(
    encoders: Encoders,
    choice: BackendChoice,
    selection: ModelSelection | None,
    cache: EngineCache,
) -> Serving:
    from siglip_perception.backends.tensorrt import engines
    from siglip_perception.util.progress import build_progress

    target = engines.EngineTarget.detect(choice.device, choice.precision)
    title = _title(target.name, choice)
    if selection is None:
        with build_progress() as progress:
            engine_encoders = engines.load_or_build(encoders, target, cache, progress)
        return Serving(runner(engine_encoders, choice.device), title, [choice.reason])
    try:
        cached_encoders = engines.load(encoders, target, cache)
    except BackendError as error:
        return _torch(encoders, choice, f"no TensorRT engine: {str(error).rstrip('.')}")
    if cached_encoders is not None:
        return Serving(runner(cached_encoders, choice.device), title, [choice.reason])
    if refusal := engines.refusal(encoders, target, cache):
        # Do not build: each start would keep the GPU busy for minutes, for engines that are
        # refused again.
        remedy = "`siglip-perception export --backend tensorrt` builds them anew"
        note = f"no TensorRT engine: {refusal.rstrip('.')}; they were put aside, {remedy}"
        return _torch(encoders, choice, note)

    serving = _torch(encoders, choice)

    def load() -> tuple[Runner, str]:
        with capture_lock:
            cached_encoders = engines.load(encoders, target, cache)
        if cached_encoders is None:
            raise BackendError("the engines just built are not in the cache; see the log")
        return runner(cached_encoders, choice.device), title

    return BackgroundServing(
        serving,
        builder_command(selection, target.library.__name__, choice.device, choice.precision),
        load,
    )


def _proven_engine(
    encoders: Encoders, choice: BackendChoice, cache: EngineCache
) -> tuple[tuple[Runner, str] | None, str]:
    """Return an engine that is faster than PyTorch, already built, and passes its self-test.

    Its runner and title, None if PyTorch is to serve; and the reason.
    """
    if choice.device.type == "cuda":
        return _proven_on_gpu(encoders, choice, cache)
    if choice.precision == "fp32":
        condition = "in fp32"
    elif choice.precision == "bf16" and _count_weights(encoders) <= _SMALL_MODEL_WEIGHTS:
        condition = "for a model this small"
    else:
        return None, "PyTorch's packed products, which nothing here surpasses"
    from siglip_perception.backends.openvino import graphs

    if not graphs.is_installed():
        return None, f"OpenVINO, which is faster {condition}, is not installed"
    if not graphs.is_built(encoders, cache):
        return None, (
            f"OpenVINO is faster {condition} once `siglip-perception export --backend openvino"
            f" --precision {choice.precision}` has built its graphs"
        )
    try:
        title = _title(graphs.serve(encoders, choice.precision, cache), choice)
    except BackendError as error:
        return None, f"OpenVINO does not serve: {error}"
    return (encoders, title), f"the fastest here {condition}, built before"


def _count_weights(encoders: Encoders) -> int:
    return sum(
        weight.numel() for tower in encoders.towers.values() for weight in tower.parameters()
    )


def _proven_on_gpu(
    encoders: Encoders, choice: BackendChoice, cache: EngineCache
) -> tuple[tuple[Runner, str] | None, str]:
    from siglip_perception.backends.tensorrt import engines, probe

    if not probe.is_installed():
        return None, "TensorRT is not installed"
    try:
        target = engines.EngineTarget.detect(choice.device, choice.precision)
        cached_encoders = engines.load(encoders, target, cache)
    except BackendError as error:
        return None, f"TensorRT does not serve: {str(error).rstrip('.')}"
    if cached_encoders is None:
        return None, (
            "TensorRT serves once `siglip-perception export --backend tensorrt` has built this"
            " model's engines"
        )
    title = _title(target.name, choice)
    return (runner(cached_encoders, choice.device), title), "the fastest here, built before"
