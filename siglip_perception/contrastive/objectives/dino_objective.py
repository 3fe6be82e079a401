"""Self-distillation as a training objective: images only, any batch size, any world size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersModel

from siglip_perception.contrastive.data.samples import PairBatch
from siglip_perception.contrastive.distributed import World
from siglip_perception.contrastive.objectives.dino import DinoSettings, SelfDistillation, Views
from siglip_perception.images.preprocess import EncoderInput

DINO_STATE = ("distillation.teacher.", "distillation.cls_center.", "distillation.patch_center.")
"""Names of the tensors that training changes without a gradient."""


class DinoObjective(nn.Module):
    """Trains a DINOv2 with the losses of DINO, iBOT and DINOv2; captions are ignored.

    steps: of the whole run, for the temperature and momentum schedules.
    """

    def __init__(
        self,
        model: Dinov2WithRegistersModel,
        encoder: EncoderInput,
        settings: DinoSettings,
        steps: int,
        bf16: bool = True,
    ) -> None:
        super().__init__()
        if model.device.type == "cpu":
            # On crops of so few patches the fused kernel's backward is up to 1.7 times slower.
            model.set_attn_implementation("eager")
        self.distillation = SelfDistillation(model, settings)
        self._steps = steps
        self._bf16 = bf16
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self._mean: Tensor
        self._std: Tensor

    @property
    def model(self) -> Dinov2WithRegistersModel:
        """The teacher's backbone, the model to keep after training."""
        return self.distillation.teacher.backbone

    def backward(
        self, batch: PairBatch, accumulate: int, world: World, step: int
    ) -> dict[str, float]:
        """Accumulate the gradient of the loss over the images of all processes; return metrics.

        The teacher's outputs are balanced over all microbatches and processes together; KoLeo sees
        one microbatch at a time, of all processes.
        """
        progress = step / self._steps
        microbatches = batch.split(accumulate)
        views = [self._views(microbatch) for microbatch in microbatches]
        settings, device = self.distillation.settings, self._mean.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            answers = [self.distillation.answer(view) for view in views]
        targets = self.distillation.targets(
            answers, settings.teacher_temperature_at(progress), world.group
        )
        totals: dict[str, float] = {}
        for view, target in zip(views, targets, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                loss, metrics = self.distillation(view, target, world.group)
            (loss / accumulate).backward()
            for name, value in ({"loss": float(loss.detach())} | metrics).items():
                totals[name] = totals.get(name, 0.0) + value / accumulate
        for parameter in self.distillation.frozen_parameters(progress):
            parameter.grad = None
        return totals

    def features(self, images: Tensor) -> Tensor:
        """Encode images to the teacher's patches: uint8 [B, 3, S, S] -> float [B, N, d]."""
        pixels = (images.to(self._mean.device).float() / 255 - self._mean) / self._std
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._bf16):
            return self.distillation.teacher.features(pixels)[1]

    def _views(self, batch: PairBatch) -> Views:
        images = batch.images.to(self._mean.device, non_blocking=True).float() / 255
        return self.distillation.views(images, batch.seeds, self._mean, self._std)

    def after_step(self, step: int) -> None:
        """Update the teacher."""
        self.distillation.move_teacher((step + 1) / self._steps)
