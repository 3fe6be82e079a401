"""Calibrate a model on somebody's own pictures: lines, and how far they can be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siglip_perception.checkpoints import GROUNDING
from siglip_perception.checkpoints.grounding_settings import Calibration, MeasuredOn
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.null_bank import BANK, write_bank
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.metrics import calibration_error
from siglip_perception.evaluation.platt import (
    MeasuredQuestion,
    best_threshold,
    by_language,
    measure_questions,
    platt,
)
from siglip_perception.evaluation.samples import Sample, rendered_samples, scene_samples
from siglip_perception.grounding.training_domain import (
    TrainingDomain,
    measure_domain,
    range_of,
    write_domain,
)
from siglip_perception.pipeline import Pipeline
from siglip_perception.scenes.vocabulary import LANGUAGES, PHRASE_CLASSES
from siglip_perception.types import FloatArray
from siglip_perception.util.files import write_atomically

CALIBRATION_SEED = 6_000_000
# Scenes of one stock of shapes and textures: pictures of one stock lie near each other.
_STAGE_SCENES = 10
"""Far from the seeds of training, its validation batch and the evaluation."""
LEAST = 20
"""Fewest present, and fewest absent, phrases of a language that a line is fitted to."""
IMAGE_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the whole image in a phrase's presence that a calibration tries."""
_FOLDS = 5
_LEAST_PROBABILITY = 1e-6
_GAIN = 0.02
"""Share of the loss that a larger share of the image has to save: less is luck."""


class CalibrationError(PerceptionError):
    """Pictures that a calibration cannot be measured on."""


@dataclass(frozen=True)
class LanguageCalibration:
    """One language's line, and what it was measured on.

    present, absent: number of questions. before, after: probability of each question, that of
    `after` by a line that was fitted without the question's picture. truths: whether it was there.
    """

    line: Calibration
    present: int
    absent: int
    before: FloatArray
    after: FloatArray
    truths: FloatArray

    @property
    def ece(self) -> tuple[float, float]:
        """Expected calibration error before and after, in [0, 1]."""
        before, after = (
            calibration_error(values.tolist(), [bool(t) for t in self.truths])
            for values in (self.before, self.after)
        )
        return before, after


@dataclass(frozen=True)
class MeasuredCalibration:
    """languages: those that have enough questions. remarks: a sentence for each that has not.

    measured_on: what it holds for. samples: number of pictures.
    """

    languages: Mapping[str, LanguageCalibration]
    remarks: tuple[str, ...]
    measured_on: MeasuredOn
    samples: int

    @property
    def lines(self) -> dict[str, Calibration]:
        """The line of each language."""
        return {language: entry.line for language, entry in self.languages.items()}


def measure_calibration(
    pipeline: Pipeline, samples: Iterable[Sample], tell: Callable[[int], None] | None = None
) -> MeasuredCalibration:
    """Fit every language that has enough questions.

    tell: called with the number of samples that are done. Raises CalibrationError if no language
    has enough, or if standing falls as the truth rises.
    """
    questions: list[MeasuredQuestion] = []
    distances: list[Tensor] = []
    count = 0
    for answers, picture in measure_questions(pipeline, samples):
        questions += answers
        distances += [] if picture is None else [picture]
        count += 1
        if tell is not None:
            tell(count)
    result: dict[str, LanguageCalibration] = {}
    remarks: list[str] = []
    for language, entries in by_language(questions).items():
        truths = np.array([entry.truth for entry in entries], np.float32)
        present, absent = int(truths.sum()), int((1 - truths).sum())
        if present < LEAST or absent < LEAST:
            remarks.append(
                f"{language}: {present} present and {absent} absent phrases, and {LEAST} of each"
                " are needed"
            )
            continue
        pictures = [entry.sample for entry in entries]
        line, held_out = fit_with_share(entries, truths, pictures)
        if line is None:
            raise CalibrationError(
                f"Standing does not rise with the truth ({language}): this model tells nothing of"
                " these pictures, so check that the annotations belong to them."
            )
        before = np.array([entry.presence for entry in entries], np.float32)
        result[language] = LanguageCalibration(line, present, absent, before, held_out, truths)
    if not result:
        reasons = "; ".join(remarks) or "no picture has a question"
        raise CalibrationError(
            f"There is too little to calibrate on ({reasons}): annotate more pictures, about 20"
            " with some objects each, of several categories, so that each picture lacks some."
        )
    phrases = tuple(dict.fromkeys(q.phrase for q in questions if q.language in result))
    limits = range_of(torch.stack(distances)) if distances else None
    return MeasuredCalibration(result, tuple(remarks), MeasuredOn(phrases, limits), count)


def fit_with_share(
    questions: Sequence[MeasuredQuestion], truths: FloatArray, pictures: Sequence[int]
) -> tuple[Calibration | None, FloatArray]:
    """Fit the line of each share of the whole image, and take the share that predicts best.

    Also its probabilities [N], each by a line that was fitted without the question's picture. None
    where standing falls as the truth rises with any share.
    """
    best: tuple[Calibration | None, FloatArray] = None, np.zeros_like(truths)
    least = np.inf
    for share in IMAGE_SHARES:
        values = np.array([question.standing(share) for question in questions], np.float32)
        line = fit(values, truths)
        if line is None:
            continue
        probability = _held_out(values, truths, pictures, line)
        likely = np.where(truths > 0, probability, 1 - probability).astype(np.float64)
        loss = float(-np.log(np.maximum(likely, _LEAST_PROBABILITY)).mean())
        if loss < least * (1 - _GAIN):
            least, best = loss, (replace(line, image_share=share), probability)
    return best


def fit(values: FloatArray, truths: FloatArray) -> Calibration | None:
    """Fit the line from standings to log-odds; None where standing falls as the truth rises."""
    factor, addend = platt(values, truths)
    if not factor > 0:
        return None
    probability = _sigmoid(factor * values + addend)
    return Calibration(factor, addend, best_threshold(probability, truths))


def calibrate(model: Path, drawn: int, rendered: int = 0) -> None:
    """Write the calibration of every language, what is inside its training, and its null bank.

    For a model that was trained on generated scenes, and measured on such. Leaves a model
    uncalibrated that learned nothing, whose presence falls as the truth rises.
    drawn, rendered: number of scenes of each kind. Both are inside the training; the lines are the
    drawn ones' alone: a model that knows rendered things less well would be sure too easily if its
    lines were fitted to both, and would find things that are not there in either.
    """

    pipeline = Pipeline.load(ModelSelection(str(model), device="cpu", precision="fp32"))
    pipeline.grounder.domain = None
    answers = measure_questions(pipeline, scene_samples(drawn, 1, 8, CALIBRATION_SEED))
    lines = {}
    for language, questions in by_language(q for part, _ in answers for q in part).items():
        truths = np.array([question.truth for question in questions], np.float32)
        pictures = [question.sample for question in questions]
        lines[language], _ = fit_with_share(questions, truths, pictures)
    calibration = {x: asdict(line) for x, line in lines.items() if line is not None}
    path = model / GROUNDING
    content = json.loads(path.read_text()) if path.exists() else {}
    content["calibration"] = calibration or None
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    write_domain(model, generated_domain(pipeline, drawn, rendered))
    bank, key = pipeline.grounder.bank, pipeline.bank_key
    write_bank(model / BANK, bank, key)


def generated_domain(pipeline: Pipeline, drawn: int, rendered: int) -> TrainingDomain:
    """Measure what is inside the training of a model that learned from generated scenes.

    drawn, rendered: number of scenes of each kind.
    """
    by_kind = [
        [pipeline.features([sample.image])[0][0].cpu() for sample in samples]
        for samples in (
            scene_samples(drawn, 1, 8, CALIBRATION_SEED),
            rendered_samples(rendered, 1, 8, CALIBRATION_SEED, _STAGE_SCENES),
        )
    ]
    mixture = [picture for pictures in by_kind for picture in pictures[::2]]
    others = (by_kind[1] or by_kind[0])[1::2]  # rendered scenes vary more
    plain, wordings = (
        tuple(text for c in PHRASE_CLASSES for x in LANGUAGES for text in c.forms(x)[part])
        for part in (slice(0, 1), slice(1, None))
    )
    known, rephrased = (pipeline.embed(texts)[0].cpu() for texts in (plain, wordings))
    return measure_domain(mixture, others, known, rephrased)


def _held_out(
    values: FloatArray, truths: FloatArray, pictures: Sequence[int], line: Calibration
) -> FloatArray:
    """Probability of each question by a line fitted on the other pictures, in five folds."""
    folds = np.array(pictures) % _FOLDS
    result = _sigmoid(line.scale * values + line.bias)
    for fold in np.unique(folds):
        rest = folds != fold
        if 0 < truths[rest].sum() < rest.sum():
            part = fit(values[rest], truths[rest])
            part = part if part is not None else replace(line, scale=0.0, bias=0.0)
            result[~rest] = _sigmoid(part.scale * values[~rest] + part.bias)
    return result


def _sigmoid(logits: FloatArray) -> FloatArray:
    values: FloatArray = (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)
    return values
