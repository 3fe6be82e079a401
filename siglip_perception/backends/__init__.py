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
    if choice.backend == "torch":
        encoders.prepare(choice.device, choice.dtype)
        says = f"torch {torch.__version__}"
    elif choice.backend == "openvino":
        from siglip_perception.backends import openvino

        says = openvino.serve(encoders, choice.precision)
    else:
        raise BackendError(
            f"The backend {choice.backend!r} is not part of this version: use auto or torch."
        )
    on = torch.cuda.get_device_name() if choice.device.type == "cuda" else choice.device.type
    return f"{says} on {on}, {choice.precision}" + (f" ({choice.why})" if choice.why else "")
