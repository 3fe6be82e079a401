"""OpenVINO on a CPU: each range of blocks compiled from its ONNX export, in fp32, bf16 or int8.

The graphs are kept in the engine cache. Compiled, they have to give the tokens of PyTorch's
float32 pass (selftest.py) before they serve. int8 is never made on the way: it is calibrated on
the user's own frames (`siglip-perception export --precision int8`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siglip_perception.backends.base import selftest
from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.base.onnx_export import OPSET, RECIPE, Graph, export_blocks
from siglip_perception.backends.base.precision import without_bf16
from siglip_perception.encoders.encoders import Encoders, Segment, Tower
from siglip_perception.errors import BackendError
from siglip_perception.types import Precision
from siglip_perception.util import cpu, requirements

_MODEL = "model.xml"
NOT_CALIBRATED = (
    "The model has not been calibrated for int8 on this machine: run `siglip-perception export"
    " --backend openvino --precision int8 --calibrate` with a bag or a folder of your own frames,"
    " or use precision: auto."
)
Span = tuple[int, int]


def serve(encoders: Encoders, precision: Precision, cache: EngineCache | None = None) -> str:
    """Compile all towers of encoders that are not prepared, and let them serve.

    Returns OpenVINO's name and version. Raises BackendError if OpenVINO is not installed, int8 has
    not been calibrated, or the compiled blocks give other tokens.
    """
    cache = cache or EngineCache()
    core = shared_core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError(
            "OpenVINO has no bfloat16 on this CPU, and would run float32: use precision: fp32."
        )
    compiled: dict[str, dict[Span, Segment]] = {}
    for tower in encoders.towers.values():
        pad(tower)
    for key, tower in encoders.towers.items():
        compiled[key] = {
            span: _compile(core, model(tower, key, span, precision, cache), precision)
            for span in tower.block_ranges(key in encoders.grounding_keys)
        }
    expected = selftest.reference(encoders)
    for key, tower in encoders.towers.items():
        tower.serve(compiled[key])
    try:
        selftest.check(encoders, expected, precision, f"OpenVINO {version()}")
    except BackendError:
        for tower in encoders.towers.values():
            tower.serve({})  # PyTorch's own blocks are still there
        raise
    for tower in encoders.towers.values():
        tower.release()
    return f"openvino {version()}"


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def is_built(encoders: Encoders, cache: EngineCache | None = None) -> bool:
    """True if the float32 graphs of all towers are cached, so that serve() exports nothing."""
    cache = cache or EngineCache()
    for tower in encoders.towers.values():
        pad(tower)
    return all(
        cache.path_of(cache_facts(tower, span, "fp32")).is_dir()
        for key, tower in encoders.towers.items()
        for span in tower.block_ranges(key in encoders.grounding_keys)
    )


def pad(tower: Tower) -> None:
    """Pad the tower's sequence, which makes the pass an eighth faster with 261 tokens.

    The mask is [1, 1, T, T]: OpenVINO 2026.4 computes wrong values with [1, 1, 1, T].
    """
    tower.pad(None)


def load_library() -> Any:
    """Import the package; BackendError says what to do if that fails."""
    return requirements.load("backend: openvino", "openvino", kind=BackendError)


@functools.cache
def shared_core() -> Any:
    """Return OpenVINO's Core, one for the process and never destroyed.

    For AMX its CPU plugin gives the calling thread another signal stack, and unmaps it with the
    Core. If two Cores exist, destroying the second restores the stack of the first, which may be
    gone: the next signal that Python handles on this thread then ends the process.
    """
    return load_library().Core()


def version() -> str:
    return importlib.metadata.version("openvino")


def model(tower: Tower, key: str, span: Span, precision: Precision, cache: EngineCache) -> Path:
    """Return the file of one range of blocks, exported if it is not in the cache yet.

    Raises BackendError if it is int8 and has not been calibrated.
    """
    facts = cache_facts(tower, span, precision)
    entry = cache.get(facts)
    if entry is None and precision == "int8":
        raise BackendError(NOT_CALIBRATED)
    if entry is None:
        entry = cache.build(facts, lambda folder: convert(tower, key, span, folder))
    return entry / _MODEL


def cache_facts(tower: Tower, span: Span, precision: Precision) -> Mapping[str, str]:
    """Facts that the cache entry of a range of blocks depends on.

    int8 was judged on this CPU and counts only here: on one whose products saturate, the same
    graph can fail the limit that it passed.
    """
    int8_facts = {}
    if precision == "int8":  # only then: it imports OpenVINO, and multiplies
        bits = "7 bits" if int8_saturates() else "8 bits"
        int8_facts = {"cpu": cpu.name(), "int8 weights": bits}
    return {
        "kind": "openvino",
        "version": version(),
        "weights": tower.digest,
        "side": str(tower.input.square.size),
        "blocks": f"{span[0]}-{span[1]} of {tower.tokens} tokens",
        "recipe": f"{RECIPE}, opset {OPSET}",
        # bf16 is a way to compile the float32 graph, not another graph.
        "precision": "int8" if precision == "int8" else "fp32",
        **int8_facts,
    }


@functools.cache
def int8_saturates() -> bool:
    """True if sums of two int8 products saturate at 16 bits here, as they do without VNNI.

    Tried with a product whose sums of two, 2 x 255 x 127, need 17 bits.
    """
    library = load_library()
    operators = importlib.import_module("openvino.opset13")
    upper = np.float32(1)
    values = operators.parameter([1, 16, 64], np.float32)
    lower = np.float32(-128 / 127)
    quantized = operators.fake_quantize(values, lower, upper, lower, upper, 256)
    weight = operators.fake_quantize(
        operators.constant(np.ones((64, 64), np.float32)), -upper, upper, -upper, upper, 255
    )
    product = operators.matmul(quantized, weight, False, True)
    model = library.Model([operators.result(product)], [values])
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    output = compiled([np.ones((1, 16, 64), np.float32)])[0]
    return bool(abs(output - 64).max() > 1)


def convert(tower: Tower, key: str, span: Span, folder: Path) -> None:
    """Write the float32 graph of a range of blocks of a padded tower as OpenVINO's own files."""
    library = load_library()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        graph: Graph = export_blocks(tower, key, *span, Path(work), 1)
        library.save_model(library.convert_model(graph.path), folder / _MODEL, False)


def quantize(
    tower: Tower, key: str, span: Span, inputs: Sequence[Tensor], cache: EngineCache
) -> tuple[Path, Path]:
    """Quantize a range of blocks anew; returns the int8 file and the float32 one.

    inputs: the range's inputs, [1, ...] each, from the user's own frames.

    Where products saturate, weights take half of int8's range: every sum of two then fits, for one
    bit of precision. Raises BackendError if NNCF is not installed.
    """
    nncf = requirements.load("int8", "nncf", kind=BackendError)
    library = load_library()
    float32_path = model(tower, key, span, "fp32", cache)

    def make(folder: Path) -> None:
        quantized = nncf.quantize(
            shared_core().read_model(float32_path),
            nncf.Dataset([values.numpy() for values in inputs]),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(inputs),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE
                if int8_saturates()
                else nncf.OverflowFix.DISABLE
            ),
        )
        library.save_model(quantized, folder / _MODEL, False)

    facts = cache_facts(tower, span, "int8")
    cache.discard(facts)
    return cache.build(facts, make) / _MODEL, float32_path


def _compile(core: Any, path: Path, precision: Precision) -> Segment:
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _hint(precision),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    except RuntimeError as error:
        # The last line is the reason; the others are locations in OpenVINO's source.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        remedy = "remove its folder, or use" if precision == "fp32" else "use precision: fp32, or"
        raise BackendError(
            f"OpenVINO cannot compile {path} in {precision} ({reason}): {remedy} backend: torch."
        ) from error
    return segment(request)


def _hint(precision: Precision) -> str:
    """Return the arithmetic that OpenVINO uses where a graph is float32."""
    if precision == "fp32":
        return "f32"
    return "f32" if precision == "int8" and without_bf16(torch.device("cpu")) else "bf16"


def segment(request: Any) -> Segment:
    """Wrap a compiled graph of batch one as blocks over any batch."""

    def run(values: Tensor) -> Tensor:
        outputs = []
        for index in range(len(values)):
            image = values[index : index + 1].contiguous().numpy()
            out = request.infer([image], share_inputs=True)[0]
            outputs.append(torch.from_numpy(out))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return run
