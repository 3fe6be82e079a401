"""Answers to single questions, and the metrics over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from siglip_perception.evaluation.samples import Miss, Question
from siglip_perception.types import GroundedObject, UInt8Array

_BINS = 15  # Guo et al. 2017, "On calibration of modern neural networks"
IOU_THRESHOLD = 0.5
"""Minimum IoU of a correct box."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    presence, score: in [0, 1]; score: of the best published object, 0 without one. iou, mask_iou:
    of that object with the true object it fits best, 0 without one; mask_iou is None if the true
    mask is unknown. occlusion: of that true object. recall: share of true objects matched by a
    published one. detections, true_positives: published objects, and those that match a true one.
    objects: number in the image. present: whether there is a true object. detected: whether an
    object was published.
    """

    language: str
    objects: int
    occlusion: float | None
    present: bool
    presence: float
    detected: bool
    score: float
    iou: float
    mask_iou: float | None
    recall: float
    detections: int
    true_positives: int
    size: float | None = None
    miss: Miss = ""

    @property
    def wrong(self) -> float:
        """Severity of the error in [0, 1], highest if wrong with confidence; 0 if correct."""
        if not self.present:
            return self.score
        if self.iou >= IOU_THRESHOLD:
            return 0.0
        return max(self.score, 1 - self.presence)


@dataclass(frozen=True)
class Metrics:
    """Shares in [0, 1], NaN where nothing of the kind was asked.

    top1: present phrases whose best published box has an IoU of 0.5 or more with the true one.
    recall: true objects that some published box has right. mask_iou: mean IoU of the best
    published mask, 0 without one. precision: published objects that have a true one right.
    auroc: probability that a present phrase has more presence than an absent one.
    false: absent phrases for which something was published. ece: expected calibration error of the
    presence, in 15 bins of equal width. score_ece: of published scores as the probability that the
    box is right.
    """

    present: int
    absent: int
    top1: float
    recall: float
    precision: float
    mask_iou: float
    auroc: float
    false: float
    ece: float
    score_ece: float


def judge(
    question: Question,
    presence: float,
    things: int,
    objects: Sequence[GroundedObject],
    masks: Sequence[UInt8Array],
) -> Answer:
    """Compare published objects and masks with the truth. things: objects in the image."""
    entries = [
        (mask, detection)
        for mask, detection in zip(masks, objects, strict=True)
        if detection.phrase == question.phrase
    ]
    truths = question.truths
    best = entries[0] if entries else None
    iou, mask_iou, occlusion, size = 0.0, None, None, None
    if truths:
        nearest = max(truths, key=lambda t: best[1].box.iou(t.box) if best else 0.0)
        occlusion = nearest.occlusion
        if nearest.mask is not None:
            mask_iou = 0.0
            size = float(np.count_nonzero(nearest.mask)) / nearest.mask.size
        if best is not None:
            iou = best[1].box.iou(nearest.box)
            if nearest.mask is not None:
                mask_iou = _mask_iou(best[0] > 0, nearest.mask)
    recall_count = sum(any(o.box.iou(t.box) >= IOU_THRESHOLD for _, o in entries) for t in truths)
    true_positives = sum(
        any(o.box.iou(t.box) >= IOU_THRESHOLD for t in truths) for _, o in entries
    )
    return Answer(
        language=question.language,
        objects=things,
        occlusion=occlusion,
        present=bool(truths),
        presence=presence,
        detected=best is not None,
        score=best[1].score if best else 0.0,
        iou=iou,
        mask_iou=mask_iou,
        recall=recall_count / len(truths) if truths else 0.0,
        detections=len(entries),
        true_positives=true_positives,
        size=size,
        miss=question.miss,
    )


def _mask_iou(prediction: Any, truth: UInt8Array) -> float:
    common = int(np.count_nonzero(prediction & (truth > 0)))
    return common / max(int(np.count_nonzero(prediction | (truth > 0))), 1)


def compute_metrics(answers: Sequence[Answer]) -> Metrics:
    present = [a for a in answers if a.present]
    absent = [a for a in answers if not a.present]
    masks = [a.mask_iou for a in present if a.mask_iou is not None]
    positives = [a for a in answers if a.detected]
    return Metrics(
        present=len(present),
        absent=len(absent),
        top1=_mean(a.iou >= IOU_THRESHOLD for a in present),
        recall=_mean(a.recall for a in present),
        precision=sum(a.true_positives for a in positives) / sum(a.detections for a in positives)
        if positives
        else float("nan"),
        mask_iou=_mean(masks),
        auroc=area_under_roc([a.presence for a in present], [a.presence for a in absent]),
        false=_mean(a.detected for a in absent),
        ece=calibration_error([a.presence for a in answers], [a.present for a in answers])
        if present and absent
        else float("nan"),
        score_ece=calibration_error(
            [a.score for a in positives], [a.iou >= IOU_THRESHOLD for a in positives]
        ),
    )


def breakdown(answers: Sequence[Answer]) -> dict[str, dict[str, Metrics]]:
    """Compute metrics overall, and by language, number of objects, occlusion, size and miss.

    Occlusion and size are those of present phrases, misses those of absent ones.
    """
    groups: dict[str, dict[str, Callable[[Answer], bool]]] = {
        "language": {x: _is("language", x) for x in sorted({a.language for a in answers}) if x},
        "objects": {str(x): _is("objects", x) for x in sorted({a.objects for a in answers})},
        "hidden": {
            name: _occlusion_between(low, high)
            for name, low, high in (
                ("under 5 %", 0.0, 0.05),
                ("5 to 25 %", 0.05, 0.25),
                ("25 % or more", 0.25, 1.01),
            )
        },
        "picture": {
            name: _size_between(low, high)
            for name, low, high in (
                ("under 0.5 %", 0.0, 0.005),
                ("0.5 to 1 %", 0.005, 0.01),
                ("1 to 3 %", 0.01, 0.03),
                ("3 % or more", 0.03, 1.01),
            )
        },
        "absent": {x: _is("miss", x) for x in get_args(Miss) if x},
    }
    result = {"all": {"all": compute_metrics(answers)}}
    for name, tests in groups.items():
        rows = {kind: [a for a in answers if test(a)] for kind, test in tests.items()}
        metrics_by_kind = {kind: compute_metrics(row) for kind, row in rows.items() if row}
        if metrics_by_kind:
            result[name] = metrics_by_kind
    return result


def as_json(parts: dict[str, dict[str, Metrics]]) -> dict[str, Any]:
    """Convert to JSON values; undefined metrics are null."""
    return {
        name: {kind: nan_to_null(asdict(row)) for kind, row in rows.items()}
        for name, rows in parts.items()
    }


def nan_to_null(values: Mapping[str, float]) -> dict[str, float | None]:
    """Round metrics to five digits for JSON; NaN becomes None."""
    return {name: None if v != v else round(v, 5) for name, v in values.items()}


def _is(field: str, value: object) -> Callable[[Answer], bool]:
    return lambda answer: getattr(answer, field) == value


def _occlusion_between(low: float, high: float) -> Callable[[Answer], bool]:
    return lambda answer: answer.occlusion is not None and low <= answer.occlusion < high


def _size_between(low: float, high: float) -> Callable[[Answer], bool]:
    return lambda answer: answer.size is not None and low <= answer.size < high


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else float("nan")


def area_under_roc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """P(positive > negative), ties count half, by ranks (Mann-Whitney); NaN if a side is empty."""
    if not positives or not negatives:
        return float("nan")
    values = np.array([*positives, *negatives])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[: len(positives)].sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))


def calibration_error(probabilities: Sequence[float], correct: Sequence[bool]) -> float:
    """Expected calibration error: mean |accuracy - confidence| over bins, weighted by count."""
    if not probabilities:
        return float("nan")
    confidence, truth = np.array(probabilities), np.array(correct, dtype=np.float64)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    error = 0.0
    for number in np.unique(bins):
        in_bin = bins == number
        error += float(in_bin.mean()) * abs(
            float(truth[in_bin].mean()) - float(confidence[in_bin].mean())
        )
    return error
