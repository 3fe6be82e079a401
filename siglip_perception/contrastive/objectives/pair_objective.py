"""Image-caption pairs as a training objective: a SigLIP model with the sigmoid or CLIP loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, SiglipModel

from siglip_perception.contrastive.data.samples import PairBatch
from siglip_perception.contrastive.distributed import World
from siglip_perception.contrastive.losses.grad_cache import grad_cache_backward
from siglip_perception.contrastive.losses.losses import (
    clip_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)
from siglip_perception.images.preprocess import EncoderInput

_HIGHEST_SCALE = 4.6052  # log 100, CLIP's own bound (Radford et al. 2021, section 2.5)
_CHUNK = 1024


class PairObjective(nn.Module):
    """Trains a SigLIP to match images with captions.

    Equal captions match each other's images too: all frames of a bag under one instruction share
    it, and training them as negatives would teach the opposite. The sigmoid loss takes any number
    of matches; CLIP's softmax has one per row, so it treats duplicates as negatives.
    `same_caption` in the log is the mean number of other pairs in the batch with the same caption.
    """

    def __init__(
        self,
        model: SiglipModel,
        tokenizer: PreTrainedTokenizerBase,
        encoder: EncoderInput,
        loss: Literal["sigmoid", "clip"] = "sigmoid",
        bf16: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self._bf16 = bf16
        self._tokenizer = tokenizer
        self._context = int(model.config.text_config.max_position_embeddings)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self._mean: Tensor
        self._std: Tensor

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed images: uint8 [B, 3, S, S] -> float32 [B, d] of unit length.

        Embeddings, float [B, d], which a frozen tower gave before, are only normalized.
        """
        device = self._mean.device
        if images.is_floating_point():
            return functional.normalize(images.to(device, non_blocking=True).float(), dim=-1)
        pixels = (images.to(device, non_blocking=True).float() / 255 - self._mean) / self._std
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            embedding = self.model.vision_model(pixels).pooler_output
        return functional.normalize(embedding.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed B texts: float32 [B, d] of unit length. SigLIP expects padding to the context."""
        ids = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._context,
            return_tensors="pt",
        )["input_ids"].to(self._mean.device)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16):
            embedding = self.model.text_model(input_ids=ids).pooler_output
        return functional.normalize(embedding.float(), dim=-1)

    def backward(
        self, batch: PairBatch, accumulate: int, world: World, step: int
    ) -> dict[str, float]:
        """Accumulate the gradient of the loss over the pairs of all processes; return metrics.

        accumulate: number of microbatches that this process's pairs are split into.
        """
        caption_matches = _same_captions(batch.captions, world)
        loss = grad_cache_backward(
            batch.split(accumulate),
            lambda microbatch: (
                self.embed_images(microbatch.images),
                self.embed_texts(microbatch.captions),
            ),
            lambda embeddings: self._loss(
                embeddings[0], embeddings[1], caption_matches, world.group
            ),
        )
        duplicates = (
            0.0 if caption_matches is None else float(caption_matches.sum()) / len(batch) - 1
        )
        return {"loss": float(loss), "same_caption": duplicates}

    def _loss(
        self,
        image: Tensor,
        text: Tensor,
        caption_matches: Tensor | None,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        if self.loss == "clip":
            return clip_loss(image, text, scale, group=group)
        chunk = _CHUNK if len(image) > _CHUNK else None
        if caption_matches is None:
            return sigmoid_loss(image, text, scale, bias, chunk_size=chunk, group=group)
        return sigmoid_target_loss(
            image,
            text,
            caption_matches.to(image.device),
            scale,
            bias,
            chunk_size=chunk,
            group=group,
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Apply CLIP's bound on the temperature; the sigmoid loss needs none."""
        if self.loss == "clip":
            self.model.logit_scale.clamp_(max=_HIGHEST_SCALE)


def _same_captions(captions: Sequence[str], world: World) -> Tensor | None:
    """Match this process's captions with those of all: bool [B, W B]; None if all are distinct."""
    all_captions: list[str] = []
    for captions_of_rank in world.gather(list(captions)):
        assert isinstance(captions_of_rank, list)
        all_captions += captions_of_rank
    numbers: dict[str, int] = {}
    ids = torch.tensor(
        [numbers.setdefault(text.casefold(), len(numbers)) for text in all_captions]
    )
    if len(numbers) == len(all_captions):
        return None
    offset = world.rank * len(captions)
    matches: Tensor = ids[offset : offset + len(captions), None] == ids[None, :]
    return matches
