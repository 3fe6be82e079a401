"""A small two-tower model and small scenes, which train in a minute on one core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from siglip_perception.scenes.scenes import Scene, render, sample_scene
from siglip_perception.scenes.vocabulary import COLORS, KINDS
from siglip_perception.types import UInt8Array

WIDTH, HEIGHT = 64, 48
OBJECTS = 2
WORDS = {word: number for number, word in enumerate((*COLORS, *KINDS))}


@dataclass(frozen=True)
class SmallPairs:
    """N scenes of two objects. images: float32 [N, 3, 48, 64] about zero; words: int64 [N, 4]."""

    images: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.images)


def caption_of(scene: Scene) -> tuple[int, ...]:
    """Word numbers of the caption: color, kind, color, kind, objects in alphabetical order."""
    color_kinds = sorted((item.color, item.kind) for item in scene.objects)
    return tuple(WORDS[word] for pair in color_kinds for word in pair)


def small_pairs(count: int, seed: int, distinct: bool = False) -> SmallPairs:
    """Generate scenes from a seed. distinct: no two with the same caption."""
    images: list[UInt8Array] = []
    words: list[tuple[int, ...]] = []
    captions: set[tuple[int, ...]] = set()
    number = 0
    bar = tqdm(total=count, unit="scene", desc="scenes", disable=None)
    while len(images) < count:
        rng = np.random.default_rng((seed, number))
        number += 1
        scene = sample_scene(rng, OBJECTS)
        caption = caption_of(scene)
        if distinct and caption in captions:
            continue
        captions.add(caption)
        picture = render(scene, 2 * WIDTH, 2 * HEIGHT).image
        image: Any = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        images.append(image)
        words.append(caption)
        bar.update()
    bar.close()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return SmallPairs((pixels - 127.5) / 64, torch.tensor(words))


class SmallText(nn.Module):
    """Text tower: words int64 [N, 4] -> unit [N, dim], the sum over (color, kind) embeddings."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), dim)
        self.phrase = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU())
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, words: Tensor) -> Tensor:
        pairs = self.words(words).unflatten(1, (OBJECTS, 2)).flatten(2)
        return functional.normalize(self.out(self.phrase(pairs).sum(dim=1)), dim=-1)


class SmallTowers(nn.Module):
    """A convolutional image tower and a text tower, both with unit-length outputs.

    t = exp(t') and b are learned. t starts at 10 as in SigLIP, b at log(1 / group_size), the log
    share of matching pairs, as SigLIP's -10 is for batches of 32k. The softmax does not use b.
    """

    def __init__(self, seed: int, group_size: int, dim: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        # Patches of 4 pixels, then twice half the resolution: 16 x 12, 8 x 6, 4 x 3.
        for channels_in, channels_out, size in ((3, 48, 4), (48, 96, 3), (96, 128, 3)):
            layers += [
                nn.Conv2d(
                    channels_in, channels_out, size, stride=4 if size == 4 else 2, padding=size % 2
                )
            ]
            layers += [nn.GroupNorm(4, channels_out), nn.GELU()]
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 3 * 4, dim))
        self.text = SmallText(dim)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(-torch.tensor(float(group_size)).log())

    def embed_images(self, images: Tensor) -> Tensor:
        return functional.normalize(self.image(images), dim=-1)


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Maps images, texts, t and b to the loss of these pairs."""


def train(
    model: SmallTowers, pairs: SmallPairs, loss: Loss, steps: int, batch: int, seed: int, name: str
) -> None:
    """Train by AdamW with warm-up and cosine; equal seeds see the same pairs in each step."""
    scale_and_bias = [model.log_scale, model.bias]
    towers = [p for p in model.parameters() if all(p is not scalar for scalar in scale_and_bias)]
    optimizer = torch.optim.AdamW(
        [{"params": towers, "weight_decay": 0.01}, {"params": scale_and_bias, "weight_decay": 0.0}]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[2e-3, 1e-2], total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(steps), unit="step", desc=name, disable=None)
    for _ in bar:
        indices = torch.randint(len(pairs), (batch,), generator=generator)
        image = model.embed_images(pairs.images[indices])
        text = model.text(pairs.words[indices])
        value = loss(image, text, model.log_scale.exp(), model.bias)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(value.detach()):.3f}")


@torch.no_grad()
def retrieval(model: SmallTowers, pairs: SmallPairs) -> float:
    """R@1: share of images and texts whose partner is nearest among all, mean of both ways."""
    similarity = model.embed_images(pairs.images) @ model.text(pairs.words).T
    labels = torch.arange(len(pairs))
    by_image = (similarity.argmax(dim=1) == labels).float().mean()
    by_text = (similarity.argmax(dim=0) == labels).float().mean()
    return float(by_image + by_text) / 2
