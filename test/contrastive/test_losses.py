"""The losses against their formulas, on small cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from siglip_perception.contrastive.losses.losses import (
    affinity_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)

pytestmark = pytest.mark.numeric

SCALE, BIAS = torch.tensor(10.0), torch.tensor(-10.0)


def test_sigmoid_loss_of_two_orthogonal_pairs() -> None:
    eye = torch.eye(2)
    # Diagonal: z = +1, logit 10 * 1 - 10 = 0. Off it: z = -1, logit -10.
    expected = (2 * math.log(2) + 2 * math.log1p(math.exp(-10))) / 2
    assert sigmoid_loss(eye, eye, SCALE, BIAS).item() == pytest.approx(expected, rel=1e-6)


def test_sigmoid_loss_equals_the_formula_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (
        functional.normalize(torch.randn(5, 7, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(2)
    )
    image.requires_grad_()
    scale, bias = SCALE.double(), BIAS.double()
    signs = 2 * torch.eye(5, dtype=torch.float64) - 1
    expected = -functional.logsigmoid(signs * (scale * image @ text.T + bias)).sum() / 5
    loss = sigmoid_loss(image, text, scale, bias)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, image)[0], torch.autograd.grad(expected, image)[0]
    )


def test_a_row_may_have_several_right_texts_or_none() -> None:
    image, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    two_right = sigmoid_target_loss(image, text, torch.tensor([[1.0, 1.0, 0.0]]), SCALE, BIAS)
    none_right = sigmoid_target_loss(image, text, torch.zeros(1, 3), SCALE, BIAS)
    assert two_right.item() == pytest.approx(2 * math.log(2) + math.log1p(math.exp(-10)), rel=1e-5)
    assert none_right.item() == pytest.approx(
        2 * math.log(2) + math.log1p(math.exp(-10)), rel=1e-5
    )
    surer = sigmoid_target_loss(image, text, torch.tensor([[1.0, 1.0, 0.0]]), SCALE, BIAS + 5)
    assert surer < two_right


def test_affinity_loss_is_least_where_features_follow_the_things() -> None:
    coverage = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    positive = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    negative = positive[:, [0, 2, 1, 3]]
    scale, bias = torch.tensor(20.0), torch.tensor(0.0)
    assert affinity_loss(positive, coverage, scale, bias).item() < 1e-6
    assert affinity_loss(negative, coverage, scale, bias).item() > 5


def test_affinity_loss_weighs_a_small_thing_like_a_large_one() -> None:
    """Three patches of a large thing, one of a small one: each pair of things weighs the same."""
    coverage = torch.tensor([[[1.0, 0.0]] * 3 + [[0.0, 1.0]]])
    duplicate = torch.tensor([[[1.0, 0.0]] * 4])
    scale, bias = torch.tensor(1.0), torch.tensor(0.0)
    yes, no = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert affinity_loss(duplicate, coverage, scale, bias).item() == pytest.approx((yes + no) / 2)
