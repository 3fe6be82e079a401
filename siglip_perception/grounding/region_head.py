"""SigLIP's attention-pooling head over any region: the same weights, the keys of the region alone.

The head is a probe that attends to the last tokens (after the post layer norm) and then
`x + MLP(LN(x))`. Because the probe does not depend on the image, its attention scores are computed
once a frame, and every region is a masked softmax over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.encoders.onednn import lay_out
from siglip_perception.encoders.transformer import Linear, Norm, mlp_of

if TYPE_CHECKING:
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead


@dataclass(frozen=True)
class HeadKeys:
    """What the head's probe sees of one batch of images.

    scores: float [B, heads, N], the probe's scaled dot products with the N tokens' keys.
    tokens: float [B, N, dim]. weight, bias: of the values, [heads, dim / heads, dim] and
    [heads, dim / heads].
    """

    scores: Tensor
    tokens: Tensor
    weight: Tensor
    bias: Tensor

    @cached_property
    def values(self) -> Tensor:
        """Of each token, float [B, N, heads, dim / heads]."""
        heads, width, dim = self.weight.shape
        flat = functional.linear(self.tokens, self.weight.reshape(-1, dim), self.bias.flatten())
        return flat.view(*self.tokens.shape[:2], heads, width)


@dataclass(frozen=True)
class Probe:
    """What the head asks of every token: it depends on the weights alone.

    towards: [heads, dim], offset: [heads], the scores' projection of tokens. weight, bias: see
    HeadKeys.
    """

    towards: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor


def probe_of(head: SiglipMultiheadAttentionPoolingHead) -> Probe:
    """The probe's products with the keys as one projection of the tokens, as it is no token."""
    attention = head.attention
    heads, width = attention.num_heads, attention.head_dim
    w_query, w_key, w_value = attention.in_proj_weight.chunk(3)
    b_query, b_key, b_value = attention.in_proj_bias.chunk(3)
    query = functional.linear(head.probe[0, 0], w_query, b_query).view(heads, width) * width**-0.5
    dim = w_key.shape[1]
    return Probe(
        torch.einsum("hd,hdi->hi", query, w_key.view(heads, width, dim)),
        (query * b_key.view(heads, width)).sum(dim=-1),
        w_value.view(heads, width, dim),
        b_value.view(heads, width),
    )


def head_keys(head: SiglipMultiheadAttentionPoolingHead, tokens: Tensor) -> HeadKeys:
    """Last tokens [B, N, dim] (after the post layer norm) -> the probe's scores, and values."""
    return _keys(probe_of(head), tokens)


def _keys(probe: Probe, tokens: Tensor) -> HeadKeys:
    scores = functional.linear(tokens, probe.towards, probe.offset).transpose(1, 2)
    return HeadKeys(scores, tokens, probe.weight, probe.bias)


def _finish(
    head: SiglipMultiheadAttentionPoolingHead, attended: Tensor, mlp: bool = True
) -> Tensor:
    pooled: Tensor = head.attention.out_proj(attended)
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
    return _finish(head, _attend(keys, weights), mlp)


def _attend(keys: HeadKeys, weights: Tensor) -> Tensor:
    """What the probe takes from each region [B, R, N] of the values: [B, R, heads * width]."""
    scores = keys.scores - keys.scores.amax(dim=-1, keepdim=True)
    shares = weights.unsqueeze(2) * scores.exp().unsqueeze(1)  # [B, R, heads, N]
    total = shares.sum(dim=-1, keepdim=True)
    shares = shares / total.clamp_min(1e-12)
    # Tokens are summed before they become values: of regions there are fewer than of tokens.
    batch, regions, heads, count = shares.shape
    tokens = keys.tokens.to(keys.weight.dtype)
    summed = torch.bmm(shares.reshape(batch, regions * heads, count).to(tokens.dtype), tokens)
    summed = summed.view(batch, regions, heads, -1)
    attended = torch.einsum("brhi,hdi->brhd", summed, keys.weight) + keys.bias * (total > 0)
    return attended.flatten(-2)


def pool_single(
    head: SiglipMultiheadAttentionPoolingHead, values: Tensor, *, mlp: bool = True
) -> Tensor:
    """Regions of one token each: values [..., heads, dim / heads] -> [..., dim]."""
    return _finish(head, values.flatten(-2), mlp)


class RegionHead(nn.Module):
    """The head laid out for serving: products in `dtype`, packed as the encoders' are.

    Leaves the head that it is made of as it is. Raises CheckpointError where the activation of its
    MLP is not known.
    """

    def __init__(self, head: SiglipMultiheadAttentionPoolingHead, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.no_grad():
            probe = probe_of(head)
            # The scores stay float32: a softmax makes much of a small error.
            self._probe = Probe(
                probe.towards, probe.offset, probe.weight.to(dtype), probe.bias.to(dtype)
            )
            out = head.attention.out_proj
            self.out = Linear(out.weight.detach(), out.bias.detach())
            self.norm = Norm(head.layernorm)
            self.mlp = mlp_of(head.mlp, head.mlp.config, None)
        lay_out(self, head.probe.device, dtype)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Tokens float32 [N, dim] and regions [R, N], as in pool_regions -> float32 [R, dim]."""
        keys = _keys(self._probe, tokens.unsqueeze(0))
        pooled: Tensor = self.out(_attend(keys, weights.unsqueeze(0))[0]).float()
        more: Tensor = self.mlp(self.norm(pooled)).float()
        return pooled + more
