"""Self-distillation as a training objective: images alone, any batch, any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersModel

from siglip_perception.contrastive.data.samples import PairBatch
from siglip_perception.contrastive.objectives.dino import DinoSettings, SelfDistillation, Views
from siglip_perception.contrastive.training.distributed import Processes
from siglip_perception.images.preprocess import EncoderInput


class DinoObjective(nn.Module):
    """DINO, iBOT and DINOv2's loss of a DINOv2; captions are not looked at.

    steps: of the whole run, for the schedules of temperature and momentum.
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
            # The fused kernel's backward takes up to 1.7 times as long on crops of so few patches.
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
        """What is kept in the end: the teacher."""
        return self.distillation.teacher.backbone

    def backward(
        self, batch: PairBatch, parts: int, processes: Processes, step: int
    ) -> dict[str, float]:
        """Add the gradient of the loss over the images of all processes; what is worth logging.

        The teacher's answers of all parts and processes are balanced together; KoLeo alone sees
        one part at a time, but that of all processes."""
        progress = step / self._steps
        pieces = batch.parts(parts)
        views = [self._views(piece) for piece in pieces]
        settings, device = self.distillation.settings, self._mean.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            answers = [self.distillation.answer(view) for view in views]
        targets = self.distillation.targets(
            answers, settings.teacher_temperature_at(progress), processes.group
        )
        totals: dict[str, float] = {}
        for view, target in zip(views, targets, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                loss, found = self.distillation(view, target, processes.group)
            (loss / parts).backward()
            for name, value in ({"loss": float(loss.detach())} | found).items():
                totals[name] = totals.get(name, 0.0) + value / parts
        for parameter in self.distillation.still_parameters(progress):
            parameter.grad = None
        return totals

    def features(self, images: Tensor) -> Tensor:
        """The teacher's patches, uint8 [B, 3, S, S] -> float [B, N, d]."""
        pixels = (images.to(self._mean.device).float() / 255 - self._mean) / self._std
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._bf16):
            return self.distillation.teacher.features(pixels)[1]

    def _views(self, batch: PairBatch) -> Views:
        images = batch.images.to(self._mean.device, non_blocking=True).float() / 255
        return self.distillation.views(images, batch.seeds, self._mean, self._std)

    def after_step(self, step: int) -> None:
        """The teacher follows."""
        self.distillation.move_teacher((step + 1) / self._steps)
