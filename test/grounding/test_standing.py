"""Standing among the null bank: nothing is left of a checkpoint's scale, bias or language."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception.checkpoints.grounding_settings import Calibration
from siglip_perception.grounding.options import GroundingOptions
from siglip_perception.grounding.standing import PhraseSet, log_odds, standing
from siglip_perception.types import FloatArray

pytestmark = pytest.mark.numeric

BANK = {"en": torch.zeros(40, 8), "ko": torch.zeros(30, 8)}
PHRASES = PhraseSet(torch.zeros(4, 8), ("en", "en", "ko", "ko"), torch.zeros(3, 8), (0, 0, 2))
# Rows: 4 phrases, 3 negatives, 40 English and 30 Korean phrases of the bank; columns: 6 regions.
KOREAN = np.array([0, 0, 1, 1, 0, 0, 1, *[0] * 40, *[1] * 30], bool)


def frame(seed: int) -> FloatArray:
    return np.random.default_rng(seed).normal(-8, 3, (77, 6)).astype(np.float32)


def probability(logits: FloatArray) -> FloatArray:
    values, _ = log_odds(logits, PHRASES, BANK, {"en": Calibration(5.5, -10.0)})
    result: FloatArray = (1 / (1 + np.exp(-values))).astype(np.float32)
    return result


@pytest.mark.parametrize("shift", [-10.0, 10.0])
@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
@given(seed=st.integers(0, 2**31))
def test_a_shift_or_a_factor_of_all_logits_changes_nothing(
    seed: int, shift: float, factor: float
) -> None:
    logits = frame(seed)
    np.testing.assert_allclose(
        probability(logits * factor + shift), probability(logits), atol=2e-3
    )


@given(seed=st.integers(0, 2**31), shift=st.floats(-6, 6))
def test_the_bias_of_one_language_changes_nothing(seed: int, shift: float) -> None:
    logits = frame(seed)
    shifted = logits + np.where(KOREAN, np.float32(shift), np.float32(0))[:, None]
    np.testing.assert_allclose(probability(shifted), probability(logits), atol=2e-3)


def test_standing_is_the_distance_from_the_bank_in_its_spreads() -> None:
    bank = {"en": torch.zeros(2, 8)}
    phrase = PhraseSet.plain(torch.zeros(1, 8))
    # The bank's means at both columns are 1 and 3, over the frame 2; its spread is sqrt(2).
    cosines = np.array([[4.0, 4.0], [0.0, 2.0], [2.0, 4.0]], np.float32)
    by_frame = standing(cosines, phrase, bank, GroundingOptions(column_share=0.0))
    np.testing.assert_allclose(by_frame, [[np.sqrt(2), np.sqrt(2)]], rtol=1e-6)
    halfway = standing(cosines, phrase, bank, GroundingOptions(column_share=0.5))
    np.testing.assert_allclose(halfway, [[2.5 / np.sqrt(2), 1.5 / np.sqrt(2)]], rtol=1e-6)


def test_a_phrase_of_the_bank_is_not_compared_with_itself() -> None:
    bank = {"en": torch.zeros(3, 8)}
    # The second row of the bank is the phrase itself; the others have mean 0 and spread 1.
    cosines = np.array([[5.0, 5.0], [-1.0, -1.0], [5.0, 5.0], [1.0, 1.0]], np.float32)
    phrase = PhraseSet(torch.zeros(1, 8), ("en",), torch.zeros(0, 8), bank_places=((1,),))
    np.testing.assert_allclose(standing(cosines, phrase, bank), [[5.0, 5.0]], rtol=1e-6)


def test_a_color_that_fits_better_takes_its_lead_and_one_that_fits_worse_nothing() -> None:
    bank = {"en": torch.zeros(2, 8)}
    options = GroundingOptions(column_share=0.0, contrast=1.0)
    bank_rows = [[-1.0, -1.0], [1.0, 1.0]]  # mean 0, spread 1
    cosines = np.array([[2.0, 2.0], [2.5, 1.0], *bank_rows], np.float32)
    phrases = PhraseSet(torch.zeros(1, 8), ("en",), torch.zeros(1, 8), (0,))
    np.testing.assert_allclose(standing(cosines, phrases, bank, options), [[1.5, 2.0]], rtol=1e-6)


def test_a_language_without_a_line_takes_anothers_and_none_is_the_stock_one() -> None:
    logits = frame(1)
    only_english, slopes = log_odds(logits, PHRASES, BANK, {"en": Calibration(2.0, -1.0)})
    assert slopes.tolist() == [2.0] * 4
    options = GroundingOptions(stock_level=0.5, stock_slope=2.0)
    stock, _ = log_odds(logits, PHRASES, BANK, {}, options)
    np.testing.assert_allclose(stock, only_english, atol=1e-5)
