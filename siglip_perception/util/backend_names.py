"""Combinations of backend, device and precision that no machine runs; PyTorch is not needed."""

from __future__ import annotations

from siglip_perception.errors import BackendError
from siglip_perception.types import BACKENDS, PRECISIONS
from siglip_perception.util import requirements
from siglip_perception.util.suggest import did_you_mean

_DEVICES = ("auto", "cpu", "cuda")


def refuse_impossible(backend: str, device: str, precision: str) -> None:
    """Raise BackendError, one sentence, for unknown names and for what rules each other out.

    What the machine has is not looked at, but for the library of the backend openvino.
    """
    for kind, value, names in (
        ("backend", backend, ("auto", *BACKENDS)),
        ("device", device, _DEVICES),
        ("precision", precision, ("auto", *PRECISIONS)),
    ):
        if value not in names:
            raise BackendError(
                f"There is no {kind} {value!r}{did_you_mean(value, names)}: use"
                f" {', '.join(names[:-1])} or {names[-1]}."
            )
    if backend == "auto":
        backend = "openvino" if precision == "int8" else "torch"
    if backend == "openvino" and device == "cuda":
        raise BackendError("OpenVINO runs on a CPU: use device: cpu, or backend: torch.")
    if backend == "tensorrt" and device == "cpu":
        raise BackendError(
            "TensorRT needs a CUDA GPU, which device: cpu rules out: use device: cuda, or"
            " backend: torch."
        )
    if precision == "fp16" and (device == "cpu" or backend == "openvino"):
        raise BackendError("A CPU has no fast fp16: use precision auto, fp32 or bf16.")
    if precision == "int8" and backend != "openvino":
        raise BackendError(f"{backend} does not run int8: use backend: openvino, or bf16.")
    if backend == "openvino":
        requirements.require("backend: openvino", "openvino", kind=BackendError)
