"""Selection of backend, device and precision: the requested ones, or the best here and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from siglip_perception.backends.base import bf16
from siglip_perception.backends.base.precision import DTYPES, without_bf16
from siglip_perception.backends.tensorrt import probe
from siglip_perception.errors import BackendError
from siglip_perception.types import BACKENDS, PRECISIONS, BackendName, Precision
from siglip_perception.util.backend_names import refuse_impossible


@dataclass(frozen=True)
class BackendChoice:
    """Backend, device and precision of the encoders.

    automatic: the backend was `auto`, so a built and proven engine may take its place, and PyTorch
        serves if that fails.
    reason: why `auto` chose these; may be empty.
    """

    backend: BackendName
    device: torch.device
    precision: Precision
    automatic: bool
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of PyTorch's products: the precision or, beside int8, the fastest one."""
        if self.precision == "int8":
            return torch.float32 if without_bf16(self.device) else torch.bfloat16
        return DTYPES[self.precision]


def choose(backend: str, device: str, precision: str) -> BackendChoice:
    """Resolve the parameters of these names, each of which may be auto.

    Raises BackendError, one sentence, if what was named is not available.
    """
    refuse_impossible(backend, device, precision)
    name: BackendName = "openvino" if precision == "int8" else "torch"
    if backend != "auto":
        name = next(backend_name for backend_name in BACKENDS if backend_name == backend)
    torch_device, device_reasons = _device(device, name)
    chosen_precision, precision_reason = _precision(precision, name, torch_device)
    if name == "tensorrt" and not probe.is_installed():
        raise BackendError(probe.probe().trouble)
    reasons = "; ".join(filter(None, [*device_reasons, precision_reason]))
    return BackendChoice(
        name, torch_device, chosen_precision, backend == "auto" and precision != "int8", reasons
    )


def _device(name: str, backend: str) -> tuple[torch.device, list[str]]:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BackendError(
            "PyTorch sees no CUDA GPU for the requested device 'cuda': check nvidia-smi and"
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
        if reason := without_bf16(device):
            return "fp32", reason
        return "bf16", "half precision on a GPU" if device.type == "cuda" else str(bf16.speed())
    precision = next(precision_name for precision_name in PRECISIONS if precision_name == name)
    if precision == "fp16" and device.type == "cpu":
        raise BackendError("A CPU has no fast fp16: use precision auto, fp32 or bf16.")
    if precision == "bf16" and device.type == "cpu" and (reason := without_bf16(device)):
        return precision, f"{reason}: precision auto or fp32 is faster"
    return precision, ""
