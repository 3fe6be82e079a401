"""Which backend, device and precision: what was asked for, or what is best here, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from siglip_perception.backends import bf16
from siglip_perception.backends.tensorrt import probe
from siglip_perception.errors import BackendError
from siglip_perception.types import BACKENDS, PRECISIONS, BackendName, Precision
from siglip_perception.util.backend_names import refuse_impossible

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# bfloat16 is in the tensor cores from Ampere on.
BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Choice:
    """What runs the encoders.

    automatic: the backend was left to `auto`, so an engine that is built and proven here may take
        its place, and where one fails PyTorch serves.
    why: the reasons of what was left to `auto`; may be empty.
    """

    backend: BackendName
    device: torch.device
    precision: Precision
    automatic: bool
    why: str

    @property
    def dtype(self) -> torch.dtype:
        """What PyTorch runs, where it is to: the precision, or beside int8 the fastest there."""
        if self.precision == "int8":
            return torch.float32 if without_bf16(self.device) else torch.bfloat16
        return DTYPES[self.precision]


def choose(backend: str, device: str, precision: str) -> Choice:
    """Settle the parameters of these names, each of which may be auto.

    Raises BackendError, one sentence, for what is not there and was asked for by name.
    """
    refuse_impossible(backend, device, precision)
    name: BackendName = "openvino" if precision == "int8" else "torch"
    if backend != "auto":
        name = next(known for known in BACKENDS if known == backend)
    where, why = _device(device, name)
    how, reason = _precision(precision, name, where)
    if name == "tensorrt" and not probe.is_installed():
        raise BackendError(probe.probe().trouble)
    why_so = "; ".join(filter(None, [*why, reason]))
    return Choice(name, where, how, backend == "auto" and precision != "int8", why_so)


def without_bf16(device: torch.device) -> str:
    """Why bfloat16 is of no use on the device; empty where it is faster than float32."""
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
        return "" if capable else "the GPU has no bfloat16"
    return "" if bf16.speed().fast else str(bf16.speed())


def _device(name: str, backend: str) -> tuple[torch.device, list[str]]:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BackendError(
            "The device 'cuda' was asked for and PyTorch sees no CUDA GPU: check nvidia-smi and"
            " that torch.version.cuda is set, or use device: cpu."
        )
    if backend == "openvino":
        return torch.device("cpu"), []
    if backend == "tensorrt":
        if not available:
            raise BackendError(
                "TensorRT needs a CUDA GPU, and PyTorch sees none: check nvidia-smi and"
                " torch.version.cuda, or use backend: torch."
            )
        return torch.device("cuda"), []
    if name != "auto":
        return torch.device(name), []
    if available:
        return torch.device("cuda"), [f"there is a GPU, {torch.cuda.get_device_name()}"]
    return torch.device("cpu"), []


def _precision(name: str, backend: BackendName, device: torch.device) -> tuple[Precision, str]:
    if name == "auto":
        if why_not := without_bf16(device):
            return "fp32", why_not
        return "bf16", "half precision on a GPU" if device.type == "cuda" else str(bf16.speed())
    found = next(known for known in PRECISIONS if known == name)
    if found == "fp16" and device.type == "cpu":
        raise BackendError("A CPU has no fast fp16: use precision auto, fp32 or bf16.")
    if found == "bf16" and device.type == "cpu" and (why_not := without_bf16(device)):
        return found, f"{why_not}: precision auto or fp32 is faster"
    return found, ""
