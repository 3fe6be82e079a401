"""Compare what different training signals teach the same encoder, on the same scenes.

A small vision transformer is trained from the same random weights, on the same number of images,
by

    contrastive     SigLIP's loss of whole images and their captions: what is in the picture
    affinity        which patches show the same thing, by the generator's masks
    self-distilled  DINO's, iBOT's and DINOv2's signal: images alone

and then frozen. Linear probes predict from its patches the color and kind of their object, their
position, and whether they show an object at all; patch cosines have to tell whether two patches
show the same object. Untrained weights and raw pixels are the baselines; the packaged model's two
encoders, trained for much longer, are shown for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from siglip_perception.backends import without_bf16
from siglip_perception.contrastive.data.crops import CropSettings
from siglip_perception.contrastive.losses.losses import affinity_loss, sigmoid_loss
from siglip_perception.contrastive.objectives.dino import DinoSettings, SelfDistillation
from siglip_perception.evaluation.linear_probe import affinity_auroc, linear_probe
from siglip_perception.experiments.patch_features import EncodedScene, SceneEncoder
from siglip_perception.experiments.report import (
    COLORS,
    INK,
    Options,
    Outcome,
    Value,
    new_figure,
)
from siglip_perception.experiments.toy_model import OBJECTS, SmallText, caption_of
from siglip_perception.scenes.scenes import Scene, render, sample_scene
from siglip_perception.scenes.vocabulary import COLORS as COLOR_WORDS
from siglip_perception.scenes.vocabulary import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, PATCH = 112, 14
SIDE = SIZE // PATCH
_REGISTERS = 4
_WIDTH = 128
PROBES = ("color, %", "kind, %", "place, R2 %", "object or table, %", "same object, AUROC %")
"""Names of the probes; "object or table" uses equal numbers of both kinds of patch."""


@dataclass(frozen=True)
class Pictures:
    """M scenes of two objects.

    images: float32 [M, 3, 112, 112] in [0, 1]. coverage: float32 [M, N, 2]. words: int64 [M, 4].
    """

    images: Tensor
    coverage: Tensor
    words: Tensor
    scenes: Sequence[Scene]


def pictures(scenes: Sequence[Scene]) -> Pictures:
    """Render scenes and squash them to the encoder's square."""
    images, coverage = [], []
    for scene in tqdm(scenes, unit="scene", desc="scenes", disable=None):
        rendering = render(scene, 160, 120)
        square = cv2.resize(rendering.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        images.append(np.asarray(square, dtype=np.float32) / 255)
        masks = [
            cv2.resize(
                (rendering.instances == number).astype(np.float32),
                (SIDE, SIDE),
                interpolation=cv2.INTER_AREA,
            ).ravel()
            for number in range(1, OBJECTS + 1)
        ]
        coverage.append(np.stack(masks, axis=1))
    return Pictures(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(coverage)),
        torch.tensor([caption_of(scene) for scene in scenes]),
        scenes,
    )


def new_encoder(seed: int) -> Dinov2WithRegistersModel:
    """Create a transformer of four blocks and 128 channels: 0.9 M parameters."""
    torch.manual_seed(seed)
    config = Dinov2WithRegistersConfig(
        hidden_size=_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=4,
        image_size=SIZE,
        patch_size=PATCH,
        num_register_tokens=_REGISTERS,
        attn_implementation="eager",
    )
    return Dinov2WithRegistersModel(config)


def bf16_autocast() -> torch.autocast:
    """Use bfloat16 products if they are faster, as the trainer does."""
    return torch.autocast("cpu", torch.bfloat16, enabled=not without_bf16(torch.device("cpu")))


def normalize(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


class ContrastiveSignal(nn.Module):
    """SigLIP's loss of mean-pooled patches against captions."""

    def __init__(self, encoder: Dinov2WithRegistersModel, batch: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(_WIDTH, _WIDTH)
        self.text = SmallText(_WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(-torch.tensor(float(batch)).log())

    def forward(self, pictures: Pictures, indices: Tensor, progress: float) -> Tensor:
        with bf16_autocast():
            tokens = self.encoder(normalize(pictures.images[indices])).last_hidden_state
        mean_feature = self.head(tokens[:, 1 + _REGISTERS :].mean(dim=1)).float()
        image = functional.normalize(mean_feature, dim=-1)
        text = self.text(pictures.words[indices])
        return sigmoid_loss(image, text, self.log_scale.exp(), self.bias, chunk_size=len(image))


class AffinitySignal(nn.Module):
    """Affinity loss: two patches match if they show the same thing, by the generator's masks."""

    def __init__(self, encoder: Dinov2WithRegistersModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, pictures: Pictures, indices: Tensor, progress: float) -> Tensor:
        with bf16_autocast():
            tokens = self.encoder(normalize(pictures.images[indices])).last_hidden_state
        patches = functional.normalize(tokens[:, 1 + _REGISTERS :].float(), dim=-1)
        objects = pictures.coverage[indices]
        background = (1 - objects.sum(dim=-1, keepdim=True)).clamp_min(0)
        coverage = torch.cat([objects, background], dim=-1)
        return affinity_loss(patches, coverage, self.log_scale.exp(), self.bias)


class DistillationSignal(nn.Module):
    """Self-distillation from images alone; the teacher is the encoder to keep."""

    def __init__(self, encoder: Dinov2WithRegistersModel) -> None:
        super().__init__()
        settings = DinoSettings(
            global_crops=CropSettings(patches=6, count=2, scale=(0.3, 0.9)),
            local_crops=CropSettings(patches=3, count=2, scale=(0.08, 0.3)),
            prototypes=256,
            hidden=256,
            bottleneck=64,
            momentum=0.98,
        )
        self.distillation = SelfDistillation(encoder, settings)

    @property
    def encoder(self) -> Dinov2WithRegistersModel:
        return self.distillation.teacher.backbone

    def forward(self, pictures: Pictures, indices: Tensor, progress: float) -> Tensor:
        seeds = [int(n) + round(1e6 * progress) * len(pictures.scenes) for n in indices]
        views = self.distillation.views(
            pictures.images[indices], seeds, torch.tensor(0.5), torch.tensor(0.25)
        )
        temperature = self.distillation.settings.teacher_temperature_at(progress)
        with bf16_autocast():
            answers = self.distillation.answer(views)
        targets = self.distillation.targets([answers], temperature)
        with bf16_autocast():
            loss: Tensor = self.distillation(views, targets[0])[0]
        return loss


Signal = ContrastiveSignal | AffinitySignal | DistillationSignal


def train(
    signal: Signal, pictures: Pictures, steps: int, batch: int, seed: int, name: str
) -> float:
    """Train on the same images in the same order for every signal; return the last loss."""
    trainable = [p for p in signal.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.04)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    signal.train()
    value: Any = torch.zeros(())
    bar = tqdm(range(steps), unit="step", desc=name, disable=None)
    for step in bar:
        indices = torch.randint(len(pictures.images), (batch,), generator=generator)
        progress = step / steps
        value = signal(pictures, indices, progress)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if isinstance(signal, DistillationSignal):
            for parameter in signal.distillation.frozen_parameters(progress):
                parameter.grad = None
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        if isinstance(signal, DistillationSignal):
            signal.distillation.move_teacher(progress)
        bar.set_postfix(loss=f"{float(value.detach()):.3f}")
    return float(value.detach())


@torch.no_grad()
def patch_features(encoder: Dinov2WithRegistersModel, images: Tensor) -> Tensor:
    """Encode images to patches [M, N, D] with the frozen encoder."""
    encoder.eval()
    parts = [
        encoder(normalize(part)).last_hidden_state[:, 1 + _REGISTERS :]
        for part in torch.split(images, 64)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class PatchSet:
    """Patches [M, N, D] of M scenes, with ground truth: coverage [M, N, K] and names."""

    patches: Tensor
    coverage: Tensor
    names: Sequence[Sequence[tuple[str, str]]]

    def objects(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean patch [P, D] of every visible object, with the numbers of its color and kind."""
        weight = self.coverage / self.coverage.sum(dim=1, keepdim=True).clamp_min(1e-6)
        means = weight.transpose(1, 2) @ self.patches
        visible = self.coverage.sum(dim=1) > 0.5
        object_names = [name for names in self.names for name in names]
        is_visible = visible.flatten()
        colors, kinds = list(COLOR_WORDS), list(KINDS)
        numbers = torch.tensor([(colors.index(c), kinds.index(k)) for c, k in object_names])[
            is_visible
        ]
        return means.flatten(0, 1)[is_visible], numbers[:, 0], numbers[:, 1]


def probe(train: PatchSet, test: PatchSet) -> dict[str, Value]:
    """Fit linear probes on `train` and score them on `test`: each of PROBES in percent."""
    train_means, train_colors, train_kinds = train.objects()
    test_means, test_colors, test_kinds = test.objects()
    (train_half, train_is_object), (test_half, test_is_object) = halves(train), halves(test)
    shares = (
        linear_probe(train_means, train_colors, test_means, test_colors),
        linear_probe(train_means, train_kinds, test_means, test_kinds),
        place_probe(train.patches, test.patches),
        linear_probe(train_half, train_is_object, test_half, test_is_object),
        affinity_auroc(test.patches, test.coverage),
    )
    return {name: 100 * share for name, share in zip(PROBES, shares, strict=True)}


def halves(sample: PatchSet) -> tuple[Tensor, Tensor]:
    """Balance patches with and without an object: features [P, D] and labels int64 [P]."""
    is_object = (sample.coverage.sum(dim=-1) > 0.5).flatten()
    generator = torch.Generator().manual_seed(0)
    sides = [part.nonzero().ravel() for part in (is_object, ~is_object)]
    count = min(map(len, sides))
    indices = torch.cat([s[torch.randperm(len(s), generator=generator)[:count]] for s in sides])
    return sample.patches.flatten(0, 1)[indices], is_object[indices].long()


def place_probe(train: Tensor, test: Tensor) -> float:
    """R2 on test patches of a linear map from a patch to its row and column."""
    side = int(train.shape[1] ** 0.5)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack([rows, columns], dim=-1).flatten(0, 1).double()
    place = (place - place.mean(dim=0)) / place.std(dim=0, unbiased=False)
    mean, std = train.mean(dim=(0, 1)), train.std(dim=(0, 1)).clamp_min(1e-6)

    def columns_of(patches: Tensor) -> Tensor:
        return ((patches - mean) / std).double().flatten(0, 1)

    a = columns_of(train)
    penalty = 1e-2 * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    weights = torch.linalg.solve(a.T @ a + penalty, a.T @ place.repeat(len(train), 1))
    error = columns_of(test) @ weights - place.repeat(len(test), 1)
    return float(1 - error.square().mean())


def run(options: Options) -> Outcome:
    """Train by each signal, then probe all encoders on the same scenes."""
    steps, batch = (4, 8) if options.quick else (200, 32)
    counts = (32, 24, 16) if options.quick else (2000, 150, 120)
    rngs = (np.random.default_rng((options.seed + 41_000, i)) for i in range(sum(counts)))
    scenes = [sample_scene(rng, OBJECTS) for rng in rngs]
    ends = (counts[0], counts[0] + counts[1])
    training, probe_pictures, test_pictures = (
        pictures(part)
        for part in (scenes[: ends[0]], scenes[ends[0] : ends[1]], scenes[ends[1] :])
    )
    rows: list[dict[str, Value]] = []

    def report(name: str, source: str, samples: Sequence[PatchSet]) -> None:
        row: dict[str, Value] = {"features": name, "learned from": source}
        rows.append(row | probe(*samples))
        print(", ".join(f"{k} {v:.0f}" if k in PROBES else f"{v}" for k, v in rows[-1].items()))

    probe_sets = (probe_pictures, test_pictures)
    report("raw pixels", "nothing", [_patch_set(raw_patches(p.images), p) for p in probe_sets])
    untrained_encoder = new_encoder(options.seed)
    report(
        "untrained",
        "nothing",
        [_patch_set(patch_features(untrained_encoder, p.images), p) for p in probe_sets],
    )
    signals: dict[str, tuple[str, Callable[[], Signal]]] = {
        "contrastive": ("captions", lambda: ContrastiveSignal(new_encoder(options.seed), batch)),
        "affinity": ("masks", lambda: AffinitySignal(new_encoder(options.seed))),
        "self-distilled": ("images alone", lambda: DistillationSignal(new_encoder(options.seed))),
    }
    for name, (source, make) in signals.items():
        signal = make()
        train(signal, training, steps, batch, options.seed, name)
        encoder = signal.encoder
        report(
            name, source, [_patch_set(patch_features(encoder, p.images), p) for p in probe_sets]
        )
    scene_encoder = SceneEncoder(options.model)
    encoded_sets = [scene_encoder.encode(p.scenes, "the model's own") for p in probe_sets]
    model = Path(options.model).name
    for feature, name in (("siglip", "SigLIP"), ("dino", "DINOv2")):
        samples = [_patch_set_of(part, feature) for part in encoded_sets]
        report(f"{model}'s {name}", "its own recipe", samples)
    settings = {
        "model": options.model,
        "steps": steps,
        "images a step": batch,
        "training scenes": counts[0],
        "probe's scenes": counts[1],
        "unseen scenes": counts[2],
        "seed": options.seed,
    }
    return Outcome(settings, rows, _findings(rows), _plot(rows))


def raw_patches(images: Tensor) -> Tensor:
    """Cut images [M, 3, S, S] into the raw pixels of each patch [M, N, 3 P P]."""
    return functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def _patch_set(patches: Tensor, pictures: Pictures) -> PatchSet:
    names = [[(o.color, o.kind) for o in scene.objects] for scene in pictures.scenes]
    return PatchSet(patches, pictures.coverage, names)


def _patch_set_of(scenes: Sequence[EncodedScene], feature: str) -> PatchSet:
    return PatchSet(
        torch.stack([getattr(scene, feature) for scene in scenes]),
        torch.stack([scene.coverage for scene in scenes]),
        [scene.names for scene in scenes],
    )


def _findings(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    row_by_name = {str(row["features"]): row for row in rows[:5]}

    def ranking(probe: str) -> str:
        names = sorted(row_by_name, key=lambda name: -float(row_by_name[name][probe] or 0))
        return ", ".join(f"{name} {row_by_name[name][probe]:.0f}" for name in names)

    return [
        "The same encoder after the same number of images, with baselines:",
        *(f"{name}: {ranking(name)}." for name in PROBES),
    ]


def _plot(rows: Sequence[Mapping[str, Value]]) -> Figure:
    figure, axes = new_figure(11, 4)
    axis = axes[0, 0]
    colors = ("#d1d5db", "#9ca3af", *COLORS)
    width = 0.84 / len(rows)
    for number, row in enumerate(rows):
        shares = [float(row[name] or 0) for name in PROBES]
        places = [x + (number - (len(rows) - 1) / 2) * width for x in range(len(PROBES))]
        label = f"{row['features']} ({row['learned from']})"
        bars = axis.bar(places, shares, 0.92 * width, color=colors[number], label=label)
        axis.bar_label(bars, fmt="%.0f", fontsize=7, color=INK)
    axis.set_xticks(range(len(PROBES)), PROBES)
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0, 135)
    axis.set_yticks(range(0, 101, 25))
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="upper left")
    axis.set_title("What a linear probe finds in frozen patches of unseen scenes")
    return figure
