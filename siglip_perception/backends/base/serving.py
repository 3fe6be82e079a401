"""The backend that runs the encoders, and how to call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from siglip_perception.backends.base.cuda_graph import GraphedEncoders
from siglip_perception.encoders.encoders import Encoders, Features
from siglip_perception.images.preprocess import EncoderInput


class Runner(Protocol):
    """Encoders, or anything that is called as they are."""

    def __call__(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        *,
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool = True,
    ) -> Features: ...


class Serving:
    """A backend at work, called as Encoders are, from one thread."""

    def __init__(self, run: Runner, title: str, notes: Sequence[str] = ()) -> None:
        """Serve from `run`; title: its name and version; notes: remarks on why and how it runs.

        warnings: problems that do not keep it from serving, by name, with a sentence each.
        """
        self.run = run
        self.title = title
        self._notes = tuple(filter(None, notes))
        self.warnings: Mapping[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        trouble = str(getattr(self.run, "trouble", ""))
        return (*self._notes, trouble) if trouble else self._notes

    @property
    def description(self) -> str:
        """Title and notes of what serves now; may be read from any thread."""
        notes = "; ".join(self.notes)
        return self.title + (f" ({notes})" if notes else "")

    def __call__(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        *,
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool = True,
    ) -> Features:
        return self.run(
            inputs,
            with_tokens=with_tokens,
            grounding_rows=grounding_rows,
            with_dino=with_dino,
        )


def runner(encoders: Encoders, device: torch.device) -> Runner:
    """Return what runs the encoders: on a GPU, with their passes captured as CUDA graphs."""
    return GraphedEncoders(encoders, device) if device.type == "cuda" else encoders
