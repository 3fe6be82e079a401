"""What runs the encoders: PyTorch, or engines built of its ONNX export, behind one protocol.

The protocol is encoders.Segment: a run of blocks of one tower, tensors in, tensors out. What is
common to all backends, such as which block is tapped and the final norm, is in encoders.py, once.
"""

from __future__ import annotations

import torch

from siglip_perception.backends.cuda_graph import undisturbed
from siglip_perception.backends.select import Choice, choose, without_bf16
from siglip_perception.backends.serving import Runner, Serving, runner
from siglip_perception.backends.tensorrt.background_build import Source, Swapping, builder_command
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.errors import BackendError

__all__ = ["Choice", "Serving", "Source", "choose", "start", "without_bf16"]

# In bf16 OpenVINO takes two thirds of PyTorch's time with the embedded model's 3.4 M weights, and
# as much of it, with twice the memory, with two ViT-B's 170 M (docs/speed.md).
_FEW_WEIGHTS = 30_000_000


def start(encoders: Encoders, choice: Choice, source: Source | None = None) -> Serving:
    """Make the encoders ready to serve as was chosen; what serves is called in their place.

    source: where another process finds the same encoders. Given, TensorRT's engines that have to
        be built first are built there, while PyTorch serves; else they are waited for.
    Raises BackendError, one sentence, where it cannot be.
    """
    if choice.backend == "openvino":
        from siglip_perception.backends.cache import EngineCache
        from siglip_perception.backends.openvino import graphs, int8

        cache = EngineCache()
        notes = [choice.why]
        if choice.precision == "int8":
            notes.append(str(int8.report_of(encoders, cache)))
        head = _head(graphs.serve(encoders, choice.precision, cache), choice)
        return Serving(encoders, head, notes)
    if choice.backend == "tensorrt":
        return _tensorrt(encoders, choice, source)
    engine, reason = _proven(encoders, choice) if choice.automatic else (None, "")
    if engine is not None:
        return Serving(*engine, [choice.why, reason])
    return _torch(encoders, choice, reason)


def _head(what: str, choice: Choice) -> str:
    on = torch.cuda.get_device_name() if choice.device.type == "cuda" else choice.device.type
    return f"{what} on {on}, {choice.precision}"


def _torch(encoders: Encoders, choice: Choice, *notes: str) -> Serving:
    encoders.prepare(choice.device, choice.dtype)
    head = _head(f"torch {torch.__version__}", choice)
    return Serving(runner(encoders, choice.device), head, [choice.why, *notes])


def _tensorrt(encoders: Encoders, choice: Choice, source: Source | None) -> Serving:
    from siglip_perception.backends.cache import EngineCache
    from siglip_perception.backends.tensorrt import engines
    from siglip_perception.util.progress import build_progress

    target = engines.Target.here(choice.device, choice.precision)
    cache = EngineCache()
    head = _head(target.name, choice)
    if source is None:
        with build_progress() as progress:
            ready = engines.load_or_build(encoders, target, cache, progress)
        return Serving(runner(ready, choice.device), head, [choice.why])
    try:
        found = engines.load(encoders, target, cache)
    except BackendError as error:
        return _torch(encoders, choice, f"no TensorRT engine: {str(error).rstrip('.')}")
    if found is not None:
        return Serving(runner(found, choice.device), head, [choice.why])
    if why := engines.refusal(encoders, target, cache):
        # Minutes of a busy GPU at each start, for engines that would be refused again.
        again = "`siglip-perception export --backend tensorrt` builds them anew"
        note = f"no TensorRT engine: {why.rstrip('.')}; they were put aside, {again}"
        return _torch(encoders, choice, note)

    serving = _torch(encoders, choice)

    def load() -> tuple[Runner, str]:
        with undisturbed:
            ready = engines.load(encoders, target, cache)
        if ready is None:
            raise BackendError("the engines that were built are not found again; see the log")
        return runner(ready, choice.device), head

    return Swapping(
        serving,
        builder_command(source, target.library.__name__, choice.device, choice.precision),
        load,
    )


def _proven(encoders: Encoders, choice: Choice) -> tuple[tuple[Runner, str] | None, str]:
    """An engine that is faster than PyTorch, was built before and passes its self-test.

    What serves and its name, None where PyTorch is to; and the reason.
    """
    if choice.device.type == "cuda":
        return _proven_on_gpu(encoders, choice)
    if choice.precision == "fp32":
        where = "in fp32"
    elif choice.precision == "bf16" and _weights(encoders) <= _FEW_WEIGHTS:
        where = "for a model this small"
    else:
        return None, "PyTorch's packed products, which nothing here surpasses"
    from siglip_perception.backends.openvino import graphs

    if not graphs.is_installed():
        return None, f"OpenVINO, which is faster {where}, is not installed"
    if not graphs.is_built(encoders):
        return None, (
            f"OpenVINO is faster {where} once `siglip-perception export --backend openvino"
            f" --precision {choice.precision}` has built its graphs"
        )
    try:
        head = _head(graphs.serve(encoders, choice.precision), choice)
    except BackendError as error:
        return None, f"OpenVINO does not serve: {error}"
    return (encoders, head), f"the fastest here {where}, built before"


def _weights(encoders: Encoders) -> int:
    return sum(
        weight.numel() for tower in encoders.towers.values() for weight in tower.parameters()
    )


def _proven_on_gpu(encoders: Encoders, choice: Choice) -> tuple[tuple[Runner, str] | None, str]:
    from siglip_perception.backends.cache import EngineCache
    from siglip_perception.backends.tensorrt import engines, probe

    if not probe.is_installed():
        return None, "TensorRT is not installed"
    try:
        target = engines.Target.here(choice.device, choice.precision)
        ready = engines.load(encoders, target, EngineCache())
    except BackendError as error:
        return None, f"TensorRT does not serve: {str(error).rstrip('.')}"
    if ready is None:
        return None, (
            "TensorRT serves once `siglip-perception export --backend tensorrt` has built this"
            " model's engines"
        )
    head = _head(target.name, choice)
    return (runner(ready, choice.device), head), "the fastest here, built before"
