"""What was measured: answers, and the figures over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siglip_perception.evaluation.samples import Question
from siglip_perception.types import GroundedObject, UInt8Array

_BINS = 15  # Guo et al. 2017, "On calibration of modern neural networks"
RIGHT = 0.5
"""IoU from which on a box is right."""


@dataclass(frozen=True)
class Answer:
    """One question, answered.

    presence, score: in [0, 1]; score: of the best published object, 0 without one. iou, mask_iou:
    of that object with the true one that it fits best, 0 without one; mask_iou is None where no
    mask is known. hidden: of that true one. found: share of the true ones that some published
    object has right. shown, fit: published objects, and those that have some true one right.
    """

    language: str
    objects: int
    hidden: float | None
    present: bool
    presence: float
    published: bool
    score: float
    iou: float
    mask_iou: float | None
    found: float
    shown: int
    fit: int

    @property
    def wrong(self) -> float:
        """How badly: surely wrong comes first; 0 where nothing is wrong."""
        if not self.present:
            return self.score
        if self.iou >= RIGHT:
            return 0.0
        return max(self.score, 1 - self.presence)


@dataclass(frozen=True)
class Figures:
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
    """What the published objects, each with its mask, answer. things: in the image."""
    entries = [
        (mask, found)
        for mask, found in zip(masks, objects, strict=True)
        if found.phrase == question.phrase
    ]
    truths = question.truths
    best = entries[0] if entries else None
    iou, mask_iou, hidden = 0.0, None, None
    if truths:
        nearest = max(truths, key=lambda t: best[1].box.iou(t.box) if best else 0.0)
        hidden = nearest.hidden
        if nearest.mask is not None:
            mask_iou = 0.0
        if best is not None:
            iou = best[1].box.iou(nearest.box)
            if nearest.mask is not None:
                mask_iou = _mask_iou(best[0] > 0, nearest.mask)
    right = sum(any(o.box.iou(t.box) >= RIGHT for _, o in entries) for t in truths)
    fit = sum(any(o.box.iou(t.box) >= RIGHT for t in truths) for _, o in entries)
    return Answer(
        language=question.language,
        objects=things,
        hidden=hidden,
        present=bool(truths),
        presence=presence,
        published=best is not None,
        score=best[1].score if best else 0.0,
        iou=iou,
        mask_iou=mask_iou,
        found=right / len(truths) if truths else 0.0,
        shown=len(entries),
        fit=fit,
    )


def _mask_iou(found: Any, truth: UInt8Array) -> float:
    common = int(np.count_nonzero(found & (truth > 0)))
    return common / max(int(np.count_nonzero(found | (truth > 0))), 1)


def figures(answers: Sequence[Answer]) -> Figures:
    present = [a for a in answers if a.present]
    absent = [a for a in answers if not a.present]
    masks = [a.mask_iou for a in present if a.mask_iou is not None]
    published = [a for a in answers if a.published]
    return Figures(
        present=len(present),
        absent=len(absent),
        top1=_mean(a.iou >= RIGHT for a in present),
        recall=_mean(a.found for a in present),
        precision=sum(a.fit for a in published) / sum(a.shown for a in published)
        if published
        else float("nan"),
        mask_iou=_mean(masks),
        auroc=area_under_roc([a.presence for a in present], [a.presence for a in absent]),
        false=_mean(a.published for a in absent),
        ece=calibration_error([a.presence for a in answers], [a.present for a in answers])
        if present and absent
        else float("nan"),
        score_ece=calibration_error(
            [a.score for a in published], [a.iou >= RIGHT for a in published]
        ),
    )


def breakdown(answers: Sequence[Answer]) -> dict[str, dict[str, Figures]]:
    """All of it, and by language, number of objects, and how much of the object is hidden.

    What is absent is hidden by nothing: by occlusion the figures count present phrases only.
    """
    groups: dict[str, dict[str, Callable[[Answer], bool]]] = {
        "language": {x: _is("language", x) for x in sorted({a.language for a in answers}) if x},
        "objects": {str(x): _is("objects", x) for x in sorted({a.objects for a in answers})},
        "hidden": {
            name: _hidden(low, high)
            for name, low, high in (
                ("under 5 %", 0.0, 0.05),
                ("5 to 25 %", 0.05, 0.25),
                ("25 % or more", 0.25, 1.01),
            )
        },
    }
    result = {"all": {"all": figures(answers)}}
    for name, kinds in groups.items():
        rows = {kind: [a for a in answers if test(a)] for kind, test in kinds.items()}
        filled = {kind: figures(row) for kind, row in rows.items() if row}
        if filled:
            result[name] = filled
    return result


def as_json(parts: dict[str, dict[str, Figures]]) -> dict[str, Any]:
    """JSON values; what was not asked for is null."""
    return {
        name: {kind: known(asdict(row)) for kind, row in rows.items()}
        for name, rows in parts.items()
    }


def known(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON values of figures, to five digits; null for NaN."""
    return {name: None if v != v else round(v, 5) for name, v in values.items()}


def _is(field: str, value: object) -> Callable[[Answer], bool]:
    return lambda answer: getattr(answer, field) == value


def _hidden(low: float, high: float) -> Callable[[Answer], bool]:
    return lambda answer: answer.hidden is not None and low <= answer.hidden < high


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return float(np.mean(given)) if given else float("nan")


def area_under_roc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """P(positive > negative), ties half, by ranks (Mann-Whitney); NaN where a side is empty."""
    if not positives or not negatives:
        return float("nan")
    values = np.array([*positives, *negatives])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[: len(positives)].sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))


def calibration_error(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Mean |share that is right - mean probability| over bins, weighted by their counts."""
    if not probabilities:
        return float("nan")
    given, truth = np.array(probabilities), np.array(right, dtype=np.float64)
    bins = np.minimum((given * _BINS).astype(int), _BINS - 1)
    error = 0.0
    for number in np.unique(bins):
        here = bins == number
        error += float(here.mean()) * abs(float(truth[here].mean()) - float(given[here].mean()))
    return error
