"""The baselines, each on a case that is computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from siglip_perception.config import ModelSelection
from siglip_perception.encoders.plan import GroundingModel
from siglip_perception.evaluation.baselines import (
    Crops,
    Dense,
    SelfCorrelation,
    ValuePath,
    correlation_attention,
)
from siglip_perception.grounding.head_choice import agreement, crop_region
from siglip_perception.grounding.standing import PhraseSet
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import UInt8Array

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(ModelSelection(device="cpu", precision="fp32"))


@pytest.fixture
def model(pipeline: Pipeline) -> GroundingModel:
    assert pipeline.grounding_model is not None
    return pipeline.grounding_model


def test_attention_by_similarity_leaves_out_what_is_below_the_mean() -> None:
    # Mean 5/9; 3 (S - 1.2 x 5/9) is 1 for S = 1, below 0 for S = 0.5.
    similarity = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    actual = correlation_attention(similarity, 3.0, 1.2)
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(actual, expected)
    # Mean 0.5: the entries above it are 10 x 0.5 and 10 x 0.1.
    uneven = torch.tensor([[1.0, 0.6], [0.0, 0.4]])
    share = 1 / (1 + math.exp(-4.0))
    actual = correlation_attention(uneven, 10.0, 1.0)
    torch.testing.assert_close(actual[0], torch.tensor([share, 1 - share]))
    assert actual[1].tolist() == [0.0, 0.0]  # nothing is above the mean


def test_the_value_path_is_the_projection_of_a_patchs_own_value(model: GroundingModel) -> None:
    head = model.siglip.vision_model.head
    siglip = torch.randn(324, 192, generator=torch.Generator().manual_seed(0))
    # Weights of attention [3 d, d]: query, key, value.
    weight, bias = head.attention.in_proj_weight[384:], head.attention.in_proj_bias[384:]
    with torch.no_grad():
        by_hand = head.attention.out_proj(siglip[7] @ weight.T + bias)
    phrases = PhraseSet.plain(torch.nn.functional.normalize(by_hand, dim=-1)[None])
    scores = ValuePath(model)(siglip, torch.zeros(324, 192), phrases)
    assert np.unravel_index(scores.maps[0].argmax(), (18, 18)) == (0, 7)


def test_alike_patches_are_averaged_and_others_stay(model: GroundingModel) -> None:
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randn(2, 192, generator=generator)
    siglip = kinds[(torch.arange(324) >= 300).long()]
    phrases = PhraseSet.plain(torch.nn.functional.normalize(torch.randn(1, 192), dim=-1))
    # Of two kinds of equal patches an average is the patch itself, in each attention.
    plain = ValuePath(model)(siglip, siglip, phrases)
    for method in (SelfCorrelation(model), Dense(model, mlp=False, beta=1.0)):
        averaged = method(siglip, siglip, phrases)
        np.testing.assert_allclose(averaged.logits, plain.logits, atol=1e-2)


def test_a_crop_is_the_region_and_its_margin() -> None:
    image = np.arange(40 * 80 * 3, dtype=np.uint8).reshape(40, 80, 3)
    region = np.zeros((4, 4), bool)
    region[1:3, 2] = True  # rows 10 to 30, columns 40 to 60
    crop = crop_region(image, region, 0.0)
    np.testing.assert_array_equal(crop, image[10:31, 40:61])
    assert crop_region(image, region, 0.5).shape == (40, 41, 3)  # rows 0 to 40, columns 30 to 71


def test_crops_ask_the_whole_encoder(pipeline: Pipeline, model: GroundingModel) -> None:
    image = np.full((48, 64, 3), 90, np.uint8)
    image[10:30, 20:50] = (200, 30, 30)
    sizes: list[tuple[int, ...]] = []

    def encode(pictures: list[UInt8Array]) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.extend(picture.shape for picture in pictures)
        return pipeline.features(pictures)

    siglip, dino = pipeline.features([image])
    query = pipeline.query(from_phrases(["red block", "blue ball"]))
    scores = Crops(model, image, encode)(siglip[0], dino[0], query.encoded)
    assert len(sizes) == len(scores.maps) + 1
    assert sizes[-1] == image.shape
    own = pipeline.grounder.score(siglip[0], dino[0], query.encoded)
    # The whole picture is its own crop; only the regions' share of the frame's level differs.
    assert scores.image_logits.argmax() == own.image_logits.argmax()


def test_agreement_is_the_correlation_over_the_bank() -> None:
    bank = torch.eye(3)
    same = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert agreement(same, same, bank) == pytest.approx(1.0)
    assert agreement(same, same.flip(0), bank) == pytest.approx(-1.0)
