"""int8 on the user's own frames: ranges taken from most of them, judged on the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.backends import openvino
from siglip_perception.backends.cache import EngineCache
from siglip_perception.encoders import Encoders, Features, Tower
from siglip_perception.errors import BackendError
from siglip_perception.preprocess import EncoderInput, Preprocessor
from siglip_perception.types import UInt8Array

# Every so many frames one is held out.
_HOLD_OUT = 4
FEWEST = 8
Inputs = Mapping[EncoderInput, Tensor]


@dataclass(frozen=True)
class Judged:
    """Of the frames held out, int8 against float32.

    least, mean: cosine of a token or feature. limit: what `mean` of the worst frame had to reach.
    worst: the mean of the worst frame.
    """

    calibrated: int
    held_out: int
    least: float
    mean: float
    worst: float
    limit: float


def calibrate(
    encoders: Encoders,
    frames: Sequence[UInt8Array],
    limit: float,
    cache: EngineCache,
    progress: Callable[[int, int], None],
) -> Judged:
    """Quantise every run of blocks of an Encoders that is not prepared; it serves int8 then.

    limit: least mean cosine of a held-out frame's tokens with those of float32. progress: called
    with runs of blocks done and in all. Raises BackendError, and leaves nothing, below the limit,
    or for fewer than FEWEST frames.
    """
    if len(frames) < FEWEST:
        raise BackendError(
            f"int8 takes at least {FEWEST} frames to calibrate on, and there are {len(frames)}:"
            " give a longer bag or more images."
        )
    preprocess = Preprocessor(encoders.inputs, torch.device("cpu"))
    for tower in encoders.towers.values():
        openvino.pad(tower)
    held = [preprocess([frame]) for frame in frames[::_HOLD_OUT]]
    taken = [preprocess([frame]) for number, frame in enumerate(frames) if number % _HOLD_OUT]
    expected = [run(encoders, inputs) for inputs in held]
    spans = [
        (key, tower, span)
        for key, tower in encoders.towers.items()
        for span in tower.parts(key in encoders.reads)
    ]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    progress(0, len(spans))
    for number, (key, tower, span) in enumerate(spans):
        entering = [_entering(tower, inputs[tower.fed], span[0]) for inputs in taken]
        openvino.quantize(tower, key, span, entering, cache)
        progress(number + 1, len(spans))
    openvino.serve(encoders, "int8", cache)
    judged = _judge(encoders, held, expected, len(taken), limit)
    if judged.worst < limit:
        for _, tower, span in spans:
            cache.discard(openvino.facts_of(tower, span, "int8"))
        raise BackendError(
            f"int8 is not accurate enough on these frames: a frame's tokens have a mean cosine of"
            f" {judged.worst:.5f} with those of float32, and the limit is {limit:g}; use bf16 or"
            " fp32, or calibrate on more frames."
        )
    return judged


def run(encoders: Encoders, inputs: Inputs) -> Features:
    """Tokens, and features where they are read, of one frame."""
    return encoders(inputs, with_tokens=True, grounded=[0] if encoders.reads else [])


@torch.inference_mode()
def _entering(tower: Tower, pixels: Tensor, start: int) -> Tensor:
    """What enters the block `start`: pixels, or the residual stream before it."""
    return tower.through(pixels, 0, start) if start else pixels


def _judge(
    encoders: Encoders,
    held: Sequence[Inputs],
    expected: Sequence[Features],
    calibrated: int,
    limit: float,
) -> Judged:
    per_frame = []
    for inputs, wanted in zip(held, expected, strict=True):
        found = run(encoders, inputs)
        cosines = [
            functional.cosine_similarity(ours, theirs, dim=-1).flatten()
            for ours, theirs in (
                (found.tokens, wanted.tokens),
                (found.siglip, wanted.siglip),
                (found.dino, wanted.dino),
            )
            if ours is not None and theirs is not None
        ]
        per_frame.append(torch.cat(cosines))
    all_of_them = torch.cat(per_frame)
    worst = min(float(cosines.mean()) for cosines in per_frame)
    return Judged(
        calibrated, len(held), float(all_of_them.min()), float(all_of_them.mean()), worst, limit
    )
