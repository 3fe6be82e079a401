"""Pictures and phrases that a model was trained on, and those outside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from siglip_perception.config import ModelSelection
from siglip_perception.errors import CheckpointError
from siglip_perception.grounding.training_domain import (
    TRAINING,
    TrainingDomain,
    measure_domain,
    read_domain,
    write_domain,
)
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline
from siglip_perception.scenes.scenes import render, sample_scene
from siglip_perception.types import Frame, UInt8Array

pytestmark = pytest.mark.numeric

KNOWN = torch.eye(4)[:2]


def domain() -> TrainingDomain:
    return TrainingDomain(torch.zeros(4), torch.eye(4), 0.1, 0.5, 0.2, KNOWN, 0.9)


def test_spread_and_offset_are_squared_distances_by_dimension() -> None:
    patches = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]])  # of unit length: axes
    # Their mean (.5, .5, 0, 0): offset 0.5 / 4; each is 0.5 away from it in two dimensions.
    actual = domain().distances(patches)
    torch.testing.assert_close(actual, torch.tensor([0.125, 0.125]))


@pytest.mark.parametrize(
    ("spread", "offset", "outside"),
    [(0.3, 0.1, False), (0.05, 0.1, True), (0.6, 0.1, True), (0.3, 0.3, True)],
)
def test_a_picture_is_outside_beyond_either_range(
    spread: float, offset: float, outside: bool
) -> None:
    assert domain().is_outside(torch.tensor([spread, offset])) is outside


def test_a_phrase_that_is_near_none_is_unfamiliar() -> None:
    phrases = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert domain().unfamiliar(phrases) == (1,)


def test_what_the_user_calibrated_on_is_inside_too() -> None:
    wider = domain().widened((0.05, 0.4, 0.3), torch.eye(4)[2:3])
    assert not wider.is_outside(torch.tensor([0.06, 0.25]))
    assert not wider.is_outside(torch.tensor([0.5, 0.1]))
    assert wider.is_outside(torch.tensor([0.04, 0.1]))
    assert wider.unfamiliar(torch.eye(4)) == (3,)


def test_it_is_measured_written_and_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn(50, 4, generator=generator) for _ in range(20)]
    measured = measure_domain(pictures[:10], pictures[10:], KNOWN, KNOWN)
    assert measured.phrase_least == pytest.approx(1.0)
    write_domain(tmp_path, measured)
    read = read_domain(tmp_path, 4)
    assert read is not None
    assert replace(read, mean=KNOWN, whitening=KNOWN, phrases=KNOWN) == replace(
        measured, mean=KNOWN, whitening=KNOWN, phrases=KNOWN
    )
    # The least and the greatest spread, and the greatest offset, are the twentieth.
    assert sum(measured.is_outside(measured.distances(p)) for p in pictures[10:]) in (2, 3)
    assert measured.is_outside(measured.distances(torch.ones(50, 4)))
    assert read_domain(tmp_path / "none", 4) is None
    with pytest.raises(CheckpointError, match="belongs to another model"):
        read_domain(tmp_path, 8)
    save_file({"mean": torch.zeros(4)}, tmp_path / TRAINING)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_domain(tmp_path, 4)


def plain_pictures() -> dict[str, UInt8Array]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 640, dtype=np.uint8)
    return {
        "noise": rng.integers(0, 256, (480, 640, 3), dtype=np.uint8),
        "gray": np.full((480, 640, 3), 128, np.uint8),
        "gradient": np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (480, 640, 3))),
        "black": np.zeros((480, 640, 3), np.uint8),
    }


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(ModelSelection(device="cpu", precision="fp32"))


def test_the_embedded_model_says_so_and_finds_nothing_in_plain_pictures(
    pipeline: Pipeline,
) -> None:
    phrases = ["cup", "red cup", "bowl", "plate", "book", "banana", "car", "black book"]
    query = pipeline.query(from_phrases(phrases))
    objects = 0
    for name, image in plain_pictures().items():
        grounding = pipeline.process(Frame(image), query, with_tokens=False).grounding
        assert grounding is not None
        assert grounding.outside_training, name
        assert not grounding.uncalibrated
        objects += len(grounding.objects)
    assert objects <= 0.05 * len(phrases) * len(plain_pictures())


def test_a_scene_is_inside_and_an_unknown_word_is_named(pipeline: Pipeline) -> None:
    scene = sample_scene(np.random.default_rng(5), 4)
    query = pipeline.query(from_phrases(["cup", "person", "the small red mug"]))
    grounding = pipeline.process(Frame(render(scene).image), query, with_tokens=False).grounding
    assert grounding is not None
    assert not grounding.outside_training
    assert grounding.unfamiliar == (1,)
    assert not [item for item in grounding.objects if item.phrase == "person"]
