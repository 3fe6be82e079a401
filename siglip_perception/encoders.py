"""The encoders over a batch: a single pass, every tap that is asked for, no block more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AttentionInterface,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from siglip_perception.contracts import Contract, EncoderSpec
from siglip_perception.preprocess import EncoderInput

_ROTARY_ATTENTION = "siglip_perception_sdpa"


def _rotary_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
) -> Any:
    """sdpa after a rotation in float32, whose queries and keys are wider than narrow values."""
    narrow = value.dtype
    return sdpa_attention_forward(module, query.to(narrow), key.to(narrow), value, *rest, **more)


AttentionInterface.register(_ROTARY_ATTENTION, _rotary_sdpa)


@dataclass(frozen=True)
class Features:
    """What a batch of B images gave. N: patches of a grid, row-major from the top left.

    tokens: float32 [B, N, dim], fused in the contract's order; None unless asked for.
    siglip: float32 [G, N, D_siglip], of the G images that are grounded: last block after the post
        layer norm, which is what the pooling head reads; None where none is.
    dino: float32 [G, N, D_dino], of the same: last block after the layer norm, without CLS and
        registers. Both of the grounding's own encoders where it has some.
    """

    tokens: Tensor | None
    siglip: Tensor | None
    dino: Tensor | None


class Tower(nn.Module):
    """One encoder taken apart: embed, blocks in order, final norm, tokens before the patches.

    digest: of its weights; two towers with an equal one, and equal input, are one.
    """

    def __init__(
        self, model: PreTrainedModel, spec: EncoderSpec, fed: EncoderInput, digest: str
    ) -> None:
        super().__init__()
        parts: Any = model
        self.fed = fed
        self.digest = digest
        self.prefix = spec.prefix
        self.embed: nn.Module = parts.embeddings
        if spec.name == "siglip":
            self.blocks, self.norm = parts.encoder.layers, parts.post_layernorm
        elif spec.name == "dinov2":
            self.blocks, self.norm = parts.encoder.layer, parts.layernorm
            _fit_positions(self.embed, spec)
        else:
            self.blocks, self.norm = parts.model.layer, parts.norm
            parts.config._attn_implementation = _ROTARY_ATTENTION
        if spec.name == "dinov3":
            with torch.inference_mode():
                cos, sin = parts.rope_embeddings(
                    torch.zeros(1, 3, spec.image_size, spec.image_size)
                )
            self.register_buffer("_cos", cos, persistent=False)
            self.register_buffer("_sin", sin, persistent=False)
        self._is_rotary = spec.name == "dinov3"

    def run(
        self, pixels: Tensor, tap: int, normed: bool, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Patches [B, N, D] of block `tap` (0: none), normed or not; and, of the images `rows` of
        the batch alone, patches [len(rows), N, D] of the last block, normed.

        What is not asked for is empty; no block runs on an image for which nothing reads it.
        """
        count = len(self.blocks)
        tap_at = count + tap if tap else -1
        more = {"position_embeddings": (self._cos, self._sin)} if self._is_rotary else {}
        some = 0 < len(rows) < len(pixels)
        if some and not tap:
            pixels, some = pixels[list(rows)], False
        hidden = self.embed(pixels)
        tapped = last = hidden.new_empty(0)
        for index in range(count if rows else tap_at + 1):
            hidden = self.blocks[index](hidden, None, **more)
            if index == tap_at:
                tapped = self.norm(hidden) if normed else hidden
                if some:
                    hidden = hidden[list(rows)]
        if rows:
            shared = normed and tap_at == count - 1 and not some
            last = (tapped if shared else self.norm(hidden))[:, self.prefix :]
        return (tapped[:, self.prefix :] if tap else tapped), last


def _fit_positions(embed: Any, spec: EncoderSpec) -> None:
    """Interpolate DINOv2's positions once, by its own rule, and not in every pass.

    Its rules differ: with registers there is an antialias, without there is none.
    """
    size, count = spec.image_size, spec.grid**2
    with torch.inference_mode():
        placed = embed.interpolate_pos_encoding(
            torch.empty(1, count + 1, spec.dim), size, size
        ).clone()
    embed.position_embeddings = nn.Parameter(placed, requires_grad=False)


class _NarrowLinear(nn.Linear):
    """Products in the weights' own narrow dtype, whatever comes in."""

    def forward(self, wide: Tensor) -> Tensor:
        return functional.linear(wide.to(self.weight.dtype), self.weight, self.bias)


class _NarrowConv2d(nn.Conv2d):
    def forward(self, wide: Tensor) -> Tensor:
        narrow = self._conv_forward(wide.to(self.weight.dtype), self.weight, self.bias)
        # The embeddings add float32 positions, and the residual stream stays float32.
        result: Tensor = narrow.float()
        return result


def _narrow(module: nn.Module, dtype: torch.dtype) -> None:
    """Matrix products in `dtype`; layer norms, positions and the residual stream stay float32.

    Not autocast: without gradients it would cast every weight anew in every pass.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.to(dtype)
            part.__class__ = _NarrowLinear
        elif type(part) is nn.Conv2d:
            part.to(dtype)
            part.__class__ = _NarrowConv2d


class Encoders:
    """The towers of a contract, and those of the grounding where it has some of its own.

    With `dtype` below float32 the matrix products are done in it.
    """

    def __init__(
        self,
        contract: Contract,
        towers: Mapping[str, Tower],
        tokens: Mapping[str, str],
        grounding: Mapping[str, str],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """towers: by any key. tokens: encoder of the contract -> its tower's key. grounding:
        "siglip" and "dino" -> the keys of what the grounding reads; empty where it is not done."""
        self.towers = {key: tower.to(device) for key, tower in towers.items()}
        if dtype != torch.float32:
            for tower in towers.values():
                _narrow(tower, dtype)
        self._specs = {tokens[spec.name]: spec for spec in contract.encoders}
        self._grounding = dict(grounding)

    @property
    def inputs(self) -> tuple[EncoderInput, ...]:
        """What the towers are fed, each once."""
        return tuple(dict.fromkeys(tower.fed for tower in self.towers.values()))

    @torch.inference_mode()
    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features:
        """Run the blocks that the asked-for outputs need on float32 inputs [B, 3, S, S].

        grounded: the images of the batch whose features the grounding reads.
        """
        read = set(self._grounding.values()) if grounded else set()
        taps: dict[str, Tensor] = {}
        last: dict[str, Tensor] = {}
        for key, tower in self.towers.items():
            spec = self._specs.get(key) if with_tokens else None
            if spec is None and key not in read:
                continue
            taps[key], last[key] = tower.run(
                inputs[tower.fed],
                spec.tap if spec else 0,
                bool(spec and spec.norm),
                grounded if key in read else (),
            )
        features = {part: last[key].float() for part, key in self._grounding.items() if read}
        tokens = None
        if with_tokens:
            tokens = torch.cat([taps[key] for key in self._specs], dim=-1).float()
        return Features(tokens, features.get("siglip"), features.get("dino"))


class TextEncoder:
    """SigLIP's text tower: phrases -> unit embeddings, once for each instruction."""

    def __init__(
        self, siglip: SiglipModel, tokenizer: PreTrainedTokenizerFast, device: torch.device
    ) -> None:
        self._tower = siglip.text_model.to(device)
        self._tokenizer = tokenizer
        self._context = int(siglip.config.text_config.max_position_embeddings)
        self._device = device

    @torch.inference_mode()
    def __call__(self, phrases: tuple[str, ...]) -> tuple[Tensor, tuple[bool, ...]]:
        """Embeddings float32 [P, D] of unit length, and which phrases were cut to the context."""
        lengths = [len(ids) for ids in self._tokenizer(list(phrases))["input_ids"]]
        ids = self._tokenizer(
            list(phrases),
            padding="max_length",
            truncation=True,
            max_length=self._context,
            return_tensors="pt",
        )["input_ids"]
        # No attention mask: SigLIP was trained with its padding attended to.
        pooled = self._tower(input_ids=ids.to(self._device)).pooler_output
        embeddings = functional.normalize(pooled.float(), dim=-1)
        return embeddings, tuple(length > self._context for length in lengths)
