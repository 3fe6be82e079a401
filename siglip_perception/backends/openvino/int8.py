"""int8 calibration on the user's own frames: ranges from most of them, judged on the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.openvino import graphs
from siglip_perception.encoders.encoders import Encoders, Features, Tower
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.types import UInt8Array

# One frame in this many is held out.
_HOLD_OUT_EVERY = 4
MIN_FRAMES = 8
_FILE = "report.json"
Inputs = Mapping[EncoderInput, Tensor]


@dataclass(frozen=True)
class Int8Report:
    """Accuracy of int8 against float32, on the frames held out.

    calibrated, held_out: numbers of frames.
    least, mean: cosine of a token or feature.
    worst: mean cosine of the worst frame. limit: what `worst` had to reach.
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
    """Quantize every range of blocks of encoders that are not prepared; they then serve int8.

    limit: least mean cosine of a held-out frame's tokens with those of float32.
    progress: called with the ranges of blocks done, and their number.

    Raises BackendError, and leaves no entry, below the limit or with fewer than MIN_FRAMES frames.
    """
    if len(frames) < MIN_FRAMES:
        raise BackendError(
            f"int8 takes at least {MIN_FRAMES} frames to calibrate on, and there are"
            f" {len(frames)}: give a longer bag or more images."
        )
    preprocess = Preprocessor(encoders.inputs, torch.device("cpu"))
    for tower in encoders.towers.values():
        graphs.pad(tower)
    held_out = [preprocess([frame]) for frame in frames[::_HOLD_OUT_EVERY]]
    calibration_inputs = [
        preprocess([frame]) for index, frame in enumerate(frames) if index % _HOLD_OUT_EVERY
    ]
    expected = [run(encoders, inputs) for inputs in held_out]
    spans = _spans(encoders)
    facts = _facts(encoders)
    cache.discard(facts)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    progress(0, len(spans))
    for index, (key, tower, span) in enumerate(spans):
        block_inputs = [
            _block_input(tower, inputs[tower.input], span[0]) for inputs in calibration_inputs
        ]
        graphs.quantize(tower, key, span, block_inputs, cache)
        progress(index + 1, len(spans))
    graphs.serve(encoders, "int8", cache)
    report = _judge(encoders, held_out, expected, len(calibration_inputs), limit)
    if report.worst < limit:
        for _, tower, span in spans:
            cache.discard(graphs.cache_facts(tower, span, "int8"))
        raise BackendError(
            "int8 is not accurate enough on these frames and this CPU: a frame's tokens have a"
            f" mean cosine of {report.worst:.5f} with those of float32, and the limit is"
            f" {limit:g}; use precision auto, or calibrate on more frames."
        )
    cache.build(facts, lambda folder: _write(folder / _FILE, report))
    return report


def report_of(encoders: Encoders, cache: EngineCache) -> Int8Report:
    """Return the report of these encoders' int8 on this CPU; they must not be prepared.

    Raises BackendError if there is none.
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
    """Facts that name the report in the cache: all ranges of blocks that it is about."""
    return {"kind": "int8 report"} | {
        f"{key} {span}": json.dumps(graphs.cache_facts(tower, span, "int8"))
        for key, tower, span in _spans(encoders)
    }


def _spans(encoders: Encoders) -> list[tuple[str, Tower, graphs.Span]]:
    return [
        (key, tower, span)
        for key, tower in encoders.towers.items()
        for span in tower.block_ranges(key in encoders.grounding_keys)
    ]


def run(encoders: Encoders, inputs: Inputs) -> Features:
    """Compute tokens, and features if the grounding reads them, of one frame."""
    return encoders(
        inputs, with_tokens=True, grounding_rows=[0] if encoders.grounding_keys else []
    )


@torch.inference_mode()
def _block_input(tower: Tower, pixels: Tensor, start: int) -> Tensor:
    """Return the input of the block `start`: pixels, or the residual stream before it."""
    return tower.run_blocks(pixels, 0, start) if start else pixels


def _judge(
    encoders: Encoders,
    held_out: Sequence[Inputs],
    expected: Sequence[Features],
    calibration_count: int,
    limit: float,
) -> Int8Report:
    per_frame = []
    for inputs, expected_features in zip(held_out, expected, strict=True):
        features = run(encoders, inputs)
        cosines = [
            functional.cosine_similarity(output, reference, dim=-1).flatten()
            for output, reference in (
                (features.tokens, expected_features.tokens),
                (features.siglip, expected_features.siglip),
                (features.dino, expected_features.dino),
            )
            if output is not None and reference is not None
        ]
        per_frame.append(torch.cat(cosines))
    all_cosines = torch.cat(per_frame)
    worst = min(float(cosines.mean()) for cosines in per_frame)
    return Int8Report(
        calibration_count,
        len(held_out),
        float(all_cosines.min()),
        float(all_cosines.mean()),
        worst,
        limit,
    )
