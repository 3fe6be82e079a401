"""SigLIP's attention-pooling head over any region: the same weights, that region's keys alone.

The head is a probe that attends to the last tokens (after the post layer norm), then `x +
MLP(LN(x))`. The probe does not depend on the image, so its attention scores are computed once a
frame, and pooling a region is a masked softmax over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.encoders.onednn import lay_out
from siglip_perception.encoders.transformer import Linear, Norm, convert_mlp

if TYPE_CHECKING:
    from siglip_perception.checkpoints.networks import PoolingHead


@dataclass(frozen=True)
class HeadKeys:
    """Scores and tokens of one batch of images, as the head's probe sees them.

    scores: float [B, heads, N], the probe's scaled dot products with the keys of the N tokens.
    tokens: float [B, N, dim].
    weight, bias: the value projection, [heads, dim / heads, dim] and [heads, dim / heads].
    """

    scores: Tensor
    tokens: Tensor
    weight: Tensor
    bias: Tensor

    @cached_property
    def values(self) -> Tensor:
        """The tokens' values, float [B, N, heads, dim / heads]."""
        heads, width, dim = self.weight.shape
        flat = functional.linear(self.tokens, self.weight.reshape(-1, dim), self.bias.flatten())
        return flat.view(*self.tokens.shape[:2], heads, width)


@dataclass(frozen=True)
class PoolingProbe:
    """The head's query folded into its key projection: it depends on the weights alone.

    key_projection: [heads, dim], offset: [heads]; together they map tokens to scores.
    weight, bias: see HeadKeys.
    """

    key_projection: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor


def pooling_probe(head: PoolingHead) -> PoolingProbe:
    """Fold the probe's dot products with the keys into one projection of the tokens."""
    attention = head.attention
    heads, width = attention.num_heads, attention.head_dim
    w_query, w_key, w_value = attention.in_proj_weight.chunk(3)
    b_query, b_key, b_value = attention.in_proj_bias.chunk(3)
    query = functional.linear(head.probe[0, 0], w_query, b_query).view(heads, width) * width**-0.5
    dim = w_key.shape[1]
    return PoolingProbe(
        torch.einsum("hd,hdi->hi", query, w_key.view(heads, width, dim)),
        (query * b_key.view(heads, width)).sum(dim=-1),
        w_value.view(heads, width, dim),
        b_value.view(heads, width),
    )


def head_keys(head: PoolingHead, tokens: Tensor) -> HeadKeys:
    """Compute the probe's scores of the last tokens [B, N, dim] (after the post layer norm)."""
    return _keys(pooling_probe(head), tokens)


def _keys(probe: PoolingProbe, tokens: Tensor) -> HeadKeys:
    scores = functional.linear(tokens, probe.key_projection, probe.offset).transpose(1, 2)
    return HeadKeys(scores, tokens, probe.weight, probe.bias)


def _finish(head: PoolingHead, attended: Tensor, mlp: bool = True) -> Tensor:
    pooled: Tensor = head.attention.out_proj(attended)
    if not mlp:
        return pooled
    result: Tensor = pooled + head.mlp(head.layernorm(pooled))
    return result


def pool_regions(
    head: PoolingHead,
    keys: HeadKeys,
    weights: Tensor,
    *,
    mlp: bool = True,
) -> Tensor:
    """Pool each region: weights [B, R, N] in [0, 1] over the tokens -> [B, R, dim].

    A weight of 0 leaves a token out; weights of 1 everywhere are the head itself. A region without
    a token gives the pooled zero vector, never NaN. mlp: run the head's own MLP too.
    """
    return _finish(head, _attend(keys, weights), mlp)


def _attend(keys: HeadKeys, weights: Tensor) -> Tensor:
    """Attend to the values of each region [B, R, N]: [B, R, heads * width]."""
    scores = keys.scores - keys.scores.amax(dim=-1, keepdim=True)
    shares = weights.unsqueeze(2) * scores.exp().unsqueeze(1)  # [B, R, heads, N]
    total = shares.sum(dim=-1, keepdim=True)
    shares = shares / total.clamp_min(1e-12)
    # Sum tokens first and project the sums to values: there are fewer regions than tokens.
    batch, regions, heads, count = shares.shape
    tokens = keys.tokens.to(keys.weight.dtype)
    summed = torch.bmm(shares.reshape(batch, regions * heads, count).to(tokens.dtype), tokens)
    summed = summed.view(batch, regions, heads, -1)
    attended = torch.einsum("brhi,hdi->brhd", summed, keys.weight) + keys.bias * (total > 0)
    return attended.flatten(-2)


def pool_single(head: PoolingHead, values: Tensor, *, mlp: bool = True) -> Tensor:
    """Pool regions of a single token: values [..., heads, dim / heads] -> [..., dim]."""
    return _finish(head, values.flatten(-2), mlp)


class RegionHead(nn.Module):
    """The head laid out for serving: products in `dtype`, packed as the encoders' are.

    with_mlp: run the head's own MLP over regions, too; may be changed. width: of its vectors.

    The head that it is made from stays unchanged.
    """

    def __init__(self, head: PoolingHead, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.no_grad():
            probe = pooling_probe(head)
            # Scores stay float32: the softmax amplifies small errors.
            self._probe = PoolingProbe(
                probe.key_projection, probe.offset, probe.weight.to(dtype), probe.bias.to(dtype)
            )
            out = head.attention.out_proj
            self.out = Linear(out.weight.detach(), out.bias.detach())
            self.norm = Norm(head.layernorm)
            self.mlp = convert_mlp(head.mlp, head.mlp.config, None)
        self.with_mlp = True
        self.width = int(head.probe.shape[-1])
        lay_out(self, head.probe.device, dtype)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Pool regions [R, N] of tokens float32 [N, dim], as pool_regions: float32 [R, dim]."""
        keys = _keys(self._probe, tokens.unsqueeze(0))
        return self._output(_attend(keys, weights.unsqueeze(0))[0], self.with_mlp)

    def whole_images(self, tokens: Tensor) -> Tensor:
        """Pool the whole of each image, as SigLIP itself does: [B, N, dim] -> float32 [B, dim]."""
        everywhere = tokens.new_ones(len(tokens), 1, tokens.shape[1])
        return self._output(_attend(_keys(self._probe, tokens), everywhere)[:, 0], True)

    def pool_each(self, tokens: Tensor) -> Tensor:
        """Pool each token alone: float32 [N, dim] -> [N, dim], as forward() of N single tokens."""
        weight, bias = self._probe.weight, self._probe.bias
        # Attention to a single token is its value.
        flat_weight = weight.reshape(-1, weight.shape[-1])
        values = functional.linear(tokens.to(weight.dtype), flat_weight, bias.flatten())
        return self._output(values, self.with_mlp)

    def _output(self, attended: Tensor, with_mlp: bool) -> Tensor:
        pooled: Tensor = self.out(attended).float()
        if not with_mlp:
            return pooled
        residual: Tensor = self.mlp(self.norm(pooled)).float()
        return pooled + residual
