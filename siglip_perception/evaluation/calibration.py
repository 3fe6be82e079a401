"""Calibrate a model on somebody's own pictures: lines, and how far they can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from siglip_perception.checkpoints import GROUNDING
from siglip_perception.checkpoints.grounding_settings import Calibration
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.null_bank import BANK, write_bank
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.metrics import calibration_error
from siglip_perception.evaluation.platt import best_threshold, platt, standings
from siglip_perception.evaluation.samples import Sample, rendered_samples, scene_samples
from siglip_perception.grounding.training_domain import measure_domain, write_domain
from siglip_perception.pipeline import Pipeline
from siglip_perception.scenes.vocabulary import LANGUAGES, PHRASE_CLASSES
from siglip_perception.types import FloatArray
from siglip_perception.util.files import write_atomically

CALIBRATION_SEED = 6_000_000
"""Far from the seeds of training, its validation batch and the evaluation."""
LEAST = 20
"""Fewest present, and fewest absent, phrases of a language that a line is fitted to."""
_FOLDS = 5


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


def measure_calibration(
    pipeline: Pipeline, samples: Sequence[Sample]
) -> tuple[dict[str, LanguageCalibration], list[str]]:
    """Fit every language that has enough questions; also a sentence for each that has not.

    Raises CalibrationError if none has, or if standing falls as the truth rises.
    """
    settings, options = pipeline.grounder.settings, pipeline.grounder.options
    measured: dict[str, tuple[list[float], list[float], list[int]]] = {}
    for number, sample in enumerate(samples):
        for language, (values, truths) in standings(pipeline, [sample]).items():
            entry = measured.setdefault(language, ([], [], []))
            entry[0].extend(values)
            entry[1].extend(truths)
            entry[2].extend([number] * len(values))
    pipeline.grounder.settings = settings
    result: dict[str, LanguageCalibration] = {}
    remarks: list[str] = []
    for language, (values, truths, pictures) in measured.items():
        x, y = np.array(values, np.float32), np.array(truths, np.float32)
        present, absent = int(y.sum()), int((1 - y).sum())
        if present < LEAST or absent < LEAST:
            remarks.append(
                f"{language}: {present} present and {absent} absent phrases, and {LEAST} of each"
                " are needed"
            )
            continue
        line = fit(x, y)
        if line is None:
            raise CalibrationError(
                f"Standing does not rise with the truth ({language}): this model tells nothing of"
                " these pictures, so check that the annotations belong to them."
            )
        old = settings.calibration.get(language)
        scale = old.scale if old is not None else options.stock_slope
        bias = old.bias if old is not None else -options.stock_slope * options.stock_level
        result[language] = LanguageCalibration(
            line, present, absent, _sigmoid(scale * x + bias), _held_out(x, y, pictures, line), y
        )
    if not result:
        reasons = "; ".join(remarks) or "no picture has a question"
        raise CalibrationError(
            f"There is too little to calibrate on ({reasons}): annotate more pictures, about 20"
            " with some objects each."
        )
    return result, remarks


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
    drawn, rendered: number of scenes of each kind.
    """

    def samples() -> Iterator[Sample]:
        yield from scene_samples(drawn, 1, 8, CALIBRATION_SEED)
        yield from rendered_samples(rendered, 1, 8, CALIBRATION_SEED)

    pipeline = Pipeline.load(ModelSelection(str(model), device="cpu", precision="fp32"))
    pipeline.grounder.domain = None
    measured = standings(pipeline, samples())
    lines = {
        language: fit(np.array(values, np.float32), np.array(truths, np.float32))
        for language, (values, truths) in measured.items()
    }
    calibration = {x: asdict(line) for x, line in lines.items() if line is not None}
    path = model / GROUNDING
    content = json.loads(path.read_text()) if path.exists() else {}
    content["calibration"] = calibration or None
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    patches = [pipeline.features([sample.image])[0][0].cpu() for sample in samples()]
    plain, wordings = (
        tuple(text for c in PHRASE_CLASSES for x in LANGUAGES for text in c.forms(x)[part])
        for part in (slice(0, 1), slice(1, None))
    )
    known, others = (pipeline.embed(texts)[0].cpu() for texts in (plain, wordings))
    write_domain(model, measure_domain(patches, known, others))
    bank, key = pipeline.grounder.bank, pipeline.bank_key
    write_bank(model / BANK, bank, key)


def lines_of(measured: Mapping[str, LanguageCalibration]) -> dict[str, Calibration]:
    """The line of each language."""
    return {language: entry.line for language, entry in measured.items()}


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
