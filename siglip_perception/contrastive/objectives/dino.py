"""Self-distillation without labels, as DINOv2 is trained.

A student sees crops of an image and predicts the output of a teacher, its own moving average, on
other crops of the same image. Balancing the teacher's outputs over the prototypes keeps both from
collapsing to a constant. Sources:

    DINO    Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers":
            multi-crop, momentum teacher, centering, the head
    iBOT    Zhou et al. 2021, "Image BERT Pre-Training with Online Tokenizer": masked patches
    SwAV    Caron et al. 2020: Sinkhorn-Knopp over a batch (after Cuturi 2013)
    DINOv2  Oquab et al. 2023, "Learning Robust Visual Features without Supervision": all of them
            together, untied heads, KoLeo (Sablayrolles et al. 2018)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from transformers import Dinov2WithRegistersModel

from siglip_perception.contrastive.data.crops import (
    CropSettings,
    MaskSettings,
    block_masks,
    random_crops,
)
from siglip_perception.contrastive.losses.ring import gather

# Images have 16 or 18 patches a side, so crops keep roughly their native resolution.
_GLOBAL = CropSettings(patches=9, count=2, scale=(0.25, 0.7))
_LOCAL = CropSettings(patches=5, count=4, scale=(0.05, 0.25))
_MASKS = MaskSettings()


@dataclass(frozen=True)
class DinoSettings:
    """Settings of self-distillation; the defaults suit the embedded DINOv2, trained on a CPU.

    prototypes, hidden, bottleneck: widths of the heads. DINOv2: 65536, 2048, 256.
    balancing: of the teacher's outputs, by Sinkhorn-Knopp (DINOv2) or centering (DINO).
    teacher_temperature: at the start and after the warm-up, which takes warmup_share of all steps.
    momentum: of the teacher at the start; a cosine takes it to 1.
    patch_weight, koleo_weight: weights of the masked-patch loss and of KoLeo; the CLS loss has 1.
    frozen_share: share of all steps, from the start, during which the prototypes are frozen.
    """

    global_crops: CropSettings = _GLOBAL
    local_crops: CropSettings = _LOCAL
    masks: MaskSettings = _MASKS
    prototypes: int = 1024
    hidden: int = 512
    bottleneck: int = 128
    balancing: Literal["sinkhorn", "centering"] = "sinkhorn"
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    warmup_share: float = 0.1
    momentum: float = 0.992
    patch_weight: float = 1.0
    koleo_weight: float = 0.1
    frozen_share: float = 0.02

    def teacher_temperature_at(self, progress: float) -> float:
        """Temperature at a progress in [0, 1]: linear warm-up, then constant."""
        first, last = self.teacher_temperature
        return first + (last - first) * min(1.0, progress / max(self.warmup_share, 1e-9))

    def momentum_at(self, progress: float) -> float:
        """Momentum at a progress in [0, 1]: 1 - (1 - m) (cos(pi progress) + 1) / 2, as in DINO."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2


def _total(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is not None:
        dist.all_reduce(value, group=group)
    return value


def sinkhorn(
    logits: Tensor, temperature: float, iterations: int = 3, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Assign B samples softly to K prototypes, using every prototype equally.

    logits: float [B, K] -> [B, K]. Normalizes exp(logits / temperature) by rows and columns in
    turn; at the end rows sum to exactly 1 and columns to nearly B / K.
    With a group, B counts the rows of all its processes. No gradient.
    """
    with torch.no_grad():
        scores = logits.detach().float() / temperature
        highest = scores.amax() if len(scores) else scores.new_tensor(-math.inf)
        if group is not None:
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
        plan: Tensor = (scores - highest).exp()
        count = _total(plan.new_tensor(float(len(plan))), group)
        for _ in range(iterations):
            columns = _total(plan.sum(dim=0, keepdim=True), group)
            plan *= count / plan.shape[1] / columns.clamp_min(1e-30)
            plan /= plan.sum(dim=1, keepdim=True).clamp_min(1e-30)
        return plan


class Center(nn.Module):
    """DINO's balancing: subtracts a moving mean from the teacher's logits (eq. 4).

    Centering alone favors a uniform output; the teacher's low temperature counteracts that.
    """

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self._momentum = momentum
        self.register_buffer("mean", torch.zeros(prototypes))
        self.mean: Tensor

    @torch.no_grad()
    def forward(
        self, logits: Tensor, temperature: float, group: dist.ProcessGroup | None = None
    ) -> Tensor:
        """Return softmax((logits - c) / temperature), float [B, K]; then move c to their mean."""
        logits = logits.detach().float()
        answers = ((logits - self.mean) / temperature).softmax(dim=-1)
        count = _total(logits.new_tensor(float(len(logits))), group)
        mean = _total(logits.sum(dim=0), group) / count.clamp_min(1)
        self.mean.lerp_(mean, 1 - self._momentum)
        return answers


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy -sum_k teacher_k log softmax(student / temperature)_k, float [...].

    student: logits [..., K]; teacher: probabilities [..., K].
    """
    return -(teacher * (student.float() / temperature).log_softmax(dim=-1)).sum(dim=-1)


def koleo_loss(features: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Kozachenko-Leonenko: -mean_i log min_{j != i} |x_i - x_j|; low if features spread out.

    features: float [B, d], normalized to unit length first, as in DINOv2. With a group, nearest
    neighbors are searched across its processes. Needs two features or more in total.
    """
    unit = functional.normalize(features.float(), dim=-1)
    candidates, offset = unit, 0
    if group is not None:
        candidates, offset = gather(unit, group), dist.get_rank(group) * len(unit)
    with torch.no_grad():
        similarity = unit @ candidates.T
        similarity.diagonal(offset).fill_(-2.0)
        nearest = similarity.argmax(dim=1)
    distance: Tensor = (unit - candidates[nearest]).norm(dim=-1)
    return -(distance + 1e-8).log().mean()


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Update every parameter: teacher <- momentum * teacher + (1 - momentum) * student."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new.detach(), 1 - momentum)


class DinoHead(nn.Module):
    """Projection head: features [..., d] -> logits over prototypes [..., K], cosines in [-1, 1].

    Three linear layers with GELU into a unit-length bottleneck, then unit-length prototypes (a
    weight norm with its magnitude fixed at 1), as in DINO.
    """

    def __init__(self, dim: int, settings: DinoSettings) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        prototypes = nn.Linear(settings.bottleneck, settings.prototypes, bias=False)
        self.prototypes = weight_norm(prototypes)
        magnitude: Tensor = self.prototypes.parametrizations.weight.original0
        nn.init.ones_(magnitude)
        magnitude.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.prototypes(functional.normalize(self.mlp(features).float(), dim=-1))
        return logits


class Branch(nn.Module):
    """Student or teacher: a backbone with a head for the CLS token and one for patches."""

    def __init__(self, backbone: Dinov2WithRegistersModel, settings: DinoSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.cls_head = DinoHead(backbone.config.hidden_size, settings)
        self.patch_head = DinoHead(backbone.config.hidden_size, settings)

    def features(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode float [B, 3, S, S], masks bool [B, N]: CLS [B, d] and patches [B, N, d]."""
        tokens = self.backbone(images, bool_masked_pos=masks).last_hidden_state
        return tokens[:, 0], tokens[:, 1 + self.backbone.config.num_register_tokens :]


@dataclass(frozen=True)
class Views:
    """Normalized crops of a batch of B images, ordered crop by crop.

    wide: float [2 B, 3, S, S], the global crops. narrow: float [L B, 3, s, s], the local crops.
    masks: bool [2 B, N], patches of `wide` hidden from the student.
    """

    wide: Tensor
    narrow: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Targets:
    """The teacher's probabilities. cls: float [2, B, K]. patches: float [M, K], masked only."""

    cls: Tensor
    patches: Tensor


class SelfDistillation(nn.Module):
    """Student, teacher, loss and the teacher's update. Only the teacher is kept after training."""

    def __init__(self, backbone: Dinov2WithRegistersModel, settings: DinoSettings) -> None:
        super().__init__()
        if settings.global_crops.count != 2:
            raise ValueError("self-distillation compares two global crops")
        self.settings = settings
        self.student = Branch(backbone, settings)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.cls_center = Center(settings.prototypes)
        self.patch_center = Center(settings.prototypes)

    def train(self, mode: bool = True) -> SelfDistillation:
        """Switch only the student: the teacher stays in eval mode, without dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def views(self, images: Tensor, seeds: list[int], mean: Tensor, std: Tensor) -> Views:
        """Crop and mask float images [B, 3, H, W] in [0, 1], with one seed per image."""
        patch = int(self.student.backbone.config.patch_size)
        wide = random_crops(images, seeds, self.settings.global_crops, patch)
        narrow = random_crops(images, seeds, self.settings.local_crops, patch)
        side = self.settings.global_crops.patches
        masks = torch.cat(
            [
                block_masks([2 * s + view for s in seeds], side, self.settings.masks)
                for view in range(2)
            ]
        )
        return Views((wide - mean) / std, (narrow - mean) / std, masks.to(images.device))

    @torch.no_grad()
    def answer(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits: [2 B, K] of global crops, [M, K] of their masked patches.

        The teacher sees every patch.
        """
        cls, patches = self.teacher.features(views.wide)
        return self.teacher.cls_head(cls), self.teacher.patch_head(patches[views.masks])

    def targets(
        self,
        answers: Sequence[tuple[Tensor, Tensor]],
        temperature: float,
        group: dist.ProcessGroup | None = None,
    ) -> list[Targets]:
        """Balance the teacher's logits of all microbatches together."""
        cls, patches = (torch.cat(column) for column in zip(*answers, strict=True))
        if self.settings.balancing == "sinkhorn":
            cls = sinkhorn(cls, temperature, group=group)
            patches = sinkhorn(patches, temperature, group=group)
        else:
            cls = self.cls_center(cls, temperature, group)
            patches = self.patch_center(patches, temperature, group)
        rows = [len(of_cls) for of_cls, _ in answers]
        mask_counts = [len(of_patches) for _, of_patches in answers]
        parts = zip(torch.split(cls, rows), torch.split(patches, mask_counts), strict=True)
        return [Targets(torch.stack(of_cls.chunk(2)), of_patches) for of_cls, of_patches in parts]

    def forward(
        self, views: Views, targets: Targets, group: dist.ProcessGroup | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and its terms for the log; with a group, average both over processes.

        cls: mean cross-entropy over pairs of a teacher's global crop and another crop of the same
        image. patch: cross-entropy of masked patches; those of one crop weigh 1 together.
        information: bits that a global crop carries about the student's prototype,
        H(mean p) - mean H(p); 0 if the features have collapsed, to one prototype or to uniform.
        """
        settings = self.settings
        wide_cls, patches = self.student.features(views.wide, views.masks)
        narrow_cls, _ = self.student.features(views.narrow)
        images = targets.cls.shape[1]
        wide = torch.stack(self.student.cls_head(wide_cls).split(images))
        narrow = torch.stack(self.student.cls_head(narrow_cls).split(images))
        temperature = settings.student_temperature
        across = distillation_loss(wide, targets.cls.flip(0), temperature)
        inward = distillation_loss(narrow.unsqueeze(0), targets.cls.unsqueeze(1), temperature)
        pairs = len(across) + inward.shape[0] * inward.shape[1]
        cls = (across.sum(dim=0) + inward.sum(dim=(0, 1))).mean() / pairs

        weight = 1 / views.masks.sum(dim=1, keepdim=True).clamp_min(1)
        weight = weight.expand_as(views.masks)[views.masks]
        patch = distillation_loss(
            self.student.patch_head(patches[views.masks]), targets.patches, temperature
        )
        patch = (patch * weight).sum() / len(views.masks)
        loss = cls + settings.patch_weight * patch
        parts = {
            "cls": cls,
            "patch": patch,
            "information": information(wide.detach(), temperature),
        }
        if settings.koleo_weight and (images > 1 or group is not None):
            koleo = torch.stack([koleo_loss(part, group) for part in wide_cls.chunk(2)]).mean()
            loss = loss + settings.koleo_weight * koleo
            parts["koleo"] = koleo
        return loss, {name: float(value.detach()) for name, value in parts.items()}

    def frozen_parameters(self, progress: float) -> Iterator[nn.Parameter]:
        """Yield the parameters whose gradients are dropped at a progress in [0, 1]."""
        if progress < self.settings.frozen_share:
            for head in (self.student.cls_head, self.student.patch_head):
                yield from head.prototypes.parameters()

    def move_teacher(self, progress: float) -> None:
        """Update the teacher, after the optimizer's step."""
        ema_update(self.teacher, self.student, self.settings.momentum_at(progress))


def information(logits: Tensor, temperature: float) -> Tensor:
    """Mutual information of sample and prototype in bits, of logits [..., K]; 0 to log2 K."""
    p = (logits.float().flatten(0, -2) / temperature).softmax(dim=-1)

    def entropy(q: Tensor) -> Tensor:
        nats: Tensor = torch.special.entr(q)
        return nats.sum(dim=-1) / math.log(2)

    return entropy(p.mean(dim=0)) - entropy(p).mean()
