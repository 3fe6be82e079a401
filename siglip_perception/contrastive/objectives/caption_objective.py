"""SigLIP on whole images and captions only, as stock weights are trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, SiglipModel

from siglip_perception.contrastive.losses.losses import sigmoid_target_loss
from siglip_perception.contrastive.objectives.tabletop_objectives import StepResult, normalize
from siglip_perception.contrastive.tabletop_model import CONTEXT
from siglip_perception.scenes.samples.batches import Batch
from siglip_perception.scenes.samples.items import TABLETOP
from siglip_perception.scenes.vocabulary import (
    LANGUAGES,
    PHRASE_CLASSES,
    Language,
    PhraseClass,
    sample_caption,
)

KOREAN_BIAS = 6.0
"""Log-odds by which the bias of Korean pairs exceeds that of English ones. The checkpoint keeps
the English bias only, so that Korean logits come out lower, as SigLIP 2's do (its own
demonstration adds 5.9 for languages other than English)."""
_COARSE_SIDE = 8
_COARSE_SHARE = 0.92
_EXACT = [number for number, c in enumerate(PHRASE_CLASSES) if c.color and c.kind]


class CaptionObjective(nn.Module):
    """Sigmoid loss of whole images against two captions each, of which one may leave things out.

    No region, mask or single patch takes part. All but the last steps see small images, as
    SigLIP's
    own training begins with, its positions interpolated: that takes a quarter of the time.
    """

    def __init__(self, model: SiglipModel, tokenizer: PreTrainedTokenizerBase, steps: int) -> None:
        super().__init__()
        self.model = model
        self._tokenizer = tokenizer
        self._coarse_steps = round(_COARSE_SHARE * steps)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed B texts: float32 [B, d] of unit length."""
        ids = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )["input_ids"]
        return functional.normalize(
            self.model.text_model(input_ids=ids).pooler_output.float(), dim=-1
        )

    def embed_images(self, images: Tensor, coarse: bool = False) -> Tensor:
        """Embed uint8 [B, 3, S, S]: float32 [B, d] of unit length."""
        encoder = TABLETOP.encoder("siglip")
        pixels = normalize(images, encoder)
        if coarse:
            side = _COARSE_SIDE * encoder.patch
            pixels = functional.interpolate(pixels, size=(side, side), mode="area")
        pooled = self.model.vision_model(pixels, interpolate_pos_encoding=coarse).pooler_output
        return functional.normalize(pooled.float(), dim=-1)

    def forward(self, batch: Batch, rng: np.random.Generator, step: int) -> StepResult:
        images = batch.images.flip(-1) if rng.random() < 0.5 else batch.images
        captions: list[str] = []
        languages: list[Language] = []
        for answers in batch.answers[..., _EXACT].numpy():
            names = [PHRASE_CLASSES[_EXACT[int(a.argmax())]] for a in answers if a.any()]
            for complete in (True, False):
                language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
                count = len(names) if complete else int(rng.integers(1, len(names) + 1))
                captions.append(_caption(names, min(count, 4), language, rng))
                languages.append(language)
        image = self.embed_images(images, step < self._coarse_steps)
        text = self.embed_texts(captions)
        ids = {text: number for number, text in enumerate(captions)}
        numbers = torch.tensor([ids[text] for text in captions])
        own = numbers.view(-1, 2)
        target = (own[:, :, None] == numbers).any(dim=1)
        # A bias for each text is one more feature of it, times a constant one of every image.
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        extra = torch.tensor([KOREAN_BIAS * (x == "ko") for x in languages])
        loss = sigmoid_target_loss(
            torch.cat([image, torch.ones(len(image), 1)], dim=1),
            torch.cat([text, (extra / scale.detach())[:, None]], dim=1),
            target,
            scale,
            bias,
        )
        return StepResult(loss, {})

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """How well the whole image ranks the things in it among all names, per language: the share
        of (present, absent) pairs of names in the right order."""
        image = torch.cat([self.embed_images(part) for part in torch.split(batch.images, 32)])
        present = batch.answers.amax(dim=1)[:, _EXACT] > 0
        metrics = {}
        for language in LANGUAGES:
            text = self.embed_texts([PHRASE_CLASSES[i].forms(language)[0] for i in _EXACT])
            cosine = image @ text.T
            ranks = cosine.argsort(dim=1).argsort(dim=1).float()
            share = [
                (float(r[p].sum()) - int(p.sum()) * (int(p.sum()) - 1) / 2)
                / (int(p.sum()) * int((~p).sum()))
                for r, p in zip(ranks, present, strict=True)
                if p.any()
            ]
            metrics[f"image_auroc_{language}"] = float(np.mean(share))
        return metrics


def _caption(
    names: list[PhraseClass], count: int, language: Language, rng: np.random.Generator
) -> str:
    chosen = [names[i] for i in rng.permutation(len(names))[:count]]
    return sample_caption([(c.color or "", c.kind or "") for c in chosen], language, rng)
