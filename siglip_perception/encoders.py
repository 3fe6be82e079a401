"""SigLIP and DINOv2 over one image: a single pass, every tap that is asked for, no block more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from siglip_perception.checkpoints import Models
from siglip_perception.contracts import Contract, EncoderName, EncoderSpec


@dataclass(frozen=True)
class Features:
    """What one image gave. N: patches of the contract's grid, row-major from the top left.

    tokens: float32 [N, dim], fused in the contract's order; None unless asked for.
    siglip: float32 [N, D_siglip], last block after the post layer norm, which is what the pooling
        head reads; None unless grounding was asked for.
    dinov2: float32 [N, D_dinov2], last block after the layer norm, without CLS and registers; None
        unless grounding was asked for.
    """

    tokens: Tensor | None
    siglip: Tensor | None
    dinov2: Tensor | None


@dataclass(frozen=True)
class _Tower:
    """One encoder taken apart: embed, blocks in order, final norm, tokens before the patches."""

    spec: EncoderSpec
    embed: Callable[[Tensor], Tensor]
    blocks: Iterable[nn.Module]
    norm: nn.Module
    prefix: int

    def run(self, pixels: Tensor, with_tap: bool, with_last: bool) -> tuple[Tensor, Tensor]:
        """Tap and normed last tokens, [B, N, D] each; the one not asked for is empty."""
        blocks = list(self.blocks)
        tap_at = len(blocks) + self.spec.tap if with_tap else -1
        hidden = self.embed(pixels)
        tap = last = hidden.new_empty(0)
        for index in range(len(blocks) if with_last else tap_at + 1):
            hidden = blocks[index](hidden, None)
            if index == tap_at:
                tap = self.norm(hidden) if self.spec.norm else hidden
        if with_last:
            last = self.norm(hidden)[:, self.prefix :]
        return (tap[:, self.prefix :] if with_tap else tap), last


class Encoders(nn.Module):
    """Both encoders of a contract, in float32 or with their products in a narrower `dtype`."""

    def __init__(
        self, models: Models, contract: Contract, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.siglip = models.siglip.vision_model.to(device)
        self.dinov2 = models.dinov2.to(device)
        self._contract = contract
        self._device = device
        self._dtype = dtype
        towers = {
            "siglip": _Tower(
                contract.encoder("siglip"),
                self.siglip.embeddings,
                self.siglip.encoder.layers,
                self.siglip.post_layernorm,
                prefix=0,
            ),
            "dinov2": _Tower(
                contract.encoder("dinov2"),
                self.dinov2.embeddings,
                self.dinov2.encoder.layer,
                self.dinov2.layernorm,
                prefix=1 + contract.encoder("dinov2").registers,
            ),
        }
        self._towers = {spec.name: towers[spec.name] for spec in contract.encoders}

    @torch.inference_mode()
    def forward(
        self, inputs: Mapping[EncoderName, Tensor], *, with_tokens: bool, with_grounding: bool
    ) -> Features:
        """Run the blocks that the asked-for outputs need on float32 inputs [1, 3, S, S]."""
        taps, last = [], {}
        narrow = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=narrow):
            for name, tower in self._towers.items():
                pixels = inputs[name].to(self._device, non_blocking=True)
                tap, final = tower.run(pixels, with_tokens, with_grounding)
                taps.append(tap)
                last[name] = final
        return Features(
            tokens=torch.cat(taps, dim=-1)[0].float() if with_tokens else None,
            siglip=last["siglip"][0].float() if with_grounding else None,
            dinov2=last["dinov2"][0].float() if with_grounding else None,
        )


class TextEncoder:
    """SigLIP's text tower: phrases -> unit embeddings, once for each instruction."""

    def __init__(self, models: Models, device: torch.device) -> None:
        self._tower = models.siglip.text_model.to(device)
        self._tokenizer = models.tokenizer
        self._context = int(models.siglip.config.text_config.max_position_embeddings)
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
