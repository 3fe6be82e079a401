"""What runs the encoders: PyTorch, or engines built of its ONNX export, behind one protocol.

The protocol is encoders.Segment: a run of blocks of one tower, tensors in, tensors out. What is
common to all backends, such as which block is tapped and the final norm, is in encoders.py, once.
"""

from __future__ import annotations

import torch

from siglip_perception.backends.choice import Choice, choose
from siglip_perception.encoders import Encoders
from siglip_perception.errors import BackendError

__all__ = ["Choice", "choose", "start"]


def start(encoders: Encoders, choice: Choice) -> str:
    """Make the encoders ready to serve as was chosen; what serves now, in words.

    Raises BackendError, one sentence, where that cannot be.
    """
    reasons = [choice.why]
    if choice.backend == "openvino":
        from siglip_perception.backends import openvino

        says = openvino.serve(encoders, choice.precision)
    elif choice.backend == "torch":
        engine, reason = _proven(encoders, choice) if choice.automatic else ("", "")
        says = engine or f"torch {torch.__version__}"
        reasons.append(reason)
        if not engine:
            encoders.prepare(choice.device, choice.dtype)
    else:
        raise BackendError(
            f"The backend {choice.backend!r} is not part of this version: use auto or torch."
        )
    on = torch.cuda.get_device_name() if choice.device.type == "cuda" else choice.device.type
    why = "; ".join(filter(None, reasons))
    return f"{says} on {on}, {choice.precision}" + (f" ({why})" if why else "")


def _proven(encoders: Encoders, choice: Choice) -> tuple[str, str]:
    """An engine that is faster than PyTorch, was built before and passes its self-test, serving.

    What serves in words, empty where PyTorch is to; and the reason.
    """
    if choice.device.type == "cuda":
        return "", ""
    if choice.precision != "fp32":
        return "", "PyTorch's packed products are the fastest here"
    from siglip_perception.backends import openvino

    if not openvino.is_installed():
        return "", "OpenVINO, which is faster in fp32, is not installed"
    if not openvino.is_built(encoders):
        return "", (
            "OpenVINO is faster in fp32 once `siglip-perception export --backend openvino"
            " --precision fp32` has built this model's graphs"
        )
    try:
        return openvino.serve(encoders, "fp32"), "the fastest here in fp32, built before"
    except BackendError as error:
        return "", f"OpenVINO does not serve: {error}"
