"""What each tower is asked in a training step, and how well it answers on scenes kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2WithRegistersModel, PreTrainedTokenizerBase, SiglipModel

from siglip_perception.contracts import EncoderSpec
from siglip_perception.contrastive.losses.losses import (
    affinity_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)
from siglip_perception.contrastive.training.tabletop_model import CONTEXT
from siglip_perception.grounding.region_head import head_keys, pool_regions, pool_single
from siglip_perception.scenes.samples import GRID, TABLETOP, Batch
from siglip_perception.scenes.vocabulary import LANGUAGES, PHRASE_CLASSES, sample_phrase

_PATCHES_AN_IMAGE = 40


def normalize(images: Tensor, encoder: EncoderSpec) -> Tensor:
    """uint8 [B, 3, S, S] -> float32, (x / 255 - mean) / std by channel."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
    return (images.float() / 255 - mean) / std


@dataclass(frozen=True)
class StepResult:
    """loss: scalar to descend. parts: what it is made of, for the log."""

    loss: Tensor
    parts: dict[str, float]


class SiglipObjective(nn.Module):
    """Regions, single patches, whole images and captions against text, all by the sigmoid loss.

    The pooling head must see regions in training if it is to score regions: image-caption pairs
    alone leave its masked form far off.
    """

    def __init__(self, model: SiglipModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self._tokenizer = tokenizer

    def _embed(self, texts: list[str]) -> Tensor:
        ids = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )["input_ids"]
        return functional.normalize(
            self.model.text_model(input_ids=ids).pooler_output.float(), dim=-1
        )

    def forward(self, batch: Batch, rng: np.random.Generator) -> StepResult:
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        questions = [
            sample_phrase(c, LANGUAGES[int(rng.integers(len(LANGUAGES)))], rng)
            for c in PHRASE_CLASSES
        ]
        text = self._embed([*questions, *batch.captions])
        phrases, captions = text[: len(questions)], text[len(questions) :]

        head = self.model.vision_model.head
        tokens = self.model.vision_model(
            normalize(batch.images, TABLETOP.encoder("siglip"))
        ).last_hidden_state
        keys = head_keys(head, tokens)

        masks = self._thing_regions(batch.coverage, rng)  # [B, K, N]
        others = self._other_regions(batch.coverage, rng)  # [B, 2, N]
        whole = torch.ones_like(masks[:, :1])
        pooled = pool_regions(head, keys, torch.cat([masks, others, whole], dim=1))
        regions = functional.normalize(pooled.float(), dim=-1)
        things = masks.shape[1]
        shown = masks.amax(dim=-1) > 0
        region = sigmoid_target_loss(
            regions[:, :things][shown], phrases, batch.answers[shown], scale, bias
        )
        share = others @ batch.coverage / others.sum(dim=-1, keepdim=True).clamp_min(1)
        other_answers = (share @ batch.answers).clamp(0, 1)
        other = sigmoid_target_loss(
            regions[:, things:-1].flatten(0, 1), phrases, other_answers.flatten(0, 1), scale, bias
        )
        image = regions[:, -1]
        presence = sigmoid_target_loss(image, phrases, batch.answers.amax(dim=1), scale, bias)
        caption = sigmoid_loss(image, captions, scale, bias)

        chosen = self._choose_patches(batch.coverage, rng)  # [B, P]
        values = keys.values.flatten(2).gather(
            1, chosen.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        )
        patches = functional.normalize(
            pool_single(head, values.view(*chosen.shape, *keys.values.shape[2:])).float(), dim=-1
        )
        covered = batch.coverage.gather(
            1, chosen.unsqueeze(-1).expand(-1, -1, batch.coverage.shape[-1])
        )
        patch_answers = (covered @ batch.answers).clamp(0, 1)
        patch = sigmoid_target_loss(
            patches.flatten(0, 1), phrases, patch_answers.flatten(0, 1), scale, bias
        )
        loss = region + patch + 0.5 * other + 0.05 * presence + 0.2 * caption
        parts = {
            "region": region,
            "patch": patch,
            "other": other,
            "presence": presence,
            "caption": caption,
        }
        return StepResult(loss, {name: float(value.detach()) for name, value in parts.items()})

    @staticmethod
    def _thing_regions(coverage: Tensor, rng: np.random.Generator) -> Tensor:
        """Each thing's patches, masks [B, K, N]: tight, loose, with holes, as found ones are."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        cuts = torch.rand(len(coverage), coverage.shape[-1], 1, generator=generator)
        covered = coverage.transpose(1, 2)
        kept = torch.rand(covered.shape, generator=generator) < 0.9
        return ((covered > 0.2 + 0.5 * cuts) & kept).float()

    @staticmethod
    def _other_regions(coverage: Tensor, rng: np.random.Generator) -> Tensor:
        """The background and a random rectangle of each image, masks [B, 2, N].

        Their answer is the share that each object has of them: without such regions a background
        with an object's edge in it is called by the object's name.
        """
        background = (1 - coverage.sum(dim=-1) > float(rng.uniform(0.2, 0.9))).float()
        rectangles = torch.zeros(len(coverage), GRID, GRID)
        for number in range(len(coverage)):
            top, left = rng.integers(0, GRID - 2, 2)
            down, across = rng.integers(2, GRID // 2 + 1, 2)
            rectangles[number, top : top + down, left : left + across] = 1
        return torch.stack([background, rectangles.flatten(1)], dim=1)

    @staticmethod
    def _choose_patches(coverage: Tensor, rng: np.random.Generator) -> Tensor:
        """Half from objects, half from anywhere, [B, P]: background fills most of an image."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        count = _PATCHES_AN_IMAGE // 2
        on_object = torch.multinomial(coverage.amax(-1) + 1e-3, count, generator=generator)
        anywhere = torch.randint(coverage.shape[1], on_object.shape, generator=generator)
        return torch.cat([on_object, anywhere], dim=1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Share of objects whose region names its own color and kind first, in both languages."""
        exact = [i for i, c in enumerate(PHRASE_CLASSES) if c.color and c.kind]
        head = self.model.vision_model.head
        tokens = self.model.vision_model(
            normalize(batch.images, TABLETOP.encoder("siglip"))
        ).last_hidden_state
        masks = (batch.coverage.transpose(1, 2) > 0.5).float()
        shown = batch.answers[..., exact].any(dim=-1) & masks.any(dim=-1)
        pooled = functional.normalize(pool_regions(head, head_keys(head, tokens), masks), dim=-1)
        right = batch.answers[shown][:, exact].argmax(dim=-1)
        figures = {}
        for language in LANGUAGES:
            text = self._embed([PHRASE_CLASSES[i].forms(language)[0] for i in exact])
            found = (pooled[shown] @ text.T).argmax(dim=-1)
            figures[f"region_top1_{language}"] = float((found == right).float().mean())
        return figures


class AffinityObjective(nn.Module):
    """DINOv2's patches: do two of them show the same thing? The generator's masks know.

    This stands in for DINOv2's self-distillation, which learns the same without masks, for longer.
    """

    def __init__(self, model: Dinov2WithRegistersModel) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = nn.Parameter(torch.tensor(2.3))
        self.logit_bias = nn.Parameter(torch.tensor(-5.0))

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden = self.model(normalize(batch.images, TABLETOP.encoder("dinov2"))).last_hidden_state
        skip = 1 + self.model.config.num_register_tokens
        background = (1 - batch.coverage.sum(dim=-1, keepdim=True)).clamp_min(0)
        coverage = torch.cat([batch.coverage, background], dim=-1)
        return functional.normalize(hidden[:, skip:].float(), dim=-1), coverage

    def forward(self, batch: Batch, rng: np.random.Generator) -> StepResult:
        patches, coverage = self._patches(batch)
        loss = affinity_loss(patches, coverage, self.logit_scale.exp(), self.logit_bias)
        return StepResult(loss, {"affinity": float(loss.detach())})

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Mean IoU of each object with the map of its mean feature, at eight times the grid."""
        patches, coverage = self._patches(batch)
        objects = coverage[..., :-1]
        shown = objects.amax(dim=1) > 0.5  # [B, K]
        mean = functional.normalize((objects > 0.5).float().transpose(1, 2) @ patches, dim=-1)
        logits = mean @ patches.transpose(1, 2) * self.logit_scale.exp() + self.logit_bias
        fine = [
            functional.interpolate(
                m.reshape(*m.shape[:2], GRID, GRID),
                scale_factor=8,
                mode="bilinear",
                align_corners=False,
            )
            > 0.5
            for m in (logits.sigmoid(), objects.transpose(1, 2))
        ]
        common = (fine[0] & fine[1]).sum(dim=(-1, -2))
        total = (fine[0] | fine[1]).sum(dim=(-1, -2)).clamp_min(1)
        return {"mask_iou": float((common / total)[shown].mean())}
