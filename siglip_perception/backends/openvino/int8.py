"""int8 on the user's own frames: ranges taken from most of them, judged on the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.backends.cache import EngineCache
from siglip_perception.backends.openvino import graphs
from siglip_perception.encoders.encoders import Encoders, Features, Tower
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.types import UInt8Array

# Every so many frames one is held out.
_HOLD_OUT = 4
FEWEST = 8
_FILE = "report.json"
Inputs = Mapping[EncoderInput, Tensor]


@dataclass(frozen=True)
class Int8Report:
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

    def __str__(self) -> str:
        return (
            f"calibrated on {self.calibrated} frames; on {self.held_out} others the tokens have a"
            f" mean cosine of {self.mean:.5f} with those of fp32, the worst frame {self.worst:.5f}"
            f" (limit {self.limit:g}), the worst token {self.least:.5f}"
        )


def calibrate(
    encoders: Encoders,
    frames: Sequence[UInt8Array],
    limit: float,
    cache: EngineCache,
    progress: Callable[[int, int], None],
) -> Int8Report:
    """Quantize every run of blocks of an Encoders that is not prepared; it serves int8 then.

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
        graphs.pad(tower)
    held = [preprocess([frame]) for frame in frames[::_HOLD_OUT]]
    taken = [preprocess([frame]) for number, frame in enumerate(frames) if number % _HOLD_OUT]
    expected = [run(encoders, inputs) for inputs in held]
    spans = _spans(encoders)
    facts = _facts(encoders)
    cache.discard(facts)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    progress(0, len(spans))
    for number, (key, tower, span) in enumerate(spans):
        entering = [_entering(tower, inputs[tower.fed], span[0]) for inputs in taken]
        graphs.quantize(tower, key, span, entering, cache)
        progress(number + 1, len(spans))
    graphs.serve(encoders, "int8", cache)
    report = _judge(encoders, held, expected, len(taken), limit)
    if report.worst < limit:
        for _, tower, span in spans:
            cache.discard(graphs.facts_of(tower, span, "int8"))
        raise BackendError(
            "int8 is not accurate enough on these frames and this CPU: a frame's tokens have a"
            f" mean cosine of {report.worst:.5f} with those of float32, and the limit is"
            f" {limit:g}; use precision auto, or calibrate on more frames."
        )
    cache.build(facts, lambda folder: _write(folder / _FILE, report))
    return report


def report_of(encoders: Encoders, cache: EngineCache) -> Int8Report:
    """How the int8 of these encoders, which are not prepared, was judged on this CPU.

    Raises BackendError where it has not been.
    """
    for tower in encoders.towers.values():
        graphs.pad(tower)
    place = cache.get(_facts(encoders))
    if place is None:
        raise BackendError(graphs.NOT_CALIBRATED)
    return Int8Report(**json.loads((place / _FILE).read_text()))


def _write(path: Path, report: Int8Report) -> None:
    path.write_text(json.dumps(asdict(report), indent=2))


def _facts(encoders: Encoders) -> dict[str, str]:
    """What names the report in the cache: all runs of blocks that it is of."""
    return {"kind": "int8 report"} | {
        f"{key} {span}": json.dumps(graphs.facts_of(tower, span, "int8"))
        for key, tower, span in _spans(encoders)
    }


def _spans(encoders: Encoders) -> list[tuple[str, Tower, graphs.Span]]:
    return [
        (key, tower, span)
        for key, tower in encoders.towers.items()
        for span in tower.parts(key in encoders.reads)
    ]


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
) -> Int8Report:
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
    return Int8Report(
        calibrated, len(held), float(all_of_them.min()), float(all_of_them.mean()), worst, limit
    )
