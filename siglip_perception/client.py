"""What a policy imports: TokenSequence messages -> numpy or torch, of rclpy and rosbags alike.

from siglip_perception.client import tokens_to_torch
tokens = tokens_to_torch(message, contract="openvla-224")   # [256, 2176]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siglip_perception.errors import PerceptionError

if TYPE_CHECKING:
    import torch

# TokenSequence.dtype -> the element as it is stored.
_STORED: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<u2"),
}
_BFLOAT16 = 2


class TokensError(PerceptionError, ValueError):
    """A TokenSequence that contradicts itself, or follows another contract than the policy's."""


def tokens_to_numpy(
    message: Any, contract: str = ""
) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
    """The tokens, [rows * cols, dim]: float32 or float16 without a copy, bfloat16 as float32.

    contract: the name of the only contract that is accepted; empty accepts any.
    Raises TokensError where sizes, dtype or contract do not fit. Do not write to the result: it
    may be the message's own memory.
    """
    stored = _stored(message, contract)
    if int(message.dtype) == _BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored


def tokens_to_torch(message: Any, contract: str = "") -> torch.Tensor:
    """The tokens, [rows * cols, dim], on the CPU in their dtype: float32, float16 or bfloat16.

    Without a copy where the message's memory is writable, as rclpy's is. See tokens_to_numpy.
    """
    import torch

    stored = _stored(message, contract)
    if sys.byteorder != "little":
        stored = stored.astype(stored.dtype.newbyteorder("="))
    if not stored.flags.writeable:  # torch has no read-only tensors
        stored = stored.copy()
    if int(message.dtype) == _BFLOAT16:
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored)


def _stored(message: Any, contract: str) -> npt.NDArray[Any]:
    if contract and message.contract != contract:
        raise TokensError(
            f"The tokens follow the contract {message.contract!r} and {contract!r} is expected:"
            " start the node with a model that keeps it."
        )
    kind = _STORED.get(int(message.dtype))
    if kind is None:
        raise TokensError(f"The tokens' dtype {message.dtype} is unknown: 0, 1 and 2 are defined.")
    tokens = int(message.rows) * int(message.cols)
    size = memoryview(message.data).nbytes
    if size != tokens * int(message.dim) * kind.itemsize or size == 0:
        raise TokensError(
            f"The tokens have {size} bytes, but {message.rows} x {message.cols} tokens of"
            f" {message.dim} channels take {tokens * int(message.dim) * kind.itemsize}."
        )
    return np.frombuffer(message.data, dtype=kind).reshape(tokens, int(message.dim))
