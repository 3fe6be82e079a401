"""Run a pipeline on a public benchmark."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from siglip_perception.errors import BackendError, InstructionError
from siglip_perception.evaluation.benchmarks.ade20k import (
    Ade20k,
    ConfusionCounts,
    classify_pixels,
)
from siglip_perception.evaluation.benchmarks.lvis import Lvis
from siglip_perception.evaluation.benchmarks.refcoco import Accuracy, RefCoco
from siglip_perception.language.instruction import Instruction, from_phrases, parse
from siglip_perception.types import Box, Frame, GroundedObject, Role, UInt8Array
from siglip_perception.util.progress import progress

if TYPE_CHECKING:
    from siglip_perception.pipeline import Pipeline, Query

_EVERYTHING = 100_000
"""More objects than an image has: the benchmark itself keeps the best ones."""


def segment_ade20k(pipeline: Pipeline, data: Ade20k) -> dict[str, float]:
    """Measure mIoU, mAcc and aAcc: every class is asked for on every image."""
    model = pipeline.grounding_model
    if model is None:
        raise BackendError(pipeline.grounding_status)
    query = _query_all(pipeline, data.classes)
    counts = ConfusionCounts()
    tell = progress(sys.stderr)
    for number, labeled in enumerate(data, start=1):
        siglip, dino = pipeline.features([labeled.image])
        scores = pipeline.grounder.score(siglip[0], dino[0], query.encoded)
        height, width = labeled.labels.shape
        geometry = model.resize.geometry(width, height)
        counts.add(labeled.labels, classify_pixels(scores, geometry, model.patch))
        tell(number, len(data))
    return counts.metrics()


def detect_lvis(pipeline: Pipeline, data: Lvis) -> dict[str, float]:
    """Measure AP: every category is asked for on every image, at the pipeline's threshold."""
    query = _query_all(pipeline, data.phrases)
    pipeline.max_objects = _EVERYTHING
    tell = progress(sys.stderr)
    for number, image in enumerate(data, start=1):
        data.add(image, _objects(pipeline, image.image, query))
        tell(number, len(data))
    return data.metrics()


def refer_refcoco(pipeline: Pipeline, data: RefCoco) -> dict[str, float]:
    """Measure accuracy by split: the best object of each sentence, as an instruction is read."""
    accuracy = Accuracy()
    tell = progress(sys.stderr)
    for number, image in enumerate(data, start=1):
        for expression in image.expressions:
            accuracy.add(expression, _answer(pipeline, image.image, expression.text))
        tell(number, len(data))
    return accuracy.metrics()


def _answer(pipeline: Pipeline, image: UInt8Array, text: str) -> Box | None:
    """The box of what a sentence refers to: every sentence has one, however low its score."""
    threshold = pipeline.threshold
    try:
        for instruction in _readings(text):
            for least in (threshold, 0.0):
                pipeline.threshold = least
                query = pipeline.query(instruction)
                objects = list(_objects(pipeline, image, query))
                if objects:
                    # The target of the sentence, else what it names first.
                    targets = [item for item in objects if item.role is Role.TARGET] or objects
                    return max(targets, key=lambda item: item.score).box
    finally:
        pipeline.threshold = threshold
    return None


def _readings(text: str) -> list[Instruction]:
    """The sentence as an instruction, and as one phrase."""
    readings = []
    for read in (parse, lambda phrase: from_phrases([phrase])):
        try:
            instruction = read(text)
        except InstructionError:
            continue
        if instruction.phrases:
            readings.append(instruction)
    return readings


def _objects(pipeline: Pipeline, image: UInt8Array, query: Query) -> Sequence[GroundedObject]:
    result = pipeline.process(Frame(image), query, with_tokens=False)
    return () if result.grounding is None else result.grounding.objects


def _query_all(pipeline: Pipeline, phrases: tuple[str, ...]) -> Query:
    """Encode the phrases at once, more than an instruction may have, spelled as they are."""
    if not pipeline.can_ground:
        raise BackendError(pipeline.grounding_status)
    query = pipeline.query(Instruction("", phrases, (Role.UNKNOWN,) * len(phrases)))
    return replace(query, phrases=phrases)
