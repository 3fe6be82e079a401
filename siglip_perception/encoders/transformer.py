"""An encoder's arithmetic, laid out for speed: one module for PyTorch and for every export.

It computes what transformers' own model computes (a test and `siglip-perception parity` check
that). What depends on the weights alone is done once, at load:

- query, key and value are one product; LayerScale is folded into the weights that it scales;
- the patch embedding is a product too, its bias is folded into the interpolated positions;
- products run in `dtype`; the residual stream, LayerNorm and positions stay float32;
- on a CPU, weights are packed for oneDNN, which fuses GELU into the product (onednn.py);
- the sequence may be padded: PyTorch's CPU kernel takes twice as long to attend over 261 tokens as
  over 272 (DINOv2's 256 patches, CLS and four registers). Padding is masked and dropped.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.checkpoints.networks import (
    Dinov2,
    Dinov3,
    SiglipVision,
    VisionNetwork,
)
from siglip_perception.contracts import EncoderSpec

# Names of Linear's activations by transformers' names.
_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
# Rows of an AMX tile, and a multiple of what tensor cores and vector units prefer.
PADDING = 16
# Grids whose positions are kept: a camera has one.
_MAX_GRIDS = 16


class Linear(nn.Module):
    """x [..., in] -> act(x W^T + b) [..., out], in the weights' dtype.

    act: "", gelu (by erf), gelu_tanh or silu.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.act = act

    def forward(self, values: Tensor) -> Tensor:
        out = functional.linear(values.to(self.weight.dtype), self.weight, self.bias)
        return activate(out, self.act)


def activate(values: Tensor, act: str) -> Tensor:
    """Apply the activation of that name; see Linear."""
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

    T: prefix tokens, patches and padding, in this order.
    """

    def __init__(
        self,
        weight: Tensor,
        pos_embed: Tensor,
        prefix_tokens: Tensor,
        patch: int,
        free: bool = False,
    ) -> None:
        """Take the weights of one encoder.

        weight: [D, 3 * patch * patch]. pos_embed: [N, D], added to the patches.
        prefix_tokens: [P, D], put before the patches (CLS and registers).
        free: the pixels are of any size, and the positions resampled to their grid.
        """
        super().__init__()
        self.project = Linear(weight, None)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=False)
        self.prefix_tokens = nn.Parameter(prefix_tokens, requires_grad=False)
        self.pad_tokens = nn.Parameter(
            prefix_tokens.new_zeros(0, prefix_tokens.shape[1]), requires_grad=False
        )
        self._patch = patch
        self._grid = math.isqrt(len(pos_embed))
        self._free = free
        self._resampled: dict[tuple[int, int], Tensor] = {}

    def pad(self) -> int:
        """Pad the sequence to a multiple of PADDING; returns the number of tokens added."""
        pad_count = -(len(self.prefix_tokens) + len(self.pos_embed)) % PADDING
        self.pad_tokens = nn.Parameter(
            self.pos_embed.new_zeros(pad_count, self.pos_embed.shape[1]), requires_grad=False
        )
        return pad_count

    def at_grid(self, rows: int, cols: int) -> Tensor:
        """Resample the positions to another grid, as SigLIP 2 NaFlex does: [rows * cols, D].

        Bilinear and antialiased; the patches' bias, which is in them, is the same everywhere.
        """
        key = rows, cols
        if key not in self._resampled:
            square = self.pos_embed.view(1, self._grid, self._grid, -1).permute(0, 3, 1, 2)
            fine = functional.interpolate(
                square, size=key, mode="bilinear", align_corners=False, antialias=True
            )
            if len(self._resampled) >= _MAX_GRIDS:
                self._resampled.clear()
            self._resampled[key] = fine[0].flatten(1).T.contiguous()
        return self._resampled[key]

    def release(self) -> None:
        """Free the weights."""
        self.project = Linear(self.pos_embed.new_zeros(0, 0), None)

    def forward(self, pixels: Tensor) -> Tensor:
        batch, patch = pixels.shape[0], self._patch
        rows, cols = self._grid, self._grid
        positions: Tensor = self.pos_embed
        if self._free:
            rows, cols = pixels.shape[2] // patch, pixels.shape[3] // patch
            positions = self.at_grid(rows, cols)
        cropped = pixels[:, :, : rows * patch, : cols * patch]
        tiles = cropped.reshape(batch, 3, rows, patch, cols, patch).permute(0, 2, 4, 1, 3, 5)
        patches = self.project(tiles.reshape(batch, rows * cols, -1)).float() + positions
        parts = [patches]
        if len(self.prefix_tokens):
            parts.insert(0, self.prefix_tokens.expand(batch, -1, -1))
        if len(self.pad_tokens):
            parts.append(self.pad_tokens.expand(batch, -1, -1))
        return torch.cat(parts, dim=1) if len(parts) > 1 else patches


class Attention(nn.Module):
    """Self-attention; `rotary`, cos and sin [N, d], rotates the queries and keys of patches."""

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
        """Attend: queries, keys and values [B, T, 3 * D] -> [B, T, D]."""
        batch, count, dim = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        split = qkv.view(batch, count, 3, self._heads, dim // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self._rotary:
            query, key = self._rotate(query), self._rotate(key)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).reshape(batch, count, dim)

    def _rotate(self, heads: Tensor) -> Tensor:
        """Apply rotary positions (Su et al. 2021) to patches only, in float32."""
        start, stop = self._prefix, self._prefix + self.cos.shape[0]
        patches = heads[:, :, start:stop].float()
        half = patches.shape[-1] // 2
        turned_halves = torch.cat([-patches[..., half:], patches[..., :half]], dim=-1)
        rotated = (patches * self.cos + turned_halves * self.sin).to(heads.dtype)
        return torch.cat([heads[:, :, :start], rotated, heads[:, :, stop:]], dim=2)


class Mlp(nn.Module):
    """down(act(up x)), or with a gate down(act(gate x) * up x)."""

    def __init__(self, up: Linear, down: Linear, gate: Linear | None = None) -> None:
        super().__init__()
        self.up, self.down, self.gate = up, down, gate

    def forward(self, hidden: Tensor) -> Tensor:
        expanded = self.up(hidden)
        if self.gate is not None:
            expanded = self.gate(hidden) * expanded
        out: Tensor = self.down(expanded)
        return out


class Block(nn.Module):
    """One pre-norm transformer block over the residual stream float32 [B, T, D]."""

    def __init__(self, norm1: Norm, attention: Attention, norm2: Norm, mlp: Mlp) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        attended: Tensor = self.attention(self.norm1(hidden), mask)
        hidden = hidden + attended.float()
        delta: Tensor = self.mlp(self.norm2(hidden))
        return hidden + delta.float()


def convert(
    network: VisionNetwork, spec: EncoderSpec, free: bool = False
) -> tuple[Embed, list[Block], Norm]:
    """Convert an encoder: its embedding, blocks and final norm, float32. Consumes the network.

    free: see Embed.
    """
    if isinstance(network, SiglipVision):
        layers, norm = network.encoder.layers, network.post_layernorm
    elif isinstance(network, Dinov2):
        layers, norm = network.encoder.layer, network.layernorm
    else:
        layers, norm = network.model.layer, network.norm
    rotary = rotary_positions(network.config, spec.grid) if isinstance(network, Dinov3) else None
    with torch.no_grad():
        embed = _embed(network, spec, free)
        network.embeddings = nn.Identity()  # type: ignore[assignment]
        blocks = []
        for index, layer in enumerate(layers):
            blocks.append(_block(layer, network.config, spec, rotary))
            layers[index] = nn.Identity()  # frees it: a second copy may not fit beside a policy
    return embed, blocks, Norm(norm)


def rotary_positions(config: Any, grid: int) -> tuple[Tensor, Tensor]:
    """Compute DINOv3's cos and sin, float32 [grid * grid, d], of patches' centers in [-1, 1]."""
    head_dim = config.hidden_size // config.num_attention_heads
    steps = torch.arange(0, 1, 4 / head_dim, dtype=torch.float32)
    frequencies = 1 / config.rope_theta**steps
    centers = 2.0 * (torch.arange(0.5, grid, dtype=torch.float32) / grid) - 1.0
    places = torch.stack(torch.meshgrid(centers, centers, indexing="ij"), dim=-1).flatten(0, 1)
    angles = 2 * math.pi * places[:, :, None] * frequencies
    angles = angles.flatten(1, 2).tile(2)
    return torch.cos(angles), torch.sin(angles)


def _embed(network: VisionNetwork, spec: EncoderSpec, free: bool) -> Embed:
    if isinstance(network, SiglipVision):
        conv = network.embeddings.patch_embedding
        pos_embed = network.embeddings.position_embedding.weight.detach()
        prefix_tokens = pos_embed.new_zeros(0, spec.dim)
    elif isinstance(network, Dinov3):
        conv = network.embeddings.patch_embeddings
        # The positions are rotary: attention applies them.
        pos_embed = conv.weight.new_zeros(spec.grid**2, spec.dim)
        prefix_tokens = torch.cat(
            [network.embeddings.cls_token[0], network.embeddings.register_tokens[0]]
        )
    else:
        conv = network.embeddings.patch_embeddings.projection
        positions = _dinov2_positions(network, spec)
        prefix_tokens = network.embeddings.cls_token[0] + positions[:1]
        pos_embed = positions[1:]
        if spec.registers:
            prefix_tokens = torch.cat([prefix_tokens, network.embeddings.register_tokens[0]])
    bias = 0.0 if conv.bias is None else conv.bias
    return Embed(
        conv.weight.flatten(1).clone(),
        (pos_embed + bias).clone(),
        prefix_tokens.clone(),
        spec.patch,
        free,
    )


def _dinov2_positions(network: Dinov2, spec: EncoderSpec) -> Tensor:
    """Resample the positions of CLS and patches to the grid: [1 + grid * grid, D].

    As transformers does, on whose resampling DINOv2's tokens depend: bicubic, and antialiased in
    the models with registers alone.
    """
    positions = network.embeddings.position_embeddings[0]
    side = math.isqrt(len(positions) - 1)
    if side == spec.grid:
        return positions
    patches = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = functional.interpolate(
        patches,
        size=(spec.grid, spec.grid),
        mode="bicubic",
        align_corners=False,
        antialias=network.config.model_type == "dinov2_with_registers",
    )
    return torch.cat([positions[:1], patches[0].permute(1, 2, 0).flatten(0, 1)])


def _block(layer: Any, config: Any, spec: EncoderSpec, rotary: Any) -> Block:
    siglip = spec.name == "siglip"
    source = layer.self_attn if siglip else layer.attention
    projections = [source.q_proj, source.k_proj, source.v_proj]
    weight = torch.cat([projection.weight for projection in projections])
    zeros = weight.new_zeros(source.q_proj.out_features)
    biases = [zeros if projection.bias is None else projection.bias for projection in projections]
    attention_scale = getattr(layer, "layer_scale1", None)
    mlp_scale = getattr(layer, "layer_scale2", None)
    attention = Attention(
        Linear(weight, torch.cat(biases)),
        _fold_layer_scale(source.out_proj if siglip else source.o_proj, attention_scale),
        int(config.num_attention_heads),
        spec.prefix,
        rotary,
    )
    norm1, norm2 = (layer.layer_norm1, layer.layer_norm2) if siglip else (layer.norm1, layer.norm2)
    return Block(Norm(norm1), attention, Norm(norm2), convert_mlp(layer.mlp, config, mlp_scale))


def convert_mlp(mlp: Any, config: Any, scale: Any) -> Mlp:
    """Convert an MLP of a network; scale: the LayerScale after it, or None."""
    gated = hasattr(mlp, "gate_proj")
    # DINOv2's gate is SiLU, whatever its configuration says its activation is.
    swiglu = gated and bool(getattr(config, "use_swiglu_ffn", False))
    act = _ACTIVATIONS["silu" if swiglu else config.hidden_act]
    if hasattr(mlp, "fc1"):
        return Mlp(Linear(mlp.fc1.weight, mlp.fc1.bias, act), _fold_layer_scale(mlp.fc2, scale))
    if gated:
        gate = Linear(mlp.gate_proj.weight, mlp.gate_proj.bias, act)
        up = Linear(mlp.up_proj.weight, mlp.up_proj.bias)
        return Mlp(up, _fold_layer_scale(mlp.down_proj, scale), gate)
    up = Linear(mlp.up_proj.weight, mlp.up_proj.bias, act)
    return Mlp(up, _fold_layer_scale(mlp.down_proj, scale))


def _fold_layer_scale(linear: Any, scale: Any) -> Linear:
    """Fold the LayerScale after a product, if any, into its weights."""
    weight, bias = linear.weight, linear.bias
    if scale is not None:
        factors = scale.lambda1
        weight, bias = weight * factors[:, None], None if bias is None else bias * factors
    return Linear(weight, bias)
