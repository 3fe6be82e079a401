"""TensorRT's objects: an ONNX file -> an engine's bytes, and these -> blocks that serve.

Written for TensorRT 10.3 to 11 and TensorRT-RTX, whose Python modules have the same classes; the
module is a parameter throughout, `library`. Networks are strongly typed: the precision is in the
graph, and no builder flag changes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siglip_perception.backends.base.onnx_export import INPUT, OUTPUT
from siglip_perception.errors import BackendError, first_line

_LOGGER = logging.getLogger(__name__)
# Batch sizes of an engine: least, the one it is tuned for, most. More cameras are served in
# several passes.
BATCHES = (1, 1, 4)
# Memory that a layer's kernels may use; the largest activations here are a few MiB.
_WORKSPACE_BYTES = 1 << 30
Shape = tuple[int, ...]
Report = Callable[[float], None]


def make_log(library: Any) -> Any:
    """Create a logger into Python's log; its `last` is the last error's first line, or empty."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.last = next(iter(message.splitlines()), "").strip()
                _LOGGER.error("TensorRT: %s", message)
            elif severity == library.ILogger.WARNING:
                _LOGGER.info("TensorRT: %s", message)

    return Log()


def build(library: Any, onnx: Path, shape: Shape, report: Report) -> bytes:
    """Build the engine of a graph for batches of BATCHES; takes minutes on a small GPU.

    shape: the input's, without the batch.
    report: called with the progress in [0, 1], also from other threads.

    Raises BackendError with TensorRT's own reason.
    """
    log = make_log(library)
    builder = library.Builder(log)
    # TensorRT 11 and later have no other kind of network, and may drop the flag.
    strongly_typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BackendError(
            f"TensorRT {library.__version__} cannot read {onnx.name}"
            f" ({first_line(errors[0] if errors else log.last)}): use backend: torch."
        )
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    # An engine stays on its own stream: the other tower runs beside it.
    config.max_aux_streams = 0
    # The default is all of the GPU's memory, which a node that serves meanwhile needs, too.
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, *shape) for batch in BATCHES))
    config.add_optimization_profile(profile)
    monitor = _make_monitor(library, report)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"TensorRT {library.__version__} built no engine of {onnx.name}"
            f" ({first_line(log.last)}): free GPU memory, or use backend: torch."
        )
    report(1.0)
    return bytes(memoryview(plan))


def _make_monitor(library: Any, report: Report) -> Any:
    """Create a monitor that reports the build as one number; None if this version has none."""
    if not hasattr(library, "IProgressMonitor"):
        return None

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        """Nested phases: one step of a phase is the whole of the phase below it."""

        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            # Phase -> its share of the whole, its start, its number of steps.
            self._phases: dict[str, tuple[float, float, int]] = {}
            self._progress = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            share, begin = 1.0, 0.0
            if parent_phase in self._phases:
                parent_share, begin, steps = self._phases[parent_phase]
                share = parent_share / steps
                begin = max(begin, self._progress)
            self._phases[phase_name] = (share, begin, max(num_steps, 1))

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                share, begin, steps = self._phases[phase_name]
                progress = begin + share * min((step + 1) / steps, 1.0)
                if progress > self._progress:
                    self._progress = min(progress, 1.0)
                    report(self._progress)
            return True

    return Monitor()


@dataclass(frozen=True)
class _Context:
    """An execution context for one batch size, whose addresses are set once and never change.

    A CUDA graph that captured it stays valid, whatever else the engine runs.
    """

    context: Any
    values: Tensor
    hidden: Tensor


class Engine:
    """A range of blocks that TensorRT runs: float32 [B, ...] on the device -> float32 [B, T, D].

    Call it on a stream that is not the default one. The result is the engine's own memory: the
    next call with the same batch size overwrites it.
    """

    def __init__(self, library: Any, path: Path, shape: Shape, device: torch.device) -> None:
        """Load an engine; shape: the output's, without the batch.

        Raises BackendError if TensorRT refuses the file, as it does one of another GPU or version,
        or if the GPU's memory is too small.
        """
        self._library, self._device, self._shape = library, device, shape
        self._log = make_log(library)
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BackendError(
                f"TensorRT cannot load {path} ({first_line(self._log.last)}): free GPU memory,"
                " or use backend: torch."
            )
        self._contexts: dict[int, _Context] = {}

    def __call__(self, values: Tensor) -> Tensor:
        max_batch = BATCHES[-1]
        if len(values) <= max_batch:
            return self._run(values)
        # Clones: parts of one size share an engine's memory.
        return torch.cat([self._run(part).clone() for part in torch.split(values, max_batch)])

    def _run(self, values: Tensor) -> Tensor:
        context = self._contexts.get(len(values))
        if context is None:
            context = self._contexts[len(values)] = self._context(values)
        context.values.copy_(values)
        stream = 0
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device).cuda_stream
        if not context.context.execute_async_v3(stream):
            raise RuntimeError(f"TensorRT could not run an engine: {first_line(self._log.last)}.")
        return context.hidden

    def _context(self, values: Tensor) -> _Context:
        context = self._make_context()
        if context is None:
            raise BackendError(
                f"TensorRT cannot run an engine ({first_line(self._log.last)}): free GPU memory,"
                " or use backend: torch."
            )
        input_buffer = torch.empty(values.shape, dtype=torch.float32, device=self._device)
        output_buffer = torch.empty(
            (len(values), *self._shape), dtype=torch.float32, device=self._device
        )
        is_bound = (
            context.set_input_shape(INPUT, tuple(input_buffer.shape))
            and tuple(context.get_tensor_shape(OUTPUT)) == tuple(output_buffer.shape)
            and context.set_tensor_address(INPUT, input_buffer.data_ptr())
            and context.set_tensor_address(OUTPUT, output_buffer.data_ptr())
        )
        if not is_bound:
            raise BackendError(
                f"An engine does not map {list(input_buffer.shape)} to"
                f" {list(output_buffer.shape)}:"
                " remove the engine cache's folder, or use backend: torch."
            )
        return _Context(context, input_buffer, output_buffer)

    def _make_context(self) -> Any:
        strategies = getattr(self._library, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return self._engine.create_execution_context()
        # TensorRT-RTX compiles its kernels here: compile all of them now, none while serving.
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(config)
