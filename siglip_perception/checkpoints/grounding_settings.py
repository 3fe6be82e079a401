"""Calibration of the grounding for one set of weights: grounding.json of a model folder."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from siglip_perception.errors import CheckpointError

_WHERE = "grounding.json: get a fresh copy of the model folder"
DEFAULT_THRESHOLD = 0.5
"""Probability from which on objects are published where nobody measured a better one."""
DEFAULT_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "en": ("{}", "a photo of a {}"),
    "ko": ("{}", "{} 사진"),
}
"""Sentences that stock weights read phrases in; the bank's phrases are read in them, too."""


@dataclass(frozen=True)
class Calibration:
    """Line from a phrase's standing to the log-odds that it is in view: scale * standing + bias.

    threshold: probability at which it finds most and errs least on the pictures that it was
    measured on (the greatest F1), from which on objects are published. That of the training's
    pictures, in grounding.json, says nothing of a user's: from_mapping() leaves it out.
    image_share: share, in [0, 1], of the whole image in whether a phrase is in view; the rest is
    its best region's. Weights that were trained on whole images know it better from those. 0: the
    better one of both.
    """

    scale: float
    bias: float
    threshold: float = DEFAULT_THRESHOLD
    image_share: float = 0.0


@dataclass(frozen=True)
class MeasuredOn:
    """Pictures and phrases of a user's calibration: it holds for them, too.

    picture_range: least_spread, most_spread and most_offset of TrainingDomain for the pictures;
        None for a model that does not know its training.
    """

    phrases: tuple[str, ...] = ()
    picture_range: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class GroundingSettings:
    """Calibration for one set of weights.

    affinity_scale, affinity_bias: sigmoid(scale * cosine + bias) is the probability that two
        DINOv2 patches show the same thing. None: not measured for these weights, so each frame's
        own cosines set the cut.
    calibration: by language; empty: scores are by the null bank alone.
    head_mlp: pool regions with the MLP of SigLIP's head; None: a self-test decides when the model
        is loaded.
    templates: language -> sentences with one {} for the phrase, averaged as unit vectors.
    measured_on: pictures and phrases of the user's own calibration; None without one.
    """

    affinity_scale: float | None = None
    affinity_bias: float | None = None
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    head_mlp: bool | None = None
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DEFAULT_TEMPLATES)
    measured_on: MeasuredOn | None = None

    @property
    def is_calibrated(self) -> bool:
        """True if scores are probabilities measured for these weights."""
        return bool(self.calibration)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> GroundingSettings:
        """Check the content of grounding.json; the defaults without one.

        Raises CheckpointError if a value is not what it has to be, or the affinity's scale is
        there without its bias.
        """
        names = ("affinity_scale", "affinity_bias")
        affinity: list[float | None] = [None, None]
        if any(content.get(name) is not None for name in names):
            affinity = [number_of(content.get(name), name) for name in names]
        head_mlp = content.get("head_mlp")
        if head_mlp is not None and not isinstance(head_mlp, bool):
            raise wrong_value("head_mlp", head_mlp, "true or false")
        lines = read_calibration(content.get("calibration"), _WHERE)
        return cls(
            affinity[0],
            affinity[1],
            {x: replace(line, threshold=DEFAULT_THRESHOLD) for x, line in lines.items()},
            head_mlp,
            _templates(content.get("templates")),
        )


def read_calibration(content: Any, where: str) -> Mapping[str, Calibration]:
    """Check a calibration as it stands in a file, by language; empty for None.

    where: the file and what to do about it, for errors, as "FILE: get another".
    Raises CheckpointError for numbers that are none, a scale that is not above 0, or a threshold
    outside of (0, 1).
    """
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise wrong_value("calibration", content, "an object with a language for each key", where)
    calibration = {}
    for language, values in content.items():
        name = f"calibration.{language}"
        if not isinstance(values, dict):
            raise wrong_value(name, values, "an object with scale, bias and threshold", where)
        scale = number_of(values.get("scale"), f"{name}.scale", where)
        threshold = number_of(
            values.get("threshold", DEFAULT_THRESHOLD), f"{name}.threshold", where
        )
        if scale <= 0:
            raise wrong_value(f"{name}.scale", scale, "above 0", where)
        if not 0 < threshold < 1:
            raise wrong_value(f"{name}.threshold", threshold, "between 0 and 1", where)
        bias = number_of(values.get("bias"), f"{name}.bias", where)
        share = number_of(values.get("image_share", 0.0), f"{name}.image_share", where)
        if not 0 <= share <= 1:
            raise wrong_value(f"{name}.image_share", share, "from 0 to 1", where)
        calibration[str(language)] = Calibration(scale, bias, threshold, share)
    return calibration


def _templates(content: Any) -> Mapping[str, tuple[str, ...]]:
    if content is None:
        return DEFAULT_TEMPLATES
    if not isinstance(content, dict):
        raise wrong_value(
            "templates", content, "an object with a list of sentences for each language"
        )
    templates = dict(DEFAULT_TEMPLATES)
    for language, sentences in content.items():
        is_list = isinstance(sentences, list) and sentences
        if not is_list or any(not isinstance(s, str) or s.count("{}") != 1 for s in sentences):
            raise wrong_value(
                f"templates.{language}", sentences, "a list of sentences with one {} each"
            )
        templates[str(language)] = tuple(sentences)
    return templates


def number_of(value: Any, name: str, where: str = _WHERE) -> float:
    """Check a number of a file; raises CheckpointError."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not -1e6 <= value <= 1e6:
        raise wrong_value(name, value, "a number between -1e6 and 1e6", where)
    return float(value)


def wrong_value(name: str, value: Any, expected: str, where: str = _WHERE) -> CheckpointError:
    """Make the error for a value of a file. where: see read_calibration()."""
    file, _, advice = where.partition(": ")
    return CheckpointError(
        f"{name} in {file} is {reprlib.repr(value)} and must be {expected}: {advice}."
    )
