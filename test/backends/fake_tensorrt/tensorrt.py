"""A stand-in for TensorRT's Python module: the classes that the backend uses, over onnxruntime.

An engine is the ONNX model itself behind a mark; it runs on buffers in the host's memory, by their
addresses, as TensorRT does on a GPU's. FAKE_TENSORRT names faults, FAKE_TENSORRT_LOG a file that
gets a line for each engine built, in whatever process.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = "10.3.0"
_MARK = b"fake engine\n"


def _faulty(name: str) -> bool:
    return name in os.environ.get("FAKE_TENSORRT", "").split(",")


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, message: str) -> None: ...


class Logger(ILogger):
    def __init__(self, severity: int) -> None:
        if _faulty("crash on load"):
            os.kill(os.getpid(), signal.SIGSEGV)


class IProgressMonitor: ...


class BuilderFlag:
    TF32 = "TF32"


class MemoryPoolType:
    WORKSPACE = "workspace"


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1


class _Profile:
    def set_shape(self, name: str, minimum: tuple, optimum: tuple, maximum: tuple) -> None:
        self.name, self.shapes = name, (minimum, optimum, maximum)


class _Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[_Profile] = []
        self.progress_monitor: Any = None
        self.max_aux_streams = 7
        self.limits: dict[str, int] = {}

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.profiles.append(profile)


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(model=None)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: Any, config: _Config) -> bytes | None:
        if _faulty("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if _faulty("no engine"):
            self._logger.log(
                ILogger.ERROR, "[alloc.cpp] Error Code 2: OutOfMemory (no memory)\nat"
            )
            return None
        assert BuilderFlag.TF32 not in config.flags
        assert config.max_aux_streams == 0
        assert config.limits == {MemoryPoolType.WORKSPACE: 1 << 30}
        (profile,) = config.profiles
        (fed,) = network.model.graph.input
        shape = tuple(dim.dim_value for dim in fed.type.tensor_type.shape.dim[1:])
        assert profile.name == fed.name
        assert profile.shapes == ((1, *shape), (1, *shape), (4, *shape))
        monitor = config.progress_monitor
        monitor.phase_start("build", None, 2)
        for step in range(2):
            monitor.phase_start("tactics", "build", 5)
            for inner in range(5):
                monitor.step_complete("tactics", inner)
            monitor.phase_finish("tactics")
            monitor.step_complete("build", step)
        monitor.phase_finish("build")
        log = os.environ.get("FAKE_TENSORRT_LOG")
        if log:
            with Path(log).open("a") as file:
                file.write(f"{os.getpid()}\n")
        return _MARK + bytes(network.model.SerializeToString())


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Any, logger: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.model = onnx.load(path)
        return not _faulty("parse")

    def get_error(self, index: int) -> str:
        return f"In node {index}: unsupported"


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> _Engine | None:
        if _faulty("small"):
            self._logger.log(ILogger.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            return None
        if _faulty("refuse") or not data.startswith(_MARK):
            self._logger.log(ILogger.ERROR, "Error Code 6: the plan is of another version\nmore")
            return None
        return _Engine(data.removeprefix(_MARK))


class _Engine:
    def __init__(self, model: bytes) -> None:
        self._model = model

    def create_execution_context(self) -> _Context:
        return _Context(onnxruntime.InferenceSession(self._model))


class _Context:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._shape, "the shape of a context that may be captured is set once"
        self._shape = shape
        return 1 <= shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (out,) = self._session.get_outputs()
        assert out.name == name
        return (self._shape[0], *out.shape[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name not in self._addresses
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        (fed,), (out,) = self._session.get_inputs(), self._session.get_outputs()
        size = int(np.prod(self._shape))
        memory = ctypes.cast(self._addresses[fed.name], ctypes.POINTER(ctypes.c_float))
        values = np.ctypeslib.as_array(memory, (size,)).reshape(self._shape)
        (hidden,) = self._session.run([out.name], {fed.name: values.copy()})
        if _faulty("wrong"):
            hidden = hidden[:, ::-1]
        hidden = np.ascontiguousarray(hidden)
        ctypes.memmove(self._addresses[out.name], hidden.ctypes.data, hidden.nbytes)
        return not _faulty("no run")
