"""What runs the encoders now, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from siglip_perception.backends.cuda_graph import GraphedEncoders
from siglip_perception.encoders.encoders import Encoders, Features
from siglip_perception.images.preprocess import EncoderInput


class Runner(Protocol):
    """Encoders, or what is called as they are."""

    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features: ...


class Serving:
    """A backend at work, called as Encoders are, from one thread."""

    def __init__(self, run: Runner, head: str, notes: Sequence[str] = ()) -> None:
        """head: what serves, in words. notes: what there is to say about that."""
        self.run = run
        self.head = head
        self._notes = tuple(filter(None, notes))

    @property
    def notes(self) -> tuple[str, ...]:
        trouble = str(getattr(self.run, "trouble", ""))
        return (*self._notes, trouble) if trouble else self._notes

    @property
    def says(self) -> str:
        """What serves now, in words; from any thread."""
        told = "; ".join(self.notes)
        return self.head + (f" ({told})" if told else "")

    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features:
        return self.run(inputs, with_tokens=with_tokens, grounded=grounded)


def runner(encoders: Encoders, device: torch.device) -> Runner:
    """The encoders, on a GPU with their passes captured as CUDA graphs."""
    return GraphedEncoders(encoders, device) if device.type == "cuda" else encoders
