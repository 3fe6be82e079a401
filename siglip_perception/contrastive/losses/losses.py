"""Contrastive losses that read like their formulas, and their forms that scale.

- `info_nce_loss`: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive
  Coding", eq. 4: of one positive and N negatives, which belongs to the anchor?
- `clip_loss`: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
  Supervision", fig. 3: InfoNCE in both directions, with the rest of the batch as the negatives.
- `sigmoid_loss`: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (SigLIP), eq. 1:
  every pair is a yes-or-no question of its own, so any number of texts may be right for an image,
  none included, and any part of the N x N pairs can be looked at without the rest.

Embeddings are float [N, d] of unit length, row i of an image belonging to row i of the text.
`logit_scale` is t = exp(t'), already exponentiated: a float, or a tensor of one element that is
learned. Docs, with the gradients: docs/contrastive.md.

Losses that take a `group` run across its processes; None is this process alone. Each process gives
as many pairs as the others and gets the mean over its own pairs of their loss against the pairs of
all. The mean over processes is then the loss of one process that holds all pairs, and gradients
averaged over processes, as DistributedDataParallel does, are its gradients, those of the scale and
the bias included. So do not average the loss itself before `backward`, and let every process call
`backward` with the same weight on its loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from siglip_perception.contrastive.data.pairs import Answers, check_pairs, pair_loss
from siglip_perception.contrastive.losses import ring

Scalar = Tensor | float


def info_nce_loss(
    anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: Scalar
) -> Tensor:
    """-log( exp(a.p / T) / (exp(a.p / T) + sum_k exp(a.n_k / T)) ), mean over anchors.

    anchor, positive: float [..., d]; negatives: float [..., N, d], or [N, d] for all anchors; of
    unit length. temperature: T > 0, which divides; `logit_scale` of the other losses is 1 / T.
    """
    right = (anchor * positive).sum(dim=-1, keepdim=True)  # [..., 1]
    wrong = (negatives @ anchor.unsqueeze(-1)).squeeze(-1)  # [..., N]
    logits = torch.cat([right, wrong], dim=-1) / temperature
    return -logits.log_softmax(dim=-1)[..., 0].mean()


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Scalar, group: ProcessGroup | None = None
) -> Tensor:
    """CLIP's loss: cross-entropy of t x_i.y_j over the texts of an image and over the images of a
    text, the mean of both.

    Across processes every process gathers all embeddings, with gradient, and works out the rows of
    its own images and of its own texts: memory N / W x N. LossError: embeddings that do not pair.
    """
    rank, _ = ring.agree(image, text, group) if group is not None else (0, 1)
    check_pairs(image, text)
    right = torch.arange(len(image), device=image.device)
    if group is None:
        logits = logit_scale * image @ text.T
        by_image, by_text = logits, logits.T
    else:
        by_image = logit_scale * image @ ring.gather(text, group).T
        by_text = logit_scale * text @ ring.gather(image, group).T
        right = right + rank * len(image)
    return (
        functional.cross_entropy(by_image, right) + functional.cross_entropy(by_text, right)
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

    chunk_size: rows of the N x N pairs that are held at a time, in forward and backward: memory
    chunk_size x N and not N x N, values and gradients the same, and faster; differentiable once.
    None: the formula as it stands, in one piece. group: the texts go around from neighbor to
    neighbor, their gradients with them, and no process ever holds more than two processes' texts.
    LossError: embeddings that do not pair.
    """
    if chunk_size is not None or group is not None:
        return pair_loss(image, text, logit_scale, logit_bias, Answers(), chunk_size, group)
    check_pairs(image, text)
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
    """The same loss with the answers given: any number of positives a row, soft ones too.

    image: float [N, d]; text: float [M, d], both of unit length; target: [N, M] in [0, 1], bool or
    float, the probability that row i and text j belong together. Mean over rows of the sum over
    texts. Across processes the columns of `target` are the texts of all processes, by rank. Pass
    bool where answers are hard: it is the only N x M there is if `chunk_size` is given.
    """
    if chunk_size is not None or group is not None:
        answers = Answers(target)
        return pair_loss(image, text, logit_scale, logit_bias, answers, chunk_size, group)
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
