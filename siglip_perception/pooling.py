"""SigLIP's attention-pooling head over any region: the same weights, the keys of the region alone.

The head is a probe that attends to the last tokens (after the post layer norm) and then
`x + MLP(LN(x))`. Because the probe does not depend on the image, its attention scores are computed
once a frame, and every region is a masked softmax over them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead


@dataclass(frozen=True)
class HeadKeys:
    """What the head's probe sees of one batch of images.

    scores: float [B, heads, N], the probe's scaled dot products with the N tokens' keys.
    values: float [B, N, heads, dim / heads].
    """

    scores: Tensor
    values: Tensor


def head_keys(head: SiglipMultiheadAttentionPoolingHead, tokens: Tensor) -> HeadKeys:
    """Last tokens [B, N, dim] (after the post layer norm) -> the probe's scores and values."""
    attention = head.attention
    heads, width = attention.num_heads, attention.head_dim
    projection, bias = attention.in_proj_weight, attention.in_proj_bias
    w_query, w_key, w_value = projection.chunk(3)
    b_query, b_key, b_value = bias.chunk(3)
    query = functional.linear(head.probe[0, 0], w_query, b_query).view(heads, width)
    batch, count, _ = tokens.shape
    keys = functional.linear(tokens, w_key, b_key).view(batch, count, heads, width)
    values = functional.linear(tokens, w_value, b_value).view(batch, count, heads, width)
    scores = torch.einsum("bnhd,hd->bhn", keys, query) * width**-0.5
    return HeadKeys(scores, values)


def _finish(
    head: SiglipMultiheadAttentionPoolingHead, attended: Tensor, mlp: bool = True
) -> Tensor:
    pooled: Tensor = head.attention.out_proj(attended.flatten(-2))
    if not mlp:
        return pooled
    result: Tensor = pooled + head.mlp(head.layernorm(pooled))
    return result


def pool_regions(
    head: SiglipMultiheadAttentionPoolingHead,
    keys: HeadKeys,
    weights: Tensor,
    *,
    mlp: bool = True,
) -> Tensor:
    """Pool each region: [B, R, dim] of weights [B, R, N] in [0, 1] over the tokens.

    A weight of zero takes a token out, 1 everywhere is the head itself. A region without a
    token gives the pooled zero vector, never NaN. mlp: with the head's own MLP behind it.
    """
    scores = keys.scores - keys.scores.amax(dim=-1, keepdim=True)
    shares = weights.unsqueeze(2) * scores.exp().unsqueeze(1)  # [B, R, heads, N]
    shares = shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return _finish(head, torch.einsum("brhn,bnhd->brhd", shares, keys.values), mlp)


def pool_single(
    head: SiglipMultiheadAttentionPoolingHead, values: Tensor, *, mlp: bool = True
) -> Tensor:
    """Regions of one token each: values [..., heads, dim / heads] -> [..., dim]."""
    return _finish(head, values, mlp)
