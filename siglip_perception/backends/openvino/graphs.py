"""OpenVINO on a CPU: each run of blocks compiled of its ONNX export, in fp32, bf16 or int8.

The graphs are kept in the engine cache; what is compiled of them has to give the tokens of
PyTorch's float32 pass (selftest.py) before it serves. int8 is never made on the way: it needs
frames of the user's own to calibrate on (`siglip-perception export --precision int8`).
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

from siglip_perception.backends import selftest
from siglip_perception.backends.cache import EngineCache
from siglip_perception.backends.onnx_export import OPSET, RECIPE, Graph, export_run
from siglip_perception.backends.select import without_bf16
from siglip_perception.encoders.encoders import Encoders, Segment, Tower
from siglip_perception.errors import BackendError
from siglip_perception.types import Precision
from siglip_perception.util import cpu, requirements

_MODEL = "model.xml"
# Frames that int8's ranges are taken from; NNCF's own default.
CALIBRATION_FRAMES = 300
NOT_CALIBRATED = (
    "The model has not been calibrated for int8 on this machine: run `siglip-perception export"
    " --backend openvino --precision int8 --calibrate` with a bag or a folder of your own frames,"
    " or use precision: auto."
)
Span = tuple[int, int]


def serve(encoders: Encoders, precision: Precision, cache: EngineCache | None = None) -> str:
    """Compile all towers of an Encoders that is not prepared, and let them serve.

    What serves, in words. Raises BackendError where OpenVINO is not installed, int8 has not been
    calibrated, or the compiled blocks give other tokens.
    """
    cache = cache or EngineCache()
    core = the_core()
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
            for span in tower.parts(key in encoders.reads)
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
    """Whether the float32 graphs of all towers are in the cache, so that serve() exports none."""
    cache = cache or EngineCache()
    for tower in encoders.towers.values():
        pad(tower)
    return all(
        cache.place(facts_of(tower, span, "fp32")).is_dir()
        for key, tower in encoders.towers.items()
        for span in tower.parts(key in encoders.reads)
    )


def pad(tower: Tower) -> None:
    """Pad its sequence, which makes attention over 261 tokens an eighth of the pass faster.

    A mask [1, 1, 1, T] would do, but OpenVINO 2026.4 computes something else with one.
    """
    tower.pad(None)


def load_library() -> Any:
    """The package; BackendError with what to do where it cannot be imported."""
    return requirements.load("backend: openvino", "openvino", kind=BackendError)


@functools.cache
def the_core() -> Any:
    """OpenVINO's entry, one for the process and never destroyed.

    For AMX its CPU plugin gives the calling thread another stack for signals, and unmaps it with
    the Core. Of two Cores the second then puts that of the first back when that is gone: the next
    signal that Python handles on this thread ends the process.
    """
    return load_library().Core()


def version() -> str:
    return importlib.metadata.version("openvino")


def model(tower: Tower, key: str, span: Span, precision: Precision, cache: EngineCache) -> Path:
    """The file of one run of blocks, exported where it is not in the cache yet.

    Raises BackendError where it is int8 and has not been calibrated.
    """
    facts = facts_of(tower, span, precision)
    found = cache.get(facts)
    if found is None and precision == "int8":
        raise BackendError(NOT_CALIBRATED)
    if found is None:
        found = cache.build(facts, lambda folder: convert(tower, key, span, folder))
    return found / _MODEL


def facts_of(tower: Tower, span: Span, precision: Precision) -> Mapping[str, str]:
    """What the entry of a run of blocks in the cache depends on.

    int8 was judged on this CPU, and is known here alone: on one whose products saturate, the same
    graph can lose what it was accepted for.
    """
    judged = {"cpu": cpu.name(), "int8 weights": "7 bits" if int8_saturates() else "8 bits"}
    return {
        "kind": "openvino",
        "version": version(),
        "weights": tower.digest,
        "side": str(tower.fed.square.size),
        "blocks": f"{span[0]}-{span[1]} of {tower.tokens} tokens",
        "recipe": f"{RECIPE}, opset {OPSET}",
        # bf16 is how float32 is compiled, not another graph.
        "precision": "int8" if precision == "int8" else "fp32",
        **(judged if precision == "int8" else {}),
    }


@functools.cache
def int8_saturates() -> bool:
    """Whether sums of two int8 products are cut to 16 bits here, as they are without VNNI.

    Tried with a product whose sums of two, 2 x 255 x 127, need 17 bits.
    """
    library = load_library()
    operators = importlib.import_module("openvino.opset13")
    bound = np.float32(1)
    values = operators.parameter([1, 16, 64], np.float32)
    low = np.float32(-128 / 127)
    narrow = operators.fake_quantize(values, low, bound, low, bound, 256)
    weight = operators.fake_quantize(
        operators.constant(np.ones((64, 64), np.float32)), -bound, bound, -bound, bound, 255
    )
    product = operators.matmul(narrow, weight, False, True)
    model = library.Model([operators.result(product)], [values])
    compiled = the_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([np.ones((1, 16, 64), np.float32)])[0]
    return bool(abs(found - 64).max() > 1)


def convert(tower: Tower, key: str, span: Span, folder: Path) -> None:
    """Write the float32 graph of a run of blocks of a padded tower as OpenVINO's own files."""
    library = load_library()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        graph: Graph = export_run(tower, key, *span, Path(work), 1)
        library.save_model(library.convert_model(graph.path), folder / _MODEL, False)


def quantize(
    tower: Tower, key: str, span: Span, inputs: Sequence[Tensor], cache: EngineCache
) -> tuple[Path, Path]:
    """The int8 and the float32 file of a run of blocks; int8 is made anew, and replaces an older.

    inputs: what enters it, [1, ...] each, of the user's own frames. Where products saturate the
    weights take half of int8's range: all sums of two then fit, for one bit of precision.
    Raises BackendError where NNCF is not installed.
    """
    nncf = requirements.load("int8", "nncf", kind=BackendError)
    library = load_library()
    exact = model(tower, key, span, "fp32", cache)

    def make(folder: Path) -> None:
        narrow = nncf.quantize(
            the_core().read_model(exact),
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
        library.save_model(narrow, folder / _MODEL, False)

    facts = facts_of(tower, span, "int8")
    cache.discard(facts)
    return cache.build(facts, make) / _MODEL, exact


def _compile(core: Any, path: Path, precision: Precision) -> Segment:
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _hint(precision),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    except RuntimeError as error:
        # The last line is the reason, the others are places in OpenVINO's source.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        mend = "remove its folder, or use" if precision == "fp32" else "use precision: fp32, or"
        raise BackendError(
            f"OpenVINO cannot compile {path} in {precision} ({reason}): {mend} backend: torch."
        ) from error
    return segment(request)


def _hint(precision: Precision) -> str:
    """What OpenVINO computes in where a graph is float32."""
    if precision == "fp32":
        return "f32"
    return "f32" if precision == "int8" and without_bf16(torch.device("cpu")) else "bf16"


def segment(request: Any) -> Segment:
    """A compiled graph of batch one as blocks over any batch."""

    def run(values: Tensor) -> Tensor:
        found = []
        for index in range(len(values)):
            one = values[index : index + 1].contiguous().numpy()
            out = request.infer([one], share_inputs=True)[0]
            found.append(torch.from_numpy(out))
        return found[0] if len(found) == 1 else torch.cat(found)

    return run
