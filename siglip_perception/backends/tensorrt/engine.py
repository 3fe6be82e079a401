"""TensorRT's objects: an ONNX file -> an engine's bytes, and these -> a run of blocks that serves.

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

from siglip_perception.backends.onnx_export import INPUT, OUTPUT
from siglip_perception.errors import BackendError

_LOGGER = logging.getLogger(__name__)
# Images in a pass that an engine is built for: least, what it is tuned for, most. More cameras
# than that are served in several passes.
BATCHES = (1, 1, 4)
# Bytes that a layer's kernels may use; the largest activations here are a few MiB.
_WORKSPACE = 1 << 30
Shape = tuple[int, ...]
Report = Callable[[float], None]


def make_log(library: Any) -> Any:
    """TensorRT's messages in Python's log; `last` is the last error's first line, or empty."""

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
    """The engine of a graph, for batches of BATCHES; minutes on a small GPU.

    shape: the input's without the batch. report: called with how much is done, in [0, 1]; from
    other threads, too. Raises BackendError with TensorRT's own reason.
    """
    log = make_log(library)
    builder = library.Builder(log)
    # From TensorRT 11 on there is no other kind of network, and some day no flag.
    typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        said = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BackendError(
            f"TensorRT {library.__version__} cannot read {onnx.name}"
            f" ({_short(said[0] if said else log.last)}): use backend: torch."
        )
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    # An engine keeps to its stream: what runs beside it is the other tower's.
    config.max_aux_streams = 0
    # By default all of the GPU's memory, which a node that serves meanwhile needs, too.
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, _WORKSPACE)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, *shape) for batch in BATCHES))
    config.add_optimization_profile(profile)
    monitor = _make_monitor(library, report)
    if monitor is not None:
        config.progress_monitor = monitor
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise BackendError(
            f"TensorRT {library.__version__} built no engine of {onnx.name}"
            f" ({_short(log.last)}): free GPU memory, or use backend: torch."
        )
    report(1.0)
    return bytes(memoryview(built))


def _make_monitor(library: Any, report: Report) -> Any:
    """The builder's progress as one number; None where this version does not tell it."""
    if not hasattr(library, "IProgressMonitor"):
        return None

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        """Phases lie in each other: a step of one is a whole phase of the next."""

        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            # Phase -> its share of the whole, where it began, its number of steps.
            self._phases: dict[str, tuple[float, float, int]] = {}
            self._done = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            share, begin = 1.0, 0.0
            if parent_phase in self._phases:
                whole, begin, steps = self._phases[parent_phase]
                share = whole / steps
                begin = max(begin, self._done)
            self._phases[phase_name] = (share, begin, max(num_steps, 1))

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                share, begin, steps = self._phases[phase_name]
                done = begin + share * min((step + 1) / steps, 1.0)
                if done > self._done:
                    self._done = min(done, 1.0)
                    report(self._done)
            return True

    return Monitor()


@dataclass(frozen=True)
class _Context:
    """An execution context for one batch size: its addresses are set once and never changed.

    So a CUDA graph that was captured of it stays right, whatever else the engine runs.
    """

    context: Any
    values: Tensor
    hidden: Tensor


class Engine:
    """A run of blocks as TensorRT runs it: float32 [B, ...] on the device -> float32 [B, T, D].

    Called on a stream that is not the default one. What a call returns is the engine's own memory:
    the next call with as many images writes over it.
    """

    def __init__(self, library: Any, path: Path, shape: Shape, device: torch.device) -> None:
        """shape: the output's without the batch. Raises BackendError where TensorRT refuses the
        file, as it does one of another GPU or version, or where the GPU's memory is too small."""
        self._library, self._device, self._shape = library, device, shape
        self._log = make_log(library)
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BackendError(
                f"TensorRT cannot load {path} ({_short(self._log.last)}): free GPU memory, or use"
                " backend: torch."
            )
        self._contexts: dict[int, _Context] = {}

    def __call__(self, values: Tensor) -> Tensor:
        most = BATCHES[-1]
        if len(values) <= most:
            return self._run(values)
        # Clones: parts of one size are in the same memory.
        return torch.cat([self._run(part).clone() for part in torch.split(values, most)])

    def _run(self, values: Tensor) -> Tensor:
        held = self._contexts.get(len(values))
        if held is None:
            held = self._contexts[len(values)] = self._context(values)
        held.values.copy_(values)
        stream = 0
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device).cuda_stream
        if not held.context.execute_async_v3(stream):
            raise RuntimeError(f"TensorRT could not run an engine: {_short(self._log.last)}.")
        return held.hidden

    def _context(self, values: Tensor) -> _Context:
        context = self._make_context()
        if context is None:
            raise BackendError(
                f"TensorRT cannot run an engine ({_short(self._log.last)}): free GPU memory, or"
                " use backend: torch."
            )
        own = torch.empty(values.shape, dtype=torch.float32, device=self._device)
        hidden = torch.empty((len(values), *self._shape), dtype=torch.float32, device=self._device)
        right = (
            context.set_input_shape(INPUT, tuple(own.shape))
            and tuple(context.get_tensor_shape(OUTPUT)) == tuple(hidden.shape)
            and context.set_tensor_address(INPUT, own.data_ptr())
            and context.set_tensor_address(OUTPUT, hidden.data_ptr())
        )
        if not right:
            raise BackendError(
                f"An engine does not take {list(own.shape)} to {list(hidden.shape)}: remove the"
                " engine cache's folder, or use backend: torch."
            )
        return _Context(context, own, hidden)

    def _make_context(self) -> Any:
        strategies = getattr(self._library, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return self._engine.create_execution_context()
        # TensorRT-RTX compiles its kernels here: all of them now, none on the way.
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(config)


def _short(text: str) -> str:
    """The first line, at most 160 characters."""
    line = next(iter(text.splitlines()), "").strip().rstrip(".")
    return line[:160] or "no reason given"
