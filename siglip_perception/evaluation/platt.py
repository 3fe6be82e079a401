"""Calibrate the scores, so that presence is a true probability.

Training uses regions from the generator's masks; at inference DINOv2 finds them, and misses some.
Platt scaling (Platt 1999) on held-out pictures gives each language a line from a phrase's standing
to the log-odds that it is in view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import Calibration
from siglip_perception.evaluation.samples import Sample
from siglip_perception.language.instruction import MAX_PHRASES, from_phrases
from siglip_perception.language.null_phrases import language_of
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import FloatArray

_STEPS = 50
_IDENTITY = {"en": Calibration(1.0, 0.0)}


def platt(logits: FloatArray, truths: FloatArray) -> tuple[float, float]:
    """Fit factor and addend that maximize the likelihood of sigmoid(factor * logit + addend).

    logits, truths: float [N]; truths are 0 or 1, with both present. The truths are fitted as
    (N1 + 1) / (N1 + 2) and 1 / (N0 + 2), N1 and N0 being their numbers (Platt 1999, section 2.2):
    a few answers that a threshold divides without an error must not make all others certain.
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64) for values in (logits, truths))
    present = y.sum()
    y = torch.where(y > 0, (present + 1) / (present + 2), 1 / (len(y) - present + 2))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
        loss.backward()
        return loss

    optimizer.step(closure)
    factor, addend = line.tolist()
    return factor, addend


@dataclass(frozen=True)
class MeasuredQuestion:
    """A question's answers on its sample.

    region, image: standing of the best region, and of the whole image. presence: the probability
    that the model gives it as it is. truth: 1 if the phrase is there, else 0. sample: its number.
    """

    phrase: str
    language: str
    region: float
    image: float
    presence: float
    truth: float
    sample: int

    def standing(self, image_share: float) -> float:
        """Standing that the phrase is in view, see Calibration.image_share."""
        if image_share == 0:
            return max(self.region, self.image)
        return (1 - image_share) * self.region + image_share * self.image


def measure_questions(
    pipeline: Pipeline, samples: Iterable[Sample]
) -> Iterator[tuple[list[MeasuredQuestion], Tensor | None]]:
    """Answer the questions of each sample; also its TrainingDomain.distances(), [2], if known.

    A standing is that of any picture and phrase, inside of the model's training or not: the line
    that is fitted to them holds for those that they were measured on.
    """
    grounder = pipeline.grounder
    settings, domain = grounder.settings, grounder.domain
    for number, sample in enumerate(samples):
        siglip, dino = pipeline.features([sample.image])
        distances = None if domain is None else domain.distances(siglip[0]).cpu()
        measured = []
        for start in range(0, len(sample.questions), MAX_PHRASES):
            questions = sample.questions[start : start + MAX_PHRASES]
            query = pipeline.query(from_phrases([question.phrase for question in questions]))
            presence = grounder.score(siglip[0], dino[0], query.encoded).presence()
            try:
                grounder.settings, grounder.domain = replace(settings, calibration=_IDENTITY), None
                encoded = replace(query.encoded, unfamiliar=())
                scores = grounder.score(siglip[0], dino[0], encoded)
            finally:
                grounder.settings, grounder.domain = settings, domain
            region = scores.logits.max(axis=1) if len(scores.maps) else scores.image_logits
            columns = {phrase: column for column, phrase in enumerate(query.phrases)}
            measured += [
                MeasuredQuestion(
                    question.phrase,
                    language_of(question.phrase),
                    float(region[columns[question.phrase]]),
                    float(scores.image_logits[columns[question.phrase]]),
                    float(presence[columns[question.phrase]]),
                    float(bool(question.truths)),
                    number,
                )
                for question in questions
            ]
        yield measured, distances


def by_language(questions: Iterable[MeasuredQuestion]) -> dict[str, list[MeasuredQuestion]]:
    """Sort questions by the language of their phrases."""
    result: dict[str, list[MeasuredQuestion]] = {}
    for question in questions:
        result.setdefault(question.language, []).append(question)
    return result


def best_threshold(probability: FloatArray, truths: FloatArray) -> float:
    """The threshold of the greatest F1, in the middle between the two values that it divides."""
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(truths[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truths.sum())
    best = int(f1.argmax())
    values = probability[order]
    below = values[best + 1] if best + 1 < len(values) else 0.0
    return float(np.clip((values[best] + below) / 2, 0.01, 0.99))
