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
