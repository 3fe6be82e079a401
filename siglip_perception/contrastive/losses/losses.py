"""Contrastive losses as in their papers' formulas, with chunked and distributed forms.

- `info_nce_loss`: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive
  Coding", eq. 4: tell the anchor's positive from N negatives.
- `clip_loss`: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
  Supervision", fig. 3: InfoNCE in both directions, with the rest of the batch as the negatives.
- `sigmoid_loss`: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (SigLIP), eq. 1:
  every pair is a binary classification of its own, so an image may match any number of texts, or
  none, and any part of the N x N pairs can be computed without the rest.

Embeddings are float [N, d] of unit length; row i of the images matches row i of the texts.
`logit_scale` is t = exp(t'), already exponentiated: a float or a learned one-element tensor.
docs/contrastive.md derives the gradients.

Losses with a `group` run across its processes; None means this process alone. Every process brings
the same number of pairs and gets the mean loss of its own pairs against the pairs of all. The mean
over processes is then the loss of a single process with all pairs, and averaging gradients over
processes, as DistributedDataParallel does, gives the gradients of that loss, those of scale and
bias included. So do not average the loss before `backward`, and call `backward` with the same
weight in every process.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from siglip_perception.contrastive.losses import ring
from siglip_perception.contrastive.losses.chunked_sigmoid import (
    PairTargets,
    check_shapes,
    chunked_sigmoid_loss,
)

Scalar = Tensor | float


def info_nce_loss(
    anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: Scalar
) -> Tensor:
    """InfoNCE: -log( exp(a.p / T) / (exp(a.p / T) + sum_k exp(a.n_k / T)) ), mean over anchors.

    anchor, positive: float [..., d]; negatives: float [..., N, d], or [N, d] shared by all
    anchors; all of unit length. temperature: T > 0; `logit_scale` of the other losses is 1 / T.
    """
    positive_logits = (anchor * positive).sum(dim=-1, keepdim=True)  # [..., 1]
    negative_logits = (negatives @ anchor.unsqueeze(-1)).squeeze(-1)  # [..., N]
    logits = torch.cat([positive_logits, negative_logits], dim=-1) / temperature
    return -logits.log_softmax(dim=-1)[..., 0].mean()


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Scalar, group: ProcessGroup | None = None
) -> Tensor:
    """CLIP's loss: mean of the cross-entropies of t x_i.y_j over texts and over images.

    With a group, every process gathers all embeddings, with gradient, and computes the rows of its
    own images and texts: memory N / W x N. Raises LossError if the shapes do not match.
    """
    rank, _ = ring.check_ranks_agree(image, text, group) if group is not None else (0, 1)
    check_shapes(image, text)
    labels = torch.arange(len(image), device=image.device)
    if group is None:
        logits = logit_scale * image @ text.T
        image_logits, text_logits = logits, logits.T
    else:
        image_logits = logit_scale * image @ ring.gather(text, group).T
        text_logits = logit_scale * text @ ring.gather(image, group).T
        labels = labels + rank * len(image)
    return (
        functional.cross_entropy(image_logits, labels)
        + functional.cross_entropy(text_logits, labels)
    ) / 2


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Scalar,
    logit_bias: Scalar,
    chunk_size: int | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """SigLIP's loss: -1/N sum_ij log sigmoid(z_ij (t x_i.y_j + b)), z_ij 1 if i = j, else -1.

    chunk_size: rows of logits to hold at a time, in forward and backward. Memory is chunk_size x N
    instead of N x N, values and gradients are the same, and it is faster; differentiable once.
    None evaluates the formula in one piece. group: texts and their gradients travel around a ring,
    so no process ever holds the texts of more than two. Raises LossError if shapes do not match.
    """
    if chunk_size is not None or group is not None:
        return chunked_sigmoid_loss(
            image, text, logit_scale, logit_bias, PairTargets(), chunk_size, group
        )
    check_shapes(image, text)
    logits = logit_scale * image @ text.T + logit_bias
    z = torch.full_like(logits, -1).fill_diagonal_(1)
    return -functional.logsigmoid(z * logits).sum() / len(image)


def sigmoid_target_loss(
    image: Tensor,
    text: Tensor,
    target: Tensor,
    logit_scale: Scalar,
    logit_bias: Scalar,
    chunk_size: int | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """SigLIP's loss with given targets: any number of positives per row, soft ones included.

    image: float [N, d]; text: float [M, d], both of unit length. target: [N, M] in [0, 1], bool or
    float, the probability that image i and text j match. Sum over texts, mean over images. With a
    group, the columns of `target` are the texts of all processes, by rank. Pass bool for hard
    targets: with a `chunk_size` they are the only N x M tensor.
    """
    if chunk_size is not None or group is not None:
        targets = PairTargets(target)
        return chunked_sigmoid_loss(
            image, text, logit_scale, logit_bias, targets, chunk_size, group
        )
    logits = image @ text.T * logit_scale + logit_bias
    total = functional.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), reduction="sum"
    )
    return total / len(image)


def affinity_loss(
    patches: Tensor, coverage: Tensor, logit_scale: Tensor, logit_bias: Tensor
) -> Tensor:
    """Sigmoid loss over pairs of patches, which match if they show the same thing.

    patches: float [B, N, d], of unit length. coverage: float [B, N, K] in [0, 1], the share of
    each patch covered by each thing, background included; zero for absent things. The target of a
    pair is the probability that random points of the two patches show the same thing,
    sum_k c_ik c_jk, so half-covered patches learn a half. Things weigh the same whatever their
    size.
    """
    logits = patches @ patches.transpose(1, 2) * logit_scale + logit_bias
    target = coverage @ coverage.transpose(1, 2)
    size = coverage.sum(dim=1, keepdim=True)
    weight = (coverage / size.clamp_min(1e-6)).sum(dim=-1)
    pair_weight = weight.unsqueeze(2) * weight.unsqueeze(1)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * pair_weight).sum() / pair_weight.sum()
