"""Image-caption pairs as a training objective: a SigLIP model, one of two losses, any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, SiglipModel

from siglip_perception.contrastive.data.samples import PairBatch
from siglip_perception.contrastive.losses.grad_cache import backward_in_parts
from siglip_perception.contrastive.losses.losses import (
    clip_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)
from siglip_perception.contrastive.training.distributed import Processes
from siglip_perception.images.preprocess import EncoderInput

_HIGHEST_SCALE = 4.6052  # log 100, CLIP's own bound (Radford et al. 2021, section 2.5)
_CHUNK = 1024


class PairObjective(nn.Module):
    """Which image and which caption belong together?

    Captions that are the same text are right answers for each other's images, too: a bag's frames
    share one instruction, and to call them wrong would teach the opposite of what is wanted. The
    sigmoid loss takes any number of right answers; CLIP's softmax has one for each row, so there
    it gets them wrong. `same_caption` in the log: how many others of the batch a pair has.
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
        """uint8 [B, 3, S, S] -> float32 [B, d] of unit length."""
        device = self._mean.device
        pixels = (images.to(device, non_blocking=True).float() / 255 - self._mean) / self._std
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            pooled = self.model.vision_model(pixels).pooler_output
        return functional.normalize(pooled.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """B texts -> float32 [B, d] of unit length; padded to the context, as SigLIP wants it."""
        ids = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._context,
            return_tensors="pt",
        )["input_ids"].to(self._mean.device)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16):
            pooled = self.model.text_model(input_ids=ids).pooler_output
        return functional.normalize(pooled.float(), dim=-1)

    def backward(
        self, batch: PairBatch, parts: int, processes: Processes, step: int
    ) -> dict[str, float]:
        """Add the gradient of the loss over the pairs of all processes; what is worth logging.

        parts: in how many pieces this process' pairs go through the model.
        """
        same = _same_captions(batch.captions, processes)
        loss = backward_in_parts(
            batch.parts(parts),
            lambda part: (self.embed_images(part.images), self.embed_texts(part.captions)),
            lambda embeddings: self._loss(embeddings[0], embeddings[1], same, processes.group),
        )
        others = 0.0 if same is None else float(same.sum()) / len(batch) - 1
        return {"loss": float(loss), "same_caption": others}

    def _loss(
        self, image: Tensor, text: Tensor, same: Tensor | None, group: dist.ProcessGroup | None
    ) -> Tensor:
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        if self.loss == "clip":
            return clip_loss(image, text, scale, group=group)
        chunk = _CHUNK if len(image) > _CHUNK else None
        if same is None:
            return sigmoid_loss(image, text, scale, bias, chunk_size=chunk, group=group)
        return sigmoid_target_loss(
            image, text, same.to(image.device), scale, bias, chunk_size=chunk, group=group
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """CLIP's bound on the temperature; the sigmoid loss needs none."""
        if self.loss == "clip":
            self.model.logit_scale.clamp_(max=_HIGHEST_SCALE)


def _same_captions(captions: Sequence[str], processes: Processes) -> Tensor | None:
    """Which captions of all processes are an own one's text: bool [B, W B]; None: only itself."""
    everyone: list[str] = []
    for rows in processes.gather(list(captions)):
        assert isinstance(rows, list)
        everyone += rows
    numbers: dict[str, int] = {}
    ids = torch.tensor([numbers.setdefault(text.casefold(), len(numbers)) for text in everyone])
    if len(numbers) == len(everyone):
        return None
    first = processes.rank * len(captions)
    own: Tensor = ids[first : first + len(captions), None] == ids[None, :]
    return own
