"""What different training signals teach one and the same encoder, on the same scenes.

A small vision transformer is trained from the same random weights, on as many images, by

    contrastive     SigLIP's loss of whole images and their captions: what is in the picture
    affinity        which patches show the same thing, by the generator's masks
    self-distilled  DINO's, iBOT's and DINOv2's signal: images alone

and then frozen. Linear probes ask its patches for the color and the kind of the object they show,
for their place, and whether they show an object at all; the cosines of patches are asked whether
two of them show the same object. Untrained weights and raw pixels say what comes for nothing; the
packaged model's two encoders, trained for much longer, stand beside.
"""

from __future__ import annotations

import sys
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
from siglip_perception.experiments.patch_features import Eyes, SeenScene
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
"""Of which "object or table" is asked of as many patches of the one as of the other."""


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
    """Render and squash to the encoder's square."""
    images, coverage = [], []
    for scene in tqdm(scenes, unit="scene", desc="scenes", disable=not sys.stderr.isatty()):
        one = render(scene, 160, 120)
        squashed = cv2.resize(one.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        images.append(np.asarray(squashed, dtype=np.float32) / 255)
        masks = [
            cv2.resize(
                (one.instances == number).astype(np.float32),
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
    """Four blocks of 128 channels: 0.9 M parameters."""
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


def narrow() -> torch.autocast:
    """Products in bfloat16 where that is faster, as the trainer has them."""
    return torch.autocast("cpu", torch.bfloat16, enabled=not without_bf16(torch.device("cpu")))


def normalized(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


class Contrastive(nn.Module):
    """SigLIP: the mean of the patches against the caption."""

    def __init__(self, encoder: Dinov2WithRegistersModel, batch: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(_WIDTH, _WIDTH)
        self.text = SmallText(_WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(-torch.tensor(float(batch)).log())

    def forward(self, given: Pictures, chosen: Tensor, progress: float) -> Tensor:
        with narrow():
            hidden = self.encoder(normalized(given.images[chosen])).last_hidden_state
        pooled = self.head(hidden[:, 1 + _REGISTERS :].mean(dim=1)).float()
        image = functional.normalize(pooled, dim=-1)
        text = self.text(given.words[chosen])
        return sigmoid_loss(image, text, self.log_scale.exp(), self.bias, chunk_size=len(image))


class Affinity(nn.Module):
    """The generator's masks: do two patches show the same thing?"""

    def __init__(self, encoder: Dinov2WithRegistersModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, given: Pictures, chosen: Tensor, progress: float) -> Tensor:
        with narrow():
            hidden = self.encoder(normalized(given.images[chosen])).last_hidden_state
        patches = functional.normalize(hidden[:, 1 + _REGISTERS :].float(), dim=-1)
        objects = given.coverage[chosen]
        background = (1 - objects.sum(dim=-1, keepdim=True)).clamp_min(0)
        coverage = torch.cat([objects, background], dim=-1)
        return affinity_loss(patches, coverage, self.log_scale.exp(), self.bias)


class SelfDistilled(nn.Module):
    """Images alone; what is kept is the teacher."""

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

    def forward(self, given: Pictures, chosen: Tensor, progress: float) -> Tensor:
        seeds = [int(n) + round(1e6 * progress) * len(given.scenes) for n in chosen]
        views = self.distillation.views(
            given.images[chosen], seeds, torch.tensor(0.5), torch.tensor(0.25)
        )
        temperature = self.distillation.settings.teacher_temperature_at(progress)
        with narrow():
            answers = self.distillation.answer(views)
        targets = self.distillation.targets([answers], temperature)
        with narrow():
            loss: Tensor = self.distillation(views, targets[0])[0]
        return loss


Signal = Contrastive | Affinity | SelfDistilled


def train(signal: Signal, given: Pictures, steps: int, batch: int, seed: int, name: str) -> float:
    """The same images in the same order for every signal; the last loss."""
    learned = [p for p in signal.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.04)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    signal.train()
    value: Any = torch.zeros(())
    bar = tqdm(range(steps), unit="step", desc=name, disable=not sys.stderr.isatty())
    for step in bar:
        chosen = torch.randint(len(given.images), (batch,), generator=generator)
        progress = step / steps
        value = signal(given, chosen, progress)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if isinstance(signal, SelfDistilled):
            for parameter in signal.distillation.still_parameters(progress):
                parameter.grad = None
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        if isinstance(signal, SelfDistilled):
            signal.distillation.move_teacher(progress)
        bar.set_postfix(loss=f"{float(value.detach()):.3f}")
    return float(value.detach())


@torch.no_grad()
def patch_features(encoder: Dinov2WithRegistersModel, images: Tensor) -> Tensor:
    """Frozen patches [M, N, D]."""
    encoder.eval()
    parts = [
        encoder(normalized(part)).last_hidden_state[:, 1 + _REGISTERS :]
        for part in torch.split(images, 64)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Sample:
    """Patches [M, N, D] of M scenes, with what they show: coverage [M, N, K] and names."""

    patches: Tensor
    coverage: Tensor
    names: Sequence[Sequence[tuple[str, str]]]

    def objects(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean patch [P, D] of every object that is seen, with its color's and kind's number."""
        weight = self.coverage / self.coverage.sum(dim=1, keepdim=True).clamp_min(1e-6)
        means = weight.transpose(1, 2) @ self.patches
        there = self.coverage.sum(dim=1) > 0.5
        named = [name for names in self.names for name in names]
        shown = there.flatten()
        colors, kinds = list(COLOR_WORDS), list(KINDS)
        numbers = torch.tensor([(colors.index(c), kinds.index(k)) for c, k in named])[shown]
        return means.flatten(0, 1)[shown], numbers[:, 0], numbers[:, 1]


def probe(train: Sample, test: Sample) -> dict[str, Value]:
    """What linear probes on the one find on the other; each of PROBES in per cent."""
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


def halves(sample: Sample) -> tuple[Tensor, Tensor]:
    """As many patches that show an object as do not, [P, D], and which of them do, int64 [P]."""
    is_object = (sample.coverage.sum(dim=-1) > 0.5).flatten()
    generator = torch.Generator().manual_seed(0)
    sides = [part.nonzero().ravel() for part in (is_object, ~is_object)]
    count = min(map(len, sides))
    chosen = torch.cat([s[torch.randperm(len(s), generator=generator)[:count]] for s in sides])
    return sample.patches.flatten(0, 1)[chosen], is_object[chosen].long()


def place_probe(train: Tensor, test: Tensor) -> float:
    """R2 of a linear map from a patch to its row and column, on the test's patches."""
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
    """Train by each signal, then probe them all on the same scenes."""
    steps, batch = (4, 8) if options.quick else (200, 32)
    counts = (32, 24, 16) if options.quick else (2000, 150, 120)
    rngs = (np.random.default_rng((options.seed + 41_000, i)) for i in range(sum(counts)))
    scenes = [sample_scene(rng, OBJECTS) for rng in rngs]
    ends = (counts[0], counts[0] + counts[1])
    training, known, test = (
        pictures(part)
        for part in (scenes[: ends[0]], scenes[ends[0] : ends[1]], scenes[ends[1] :])
    )
    rows: list[dict[str, Value]] = []

    def report(name: str, source: str, samples: Sequence[Sample]) -> None:
        row: dict[str, Value] = {"features": name, "learned from": source}
        rows.append(row | probe(*samples))
        print(", ".join(f"{k} {v:.0f}" if k in PROBES else f"{v}" for k, v in rows[-1].items()))

    asked = (known, test)
    report("raw pixels", "nothing", [_sample(raw_patches(p.images), p) for p in asked])
    untrained = new_encoder(options.seed)
    report(
        "untrained", "nothing", [_sample(patch_features(untrained, p.images), p) for p in asked]
    )
    signals: dict[str, tuple[str, Callable[[], Signal]]] = {
        "contrastive": ("captions", lambda: Contrastive(new_encoder(options.seed), batch)),
        "affinity": ("masks", lambda: Affinity(new_encoder(options.seed))),
        "self-distilled": ("images alone", lambda: SelfDistilled(new_encoder(options.seed))),
    }
    for name, (source, make) in signals.items():
        signal = make()
        train(signal, training, steps, batch, options.seed, name)
        trained = signal.encoder
        report(name, source, [_sample(patch_features(trained, p.images), p) for p in asked])
    eyes = Eyes(options.model)
    seen = [eyes.look(p.scenes, "the model's own") for p in asked]
    model = Path(options.model).name
    for feature, name in (("siglip", "SigLIP"), ("dino", "DINOv2")):
        samples = [_sample_of_seen(part, feature) for part in seen]
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
    """[M, 3, S, S] -> each patch's own pixels [M, N, 3 P P]."""
    return functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def _sample(patches: Tensor, given: Pictures) -> Sample:
    names = [[(o.color, o.kind) for o in scene.objects] for scene in given.scenes]
    return Sample(patches, given.coverage, names)


def _sample_of_seen(seen: Sequence[SeenScene], feature: str) -> Sample:
    return Sample(
        torch.stack([getattr(one, feature) for one in seen]),
        torch.stack([one.coverage for one in seen]),
        [one.names for one in seen],
    )


def _findings(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    own = {str(row["features"]): row for row in rows[:5]}

    def ranked(probe: str) -> str:
        names = sorted(own, key=lambda name: -float(own[name][probe] or 0))
        return ", ".join(f"{name} {own[name][probe]:.0f}" for name in names)

    return [
        "Of one encoder after the same number of images, and of what comes for nothing:",
        *(f"{name}: {ranked(name)}." for name in PROBES),
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
