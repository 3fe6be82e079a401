"""Training objectives of the embedded model's two towers, and their validation metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2WithRegistersModel, PreTrainedTokenizerBase, SiglipModel

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.contracts import EncoderSpec
from siglip_perception.contrastive.losses.losses import (
    affinity_loss,
    sigmoid_loss,
    sigmoid_target_loss,
)
from siglip_perception.contrastive.tabletop_model import CONTEXT
from siglip_perception.grounding.region_head import head_keys, pool_regions, pool_single
from siglip_perception.scenes.samples.batches import Batch
from siglip_perception.scenes.samples.items import GRID, TABLETOP
from siglip_perception.scenes.vocabulary import LANGUAGES, PHRASE_CLASSES, sample_phrase

_PATCHES_AN_IMAGE = 40


def normalize(images: Tensor, encoder: EncoderSpec) -> Tensor:
    """Normalize uint8 [B, 3, S, S] to float32: (x / 255 - mean) / std per channel."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
    return (images.float() / 255 - mean) / std


@dataclass(frozen=True)
class StepResult:
    """loss: scalar to minimize. parts: its terms, for the log."""

    loss: Tensor
    parts: dict[str, float]


class SiglipObjective(nn.Module):
    """Sigmoid loss of regions, single patches and whole images against phrases and captions.

    The pooling head has to see regions in training to score them later: trained on image-caption
    pairs alone, it is far off with its keys masked to a region.
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

        # Objects and distractors: pooled regions against phrases.
        masks = self._object_masks(batch.coverage, rng)  # [B, K, N]
        distractors = self._distractor_masks(batch.coverage, rng)  # [B, 2, N]
        whole_image = torch.ones_like(masks[:, :1])
        pooled_regions = pool_regions(
            head, keys, torch.cat([masks, distractors, whole_image], dim=1)
        )
        regions = functional.normalize(pooled_regions.float(), dim=-1)
        things = masks.shape[1]
        visible = masks.amax(dim=-1) > 0
        region_loss = sigmoid_target_loss(
            regions[:, :things][visible], phrases, batch.answers[visible], scale, bias
        )
        overlap = distractors @ batch.coverage / distractors.sum(dim=-1, keepdim=True).clamp_min(1)
        distractor_answers = (overlap @ batch.answers).clamp(0, 1)
        distractor_loss = sigmoid_target_loss(
            regions[:, things:-1].flatten(0, 1),
            phrases,
            distractor_answers.flatten(0, 1),
            scale,
            bias,
        )
        # Whole images: against phrases (is it in view?) and captions.
        image = regions[:, -1]
        presence_loss = sigmoid_target_loss(image, phrases, batch.answers.amax(dim=1), scale, bias)
        caption_loss = sigmoid_loss(image, captions, scale, bias)

        # Single patches: against phrases, soft targets where objects share a patch.
        patch_indices = self._sample_patches(batch.coverage, rng)  # [B, P]
        values = keys.values.flatten(2).gather(
            1, patch_indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        )
        patches = functional.normalize(
            pool_single(head, values.view(*patch_indices.shape, *keys.values.shape[2:])).float(),
            dim=-1,
        )
        patch_coverage = batch.coverage.gather(
            1, patch_indices.unsqueeze(-1).expand(-1, -1, batch.coverage.shape[-1])
        )
        patch_answers = (patch_coverage @ batch.answers).clamp(0, 1)
        patch_loss = sigmoid_target_loss(
            patches.flatten(0, 1), phrases, patch_answers.flatten(0, 1), scale, bias
        )
        loss = (
            region_loss
            + patch_loss
            + 0.5 * distractor_loss
            + 0.05 * presence_loss
            + 0.2 * caption_loss
        )
        parts = {
            "region": region_loss,
            "patch": patch_loss,
            "other": distractor_loss,
            "presence": presence_loss,
            "caption": caption_loss,
        }
        return StepResult(loss, {name: float(value.detach()) for name, value in parts.items()})

    @staticmethod
    def _object_masks(coverage: Tensor, rng: np.random.Generator) -> Tensor:
        """Sample a mask [B, K, N] per thing: tight, loose or with holes, as at inference."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        cuts = torch.rand(len(coverage), coverage.shape[-1], 1, generator=generator)
        coverage_by_thing = coverage.transpose(1, 2)
        keep = torch.rand(coverage_by_thing.shape, generator=generator) < 0.9
        return ((coverage_by_thing > 0.2 + 0.5 * cuts) & keep).float()

    @staticmethod
    def _distractor_masks(coverage: Tensor, rng: np.random.Generator) -> Tensor:
        """Sample two distractor masks [B, 2, N] per image: the background and a random rectangle.

        Their target is the share that each object covers. Without them the model would call a
        background region by the name of an object whose edge it contains.
        """
        background = (1 - coverage.sum(dim=-1) > float(rng.uniform(0.2, 0.9))).float()
        rectangles = torch.zeros(len(coverage), GRID, GRID)
        for number in range(len(coverage)):
            row, column = rng.integers(0, GRID - 2, 2)
            height, width = rng.integers(2, GRID // 2 + 1, 2)
            rectangles[number, row : row + height, column : column + width] = 1
        return torch.stack([background, rectangles.flatten(1)], dim=1)

    @staticmethod
    def _sample_patches(coverage: Tensor, rng: np.random.Generator) -> Tensor:
        """Sample patches [B, P], half on objects and half anywhere: most are background."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        count = _PATCHES_AN_IMAGE // 2
        on_object = torch.multinomial(coverage.amax(-1) + 1e-3, count, generator=generator)
        anywhere = torch.randint(coverage.shape[1], on_object.shape, generator=generator)
        return torch.cat([on_object, anywhere], dim=1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Share of objects whose region ranks its own color and kind first, per language."""
        exact = [i for i, c in enumerate(PHRASE_CLASSES) if c.color and c.kind]
        head = self.model.vision_model.head
        tokens = self.model.vision_model(
            normalize(batch.images, TABLETOP.encoder("siglip"))
        ).last_hidden_state
        masks = (batch.coverage.transpose(1, 2) > 0.5).float()
        visible = batch.answers[..., exact].any(dim=-1) & masks.any(dim=-1)
        regions = functional.normalize(pool_regions(head, head_keys(head, tokens), masks), dim=-1)
        labels = batch.answers[visible][:, exact].argmax(dim=-1)
        metrics = {}
        for language in LANGUAGES:
            text = self._embed([PHRASE_CLASSES[i].forms(language)[0] for i in exact])
            predictions = (regions[visible] @ text.T).argmax(dim=-1)
            metrics[f"region_top1_{language}"] = float((predictions == labels).float().mean())
        return metrics


class AffinityObjective(nn.Module):
    """Trains DINOv2 patches to match if they show the same thing, by the generator's masks.

    Stands in for DINOv2's self-distillation, which learns this without masks but needs far longer.
    """

    def __init__(
        self, model: Dinov2WithRegistersModel, settings: GroundingSettings | None = None
    ) -> None:
        """Start from the affinity's scale and bias in the settings, if they have them."""
        super().__init__()
        scale, bias = math.exp(2.3), -5.0
        if settings is not None and settings.affinity_scale and settings.affinity_bias is not None:
            scale, bias = settings.affinity_scale, settings.affinity_bias
        self.model = model
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.logit_bias = nn.Parameter(torch.tensor(bias))

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = self.model(normalize(batch.images, TABLETOP.encoder("dinov2"))).last_hidden_state
        skip = 1 + self.model.config.num_register_tokens
        background = (1 - batch.coverage.sum(dim=-1, keepdim=True)).clamp_min(0)
        coverage = torch.cat([batch.coverage, background], dim=-1)
        return functional.normalize(tokens[:, skip:].float(), dim=-1), coverage

    def forward(self, batch: Batch, rng: np.random.Generator) -> StepResult:
        patches, coverage = self._patches(batch)
        loss = affinity_loss(patches, coverage, self.logit_scale.exp(), self.logit_bias)
        return StepResult(loss, {"affinity": float(loss.detach())})

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Mean IoU of each object with the affinity map of its mean feature, at 8 x the grid."""
        patches, coverage = self._patches(batch)
        objects = coverage[..., :-1]
        visible = objects.amax(dim=1) > 0.5  # [B, K]
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
        intersection = (fine[0] & fine[1]).sum(dim=(-1, -2))
        union = (fine[0] | fine[1]).sum(dim=(-1, -2)).clamp_min(1)
        return {"mask_iou": float((intersection / union)[visible].mean())}
