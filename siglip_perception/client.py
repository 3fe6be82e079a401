"""Client for policies: messages of rclpy or rosbags to numpy, torch and values.

from siglip_perception.client import expect, tokens_to_torch
check = expect(contract="openvla-224", fingerprint="4f0c...")   # of the tokens it was trained on
tokens = tokens_to_torch(check(message))                        # [256, 2176]

for index, mention in enumerate(mentions(objects)):             # a GroundedObjectArray
    print(mention.step, mention.role, objects_of(objects, index))
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siglip_perception.errors import PerceptionError
from siglip_perception.types import Link, Mention, Role

if TYPE_CHECKING:
    import torch

# TokenSequence.dtype -> element type of its data.
_ELEMENT_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<u2"),
}
_BFLOAT16 = 2
_DTYPES = ("float32", "float16", "bfloat16")
# At least as many hex digits as the commands print.
_FINGERPRINT = re.compile(r"[0-9a-f]{12,64}")


class TokensError(PerceptionError, ValueError):
    """A TokenSequence contradicts itself, or is not what the policy expects."""


def expect(
    contract: str = "",
    fingerprint: str = "",
    *,
    dtype: str = "",
    rows: int = 0,
    cols: int = 0,
    dim: int = 0,
) -> Callable[[Any], Any]:
    """Make a check of TokenSequence messages that returns the message unchanged, or raises.

    fingerprint: 64 hex digits, or at least the first 12. Empty or 0 leaves a field unchecked.
    Raises ValueError for an expectation that cannot be met. The check raises TokensError, naming
    the first field that differs, both values, and what to do.
    """
    prefix = fingerprint.lower()
    if prefix and not _FINGERPRINT.fullmatch(prefix):
        raise ValueError(f"A fingerprint is 12 to 64 hex digits, and {fingerprint!r} is not.")
    if dtype and dtype not in _DTYPES:
        raise ValueError(f"There is no dtype {dtype!r}: use one of {', '.join(_DTYPES)}.")
    sizes = {"rows": rows, "cols": cols, "dim": dim}

    def check(message: Any) -> Any:
        if contract and message.contract != contract:
            raise TokensError(
                f"The tokens follow the contract {message.contract!r} and {contract!r} is"
                " expected: start the node with a model that keeps it."
            )
        if prefix and not str(message.fingerprint).startswith(prefix):
            raise TokensError(
                f"The tokens' fingerprint is {message.fingerprint!r} and {prefix!r} is expected:"
                " the node's weights or preprocessing are not those that the policy knows."
            )
        if dtype and int(message.dtype) != _DTYPES.index(dtype):
            raise TokensError(
                f"The tokens' dtype is {_dtype_name(int(message.dtype))} and {dtype} is expected:"
                " set the node's parameter tokens.dtype."
            )
        for field, size in sizes.items():
            if size and int(getattr(message, field)) != size:
                raise TokensError(
                    f"The tokens' {field} is {getattr(message, field)} and {size} is expected:"
                    " check the node's contract and its cameras."
                )
        return message

    return check


class TokenHistory:
    """The tokens of the last steps of a policy, joined.

    The node joins a contract's `history` itself, over the frames that it processes. A policy whose
    own steps are longer takes a contract with `history: 1` and calls add() once a step.
    """

    def __init__(self, length: int) -> None:
        """length: steps that are joined, the oldest first."""
        if length < 1:
            raise ValueError(f"A history is of at least one step, and {length} is none.")
        self._steps: deque[npt.NDArray[Any]] = deque(maxlen=length)

    def add(self, message: Any) -> npt.NDArray[Any] | None:
        """Add a step's tokens; return those of all steps, [length * rows * cols, dim].

        None until there are as many steps. float32, or float16 as sent. Raises TokensError if the
        message's sizes or dtype do not fit, or differ from the steps' before.
        """
        tokens = tokens_to_numpy(message)
        if self._steps and tokens.shape != self._steps[-1].shape:
            raise TokensError(
                f"The tokens are {list(tokens.shape)} and those of the step before were"
                f" {list(self._steps[-1].shape)}: begin a new TokenHistory."
            )
        self._steps.append(tokens)
        return np.concatenate(self._steps) if len(self._steps) == self._steps.maxlen else None


def _dtype_name(code: int) -> str:
    return _DTYPES[code] if 0 <= code < len(_DTYPES) else str(code)


def tokens_to_numpy(message: Any) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
    """Return the tokens, [rows * cols, dim]: float32, or float16 as sent; bfloat16 as float32.

    Copies only bfloat16, so do not write to the result: it may share the message's memory. Raises
    TokensError if sizes or dtype do not fit.
    """
    elements = _as_array(message)
    if int(message.dtype) == _BFLOAT16:
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements


def tokens_to_torch(message: Any) -> torch.Tensor:
    """Return the tokens, [rows * cols, dim], on the CPU, as float32, float16 or bfloat16.

    Does not copy if the message's memory is writable, as rclpy's is. See tokens_to_numpy().
    """
    import torch

    elements = _as_array(message)
    if sys.byteorder != "little":
        elements = elements.astype(elements.dtype.newbyteorder("="))
    if not elements.flags.writeable:  # torch has no read-only tensors
        elements = elements.copy()
    if int(message.dtype) == _BFLOAT16:
        return torch.from_numpy(elements.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(elements)


def mentions(message: Any) -> tuple[Mention, ...]:
    """Return the reading of a GroundedObjectArray's instruction; empty for given phrases."""
    return tuple(
        Mention(
            phrase=int(mention.phrase),
            role=Role(int(mention.role)),
            many=bool(mention.many),
            step=int(mention.step),
            link=Link(str(mention.relation)) if mention.relation else None,
            of=int(mention.of) if mention.of >= 0 else None,
            which=str(mention.which),
            rank=int(mention.rank),
            confidence=float(mention.confidence),
        )
        for mention in message.mentions
    )


def objects_of(message: Any, mention: int) -> list[Any]:
    """List the objects that a mention of a GroundedObjectArray means, best first."""
    return [item for item in message.objects if mention in list(item.mentions)]


def _as_array(message: Any) -> npt.NDArray[Any]:
    kind = _ELEMENT_TYPES.get(int(message.dtype))
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
