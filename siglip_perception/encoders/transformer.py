"""An encoder's arithmetic, laid out for speed: one module for PyTorch and for every export.

The same function as transformers' own model of it (a test and `siglip-perception parity` hold them
equal), with what depends on the weights alone done once, at load:

- query, key and value are one product; LayerScale is in the weights of what it scales;
- the patch embedding is a product too, and its bias is in the positions, which are interpolated;
- products are made in `dtype`; the residual stream, LayerNorm and positions stay float32;
- on a CPU, weights are packed for oneDNN, whose products do GELU on the way (packed.py);
- the sequence may be padded: attention over 261 tokens takes PyTorch's CPU kernel twice the time
  of 272 (DINOv2's 256 patches, CLS and four registers). What pads is masked and dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.contracts import EncoderSpec
from siglip_perception.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# GELU's two forms by transformers' names, and SiLU.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
}
# Rows of a tile of AMX, and a multiple of what tensor cores and vector units like.
PADDING = 16


class Linear(nn.Module):
    """x [..., in] -> act(x W^T + b) [..., out] in the weights' dtype.

    act: "" or one of gelu (by erf), gelu_tanh, silu.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.act = act

    def forward(self, wide: Tensor) -> Tensor:
        out = functional.linear(wide.to(self.weight.dtype), self.weight, self.bias)
        return activate(out, self.act)


def activate(values: Tensor, act: str) -> Tensor:
    """The activation of that name, see Linear."""
    if act == "silu":
        return functional.silu(values)
    if act:
        return functional.gelu(values, approximate="tanh" if act == "gelu_tanh" else "none")
    return values


class Norm(nn.Module):
    """LayerNorm over the last axis in float32."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().float(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().float(), requires_grad=False)
        self.eps = float(norm.eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.layer_norm(hidden, (hidden.shape[-1],), self.weight, self.bias, self.eps)


class Embed(nn.Module):
    """Pixels float32 [B, 3, S, S] -> residual stream float32 [B, T, D].

    T: the tokens before the patches, the patches, and what pads them.
    """

    def __init__(self, weight: Tensor, places: Tensor, before: Tensor, patch: int) -> None:
        """weight: [D, 3 * patch * patch]. places: [N, D], what is added to the patches. before:
        [P, D], the tokens before them."""
        super().__init__()
        self.project = Linear(weight, None)
        self.places = nn.Parameter(places, requires_grad=False)
        self.before = nn.Parameter(before, requires_grad=False)
        self.after = nn.Parameter(before.new_zeros(0, before.shape[1]), requires_grad=False)
        self._patch = patch
        self._grid = math.isqrt(len(places))

    def pad(self) -> int:
        """Lengthen the sequence to a multiple of PADDING; by how many tokens."""
        more = -(len(self.before) + len(self.places)) % PADDING
        self.after = nn.Parameter(
            self.places.new_zeros(more, self.places.shape[1]), requires_grad=False
        )
        return more

    def release(self) -> None:
        """Let the weights go."""
        self.project = Linear(self.places.new_zeros(0, 0), None)

    def forward(self, pixels: Tensor) -> Tensor:
        batch, patch, grid = pixels.shape[0], self._patch, self._grid
        seen = pixels[:, :, : grid * patch, : grid * patch]
        tiles = seen.reshape(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        patches = self.project(tiles.reshape(batch, grid * grid, -1)).float() + self.places
        parts = [patches]
        if len(self.before):
            parts.insert(0, self.before.expand(batch, -1, -1))
        if len(self.after):
            parts.append(self.after.expand(batch, -1, -1))
        return torch.cat(parts, dim=1) if len(parts) > 1 else patches


class Attention(nn.Module):
    """Self-attention; with `rotary`, cos and sin [N, d], patches' queries and keys are rotated."""

    cos: Tensor
    sin: Tensor

    def __init__(self, qkv: Linear, out: Linear, heads: int, prefix: int, rotary: Any) -> None:
        super().__init__()
        self.qkv, self.out = qkv, out
        self._heads, self._prefix = heads, prefix
        self._rotary = rotary is not None
        if rotary is not None:
            self.register_buffer("cos", rotary[0], persistent=False)
            self.register_buffer("sin", rotary[1], persistent=False)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.out(self.attend(self.qkv(hidden), mask))
        return out

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Queries, keys and values [B, T, 3 * D] -> the values that each token takes [B, T, D]."""
        batch, count, dim = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        split = qkv.view(batch, count, 3, self._heads, dim // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self._rotary:
            query, key = self._rotate(query), self._rotate(key)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return seen.transpose(1, 2).reshape(batch, count, dim)

    def _rotate(self, heads: Tensor) -> Tensor:
        """Rotary positions (Su et al. 2021) on patches alone, in float32."""
        start, stop = self._prefix, self._prefix + self.cos.shape[0]
        wide = heads[:, :, start:stop].float()
        half = wide.shape[-1] // 2
        turned = torch.cat([-wide[..., half:], wide[..., :half]], dim=-1)
        rotated = (wide * self.cos + turned * self.sin).to(heads.dtype)
        return torch.cat([heads[:, :, :start], rotated, heads[:, :, stop:]], dim=2)


class Mlp(nn.Module):
    """down(act(up x)), or with a gate down(act(gate x) * up x)."""

    def __init__(self, up: Linear, down: Linear, gate: Linear | None = None) -> None:
        super().__init__()
        self.up, self.down, self.gate = up, down, gate

    def forward(self, hidden: Tensor) -> Tensor:
        wide = self.up(hidden)
        if self.gate is not None:
            wide = self.gate(hidden) * wide
        out: Tensor = self.down(wide)
        return out


class Block(nn.Module):
    """One pre-norm transformer block over the residual stream float32 [B, T, D]."""

    def __init__(self, norm1: Norm, attention: Attention, norm2: Norm, mlp: Mlp) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        attended: Tensor = self.attention(self.norm1(hidden), mask)
        hidden = hidden + attended.float()
        changed: Tensor = self.mlp(self.norm2(hidden))
        return hidden + changed.float()


def from_transformers(
    model: PreTrainedModel, spec: EncoderSpec
) -> tuple[Embed, list[Block], Norm]:
    """Embedding, blocks and final norm of an encoder, float32; the model's own are used up.

    Raises CheckpointError where the model computes something else than these do.
    """
    parts: Any = model
    if spec.name == "siglip":
        layers, norm = parts.encoder.layers, parts.post_layernorm
    elif spec.name == "dinov2":
        layers, norm = parts.encoder.layer, parts.layernorm
    else:
        layers, norm = parts.model.layer, parts.norm
    rotary = None
    with torch.inference_mode():
        if spec.name == "dinov3":
            rotary = parts.rope_embeddings(torch.zeros(1, 3, spec.image_size, spec.image_size))
    with torch.no_grad():
        embed = _embed(parts.embeddings, spec)
        parts.embeddings = nn.Identity()
        blocks = []
        for index, layer in enumerate(layers):
            blocks.append(_block(layer, parts.config, spec, rotary))
            layers[index] = nn.Identity()  # a whole second copy would not fit beside a policy
    return embed, blocks, Norm(norm)


def _embed(embed: Any, spec: EncoderSpec) -> Embed:
    if spec.name == "siglip":
        conv, places = embed.patch_embedding, embed.position_embedding.weight
        before = places.new_zeros(0, spec.dim)
    elif spec.name == "dinov3":
        conv = embed.patch_embeddings
        places = conv.weight.new_zeros(spec.grid**2, spec.dim)
        before = torch.cat([embed.cls_token[0], embed.register_tokens[0]])
    else:
        conv = embed.patch_embeddings.projection
        # By its own rule, which differs: with registers there is an antialias, without none.
        placed = embed.interpolate_pos_encoding(
            torch.empty(1, spec.grid**2 + 1, spec.dim), spec.image_size, spec.image_size
        )[0]
        before, places = embed.cls_token[0] + placed[:1], placed[1:]
        if spec.registers:
            before = torch.cat([before, embed.register_tokens[0]])
    bias = 0.0 if conv.bias is None else conv.bias
    return Embed(
        conv.weight.flatten(1).clone(), (places + bias).clone(), before.clone(), spec.patch
    )


def _block(layer: Any, config: Any, spec: EncoderSpec, rotary: Any) -> Block:
    siglip = spec.name == "siglip"
    own = layer.self_attn if siglip else layer.attention
    projections = [own.q_proj, own.k_proj, own.v_proj]
    weight = torch.cat([one.weight for one in projections])
    zeros = weight.new_zeros(own.q_proj.out_features)
    biases = [zeros if one.bias is None else one.bias for one in projections]
    first = getattr(layer, "layer_scale1", None)
    second = getattr(layer, "layer_scale2", None)
    attention = Attention(
        Linear(weight, torch.cat(biases)),
        _scaled(own.out_proj if siglip else own.o_proj, first),
        int(config.num_attention_heads),
        spec.prefix,
        rotary,
    )
    norm1, norm2 = (layer.layer_norm1, layer.layer_norm2) if siglip else (layer.norm1, layer.norm2)
    return Block(Norm(norm1), attention, Norm(norm2), mlp_of(layer.mlp, config, second))


def mlp_of(mlp: Any, config: Any, scale: Any) -> Mlp:
    """An MLP of transformers' models; scale: the LayerScale after it, or None.

    Raises CheckpointError where its activation is not known.
    """
    gated = hasattr(mlp, "gate_proj")
    # DINOv2's own gate is SiLU, whatever its configuration calls its activation.
    swiglu = gated and bool(getattr(config, "use_swiglu_ffn", False))
    act = _ACTIVATIONS.get("silu" if swiglu else str(config.hidden_act))
    if act is None:
        raise CheckpointError(
            f"The activation {config.hidden_act!r} is not known: the hidden_act of config.json has"
            f" to be one of {', '.join(_ACTIVATIONS)}."
        )
    if hasattr(mlp, "fc1"):
        return Mlp(Linear(mlp.fc1.weight, mlp.fc1.bias, act), _scaled(mlp.fc2, scale))
    if gated:
        gate = Linear(mlp.gate_proj.weight, mlp.gate_proj.bias, act)
        up = Linear(mlp.up_proj.weight, mlp.up_proj.bias)
        return Mlp(up, _scaled(mlp.down_proj, scale), gate)
    up = Linear(mlp.up_proj.weight, mlp.up_proj.bias, act)
    return Mlp(up, _scaled(mlp.down_proj, scale))


def _scaled(linear: Any, scale: Any) -> Linear:
    """A product with the LayerScale after it, if there is one, in its weights."""
    weight, bias = linear.weight, linear.bias
    if scale is not None:
        by = scale.lambda1
        weight, bias = weight * by[:, None], None if bias is None else bias * by
    return Linear(weight, bias)
