"""Standing: what is left of a cosine once the weights' scale, bias and language are taken out.

SigLIP's logit is scale * cosine + bias. On weights that were not trained for regions the bias is
far from a region's level, and every language has a level of its own. The phrases of a null bank
have the same scale, bias and level, so a phrase is compared with them, on the same regions of the
same frame: its standing is the distance from their mean in units of their spread. Adding a number
to every logit or multiplying all of them changes neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from siglip_perception.checkpoints.grounding_settings import Calibration
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import FloatArray

_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class PhraseSet:
    """Encoded phrases with what they are compared with.

    embeddings: float32 [P, D], unit length. languages: of each phrase, a key of the bank.
    negatives: float32 [M, D], each phrase in other colors. owners: phrase of each negative.
    unfamiliar: indices of phrases that the model does not know, see TrainingDomain.
    bank_places: for each phrase the rows of its language's bank that mean the same, and that it is
        not compared with; empty: none has any.
    """

    embeddings: Tensor
    languages: tuple[str, ...]
    negatives: Tensor
    owners: tuple[int, ...] = ()
    unfamiliar: tuple[int, ...] = ()
    bank_places: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def plain(cls, embeddings: Tensor, language: str = "en") -> PhraseSet:
        """Phrases of one language without negatives: embeddings [P, D]."""
        return cls(embeddings, (language,) * len(embeddings), embeddings[:0])


def texts_of(phrases: PhraseSet, bank: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Everything that regions are compared with, float32 [P + M + K.., D], as log_odds() reads it:
    phrases, their negatives, and the bank of each of their languages."""
    languages = dict.fromkeys(phrases.languages)
    parts = [phrases.embeddings, phrases.negatives, *(bank[x] for x in languages)]
    return torch.cat([part.to(device) for part in parts])


def log_odds(
    cosines: FloatArray,
    phrases: PhraseSet,
    bank: Mapping[str, Tensor],
    calibration: Mapping[str, Calibration],
    options: GroundingOptions = DEFAULT_OPTIONS,
    penalties: FloatArray | None = None,
    is_outside: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Log-odds of each phrase at each column: float32 [P, C], and slopes [P] of them by standing.

    cosines: float32 [P + M + K.., C] of texts_of(); the columns are a frame's regions, the whole
    picture among them. penalties: float32 [C], standing taken from each column. is_outside: the
    picture is none of those that the calibration holds for.
    """
    values = standing(cosines, phrases, bank, options)
    if penalties is not None:
        values -= penalties
    lines = lines_of(phrases, calibration, options, is_outside)
    slopes = np.array([line.scale for line in lines], np.float32)
    addends = np.array([line.bias for line in lines], np.float32)
    return values * slopes[:, None] + addends[:, None], slopes


def lines_of(
    phrases: PhraseSet,
    calibration: Mapping[str, Calibration],
    options: GroundingOptions = DEFAULT_OPTIONS,
    is_outside: bool = False,
) -> list[Calibration]:
    """The line of each phrase's standing, and the threshold of its scores; see log_odds()."""
    outside = Calibration(options.stock_slope, -options.stock_slope * options.outside_level)
    return [
        outside
        if is_outside or number in phrases.unfamiliar
        else language_line(language, calibration, options)
        for number, language in enumerate(phrases.languages)
    ]


def language_line(
    language: str,
    calibration: Mapping[str, Calibration],
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> Calibration:
    """The line of a language inside of what the model was trained or calibrated on.

    A language that was not calibrated has another's line: their standings are comparable.
    """
    if not calibration:
        return Calibration(options.stock_slope, -options.stock_slope * options.stock_level)
    return calibration.get(language) or next(iter(calibration.values()))


def standing(
    cosines: FloatArray,
    phrases: PhraseSet,
    bank: Mapping[str, Tensor],
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> FloatArray:
    """Standing of each phrase at each column of log_odds(): float32 [P, C].

    The level that a phrase is compared with is halfway between the bank's mean at that column,
    which takes out what is common to all phrases there, and its mean over the frame, which keeps a
    region that no phrase fits from being anything.
    """
    languages = list(dict.fromkeys(phrases.languages))
    sizes = [len(phrases.embeddings), len(phrases.negatives), *(len(bank[x]) for x in languages)]
    of_phrases, of_negatives, *of_banks = np.split(cosines, np.cumsum(sizes)[:-1])
    of_bank = dict(zip(languages, of_banks, strict=True))
    levels = {language: _level(values, options) for language, values in of_bank.items()}
    result = np.empty_like(of_phrases)
    spreads = np.empty((len(of_phrases), 1), np.float32)
    for number, language in enumerate(phrases.languages):
        level, spread = levels[language]
        own_places = phrases.bank_places[number] if phrases.bank_places else ()
        if own_places:
            others = np.delete(of_bank[language], own_places, axis=0)
            level, spread = _level(others, options)
        result[number], spreads[number] = (of_phrases[number] - level) / spread, spread
    if options.contrast and phrases.owners:
        lead = np.zeros_like(result)
        for place, owner in enumerate(phrases.owners):
            np.maximum(lead[owner], of_negatives[place] - of_phrases[owner], out=lead[owner])
        result -= options.contrast * lead / spreads
    return result


def _level(bank: FloatArray, options: GroundingOptions) -> tuple[FloatArray, float]:
    """Level [C] that a phrase is compared with, and the bank's spread, of its cosines [K, C]."""
    column = bank.mean(axis=0)
    level: FloatArray = options.column_share * column + (1 - options.column_share) * column.mean()
    return level, max(float(bank.std()), _LEAST_SPREAD)
