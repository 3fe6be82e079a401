"""Contrastive losses that read like their formulas.

SigLIP (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", eq. 1): every pair of an
image and a text is a yes-or-no question of its own, so any number of texts may be right for an
image, none included.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sigmoid_loss(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """SigLIP's loss over a batch of pairs: -1/N sum_ij log sigmoid(z_ij (t x_i.y_j + b)).

    image, text: float [N, d], of unit length, row i of one belonging to row i of the other.
    logit_scale: t, already exponentiated. z_ij is 1 on the diagonal and -1 elsewhere.
    """
    return sigmoid_target_loss(
        image, text, torch.eye(len(image), device=image.device), logit_scale, logit_bias
    )


def sigmoid_target_loss(
    image: Tensor, text: Tensor, target: Tensor, logit_scale: Tensor, logit_bias: Tensor
) -> Tensor:
    """The same loss with the answers given: any number of positives a row, soft ones too.

    image: float [N, d]; text: float [M, d], both of unit length; target: float [N, M] in [0, 1],
    the probability that row i and text j belong together. Mean over rows of the sum over texts.
    """
    logits = image @ text.T * logit_scale + logit_bias
    total = functional.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), reduction="sum"
    )
    return total / len(image)


def affinity_loss(
    patches: Tensor, coverage: Tensor, logit_scale: Tensor, logit_bias: Tensor
) -> Tensor:
    """Sigmoid loss over pairs of patches: do these two show the same thing?

    patches: float [B, N, d], of unit length. coverage: float [B, N, K] in [0, 1], the share of
    each patch that each thing covers, background included, zero for a thing that is not there.
    The answer to a pair is the probability that two points drawn from the two patches show the
    same thing, sum_k c_ik c_jk, so half-covered patches learn a half. Things weigh alike however
    large they are.
    """
    logits = patches @ patches.transpose(1, 2) * logit_scale + logit_bias
    target = coverage @ coverage.transpose(1, 2)
    size = coverage.sum(dim=1, keepdim=True)
    weight = (coverage / size.clamp_min(1e-6)).sum(dim=-1)
    pair_weight = weight.unsqueeze(2) * weight.unsqueeze(1)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * pair_weight).sum() / pair_weight.sum()
