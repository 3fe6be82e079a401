"""Calibration of presence."""

from __future__ import annotations

import numpy as np
import pytest

from siglip_perception.evaluation.platt import platt

pytestmark = pytest.mark.numeric


def test_platt_finds_the_line_that_made_the_truth() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 40_000).astype(np.float32)
    truths = (rng.random(40_000) < 1 / (1 + np.exp(-(0.5 * logits + 1.5)))).astype(np.float32)
    factor, addend = platt(logits, truths)
    assert factor == pytest.approx(0.5, abs=0.03)
    assert addend == pytest.approx(1.5, abs=0.06)


def test_what_is_calibrated_already_stays() -> None:
    logits = np.repeat(np.array([-2.0, 0.0, 2.0], dtype=np.float32), 1000)
    shares = 1 / (1 + np.exp(-logits.reshape(3, 1000)[:, :1]))
    truths = (np.arange(1000) < shares * 1000).astype(np.float32).ravel()
    factor, addend = platt(logits, truths)
    assert factor == pytest.approx(1.0, abs=0.01)
    assert addend == pytest.approx(0.0, abs=0.01)


def test_truths_that_are_divided_without_an_error_stay_doubtful() -> None:
    # Of two present and two absent the targets are 3/4 and 1/4: logits of +-log(3) at +-1.
    logits = np.array([1.0, 1.0, -1.0, -1.0], np.float32)
    factor, addend = platt(logits, np.array([1.0, 1.0, 0.0, 0.0], np.float32))
    assert factor == pytest.approx(np.log(3), abs=1e-4)
    assert addend == pytest.approx(0.0, abs=1e-4)
