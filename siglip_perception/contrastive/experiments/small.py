"""A small two-tower model and small scenes for it: trained in a minute, on one core."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from siglip_perception.contrastive.scenes import render, sample_scene
from siglip_perception.contrastive.vocabulary import COLORS, KINDS
from siglip_perception.types import UInt8Array

WIDTH, HEIGHT = 64, 48
OBJECTS = 2
_WORDS = {word: number for number, word in enumerate((*COLORS, *KINDS))}


@dataclass(frozen=True)
class SmallPairs:
    """N scenes of two objects. images: float32 [N, 3, 48, 64] about zero; words: int64 [N, 4]:
    colour, kind, colour, kind, the objects in alphabetical order.
    """

    images: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.images)


def small_pairs(count: int, seed: int, distinct: bool = False) -> SmallPairs:
    """Scenes of a seed; with `distinct` no two have the same caption."""
    images: list[UInt8Array] = []
    words: list[tuple[int, ...]] = []
    seen: set[tuple[int, ...]] = set()
    number = 0
    bar = tqdm(total=count, unit="scene", desc="scenes", disable=not sys.stderr.isatty())
    while len(images) < count:
        rng = np.random.default_rng((seed, number))
        number += 1
        scene = sample_scene(rng, OBJECTS)
        named = sorted((item.color, item.kind) for item in scene.objects)
        caption = tuple(_WORDS[word] for pair in named for word in pair)
        if distinct and caption in seen:
            continue
        seen.add(caption)
        picture = render(scene, 2 * WIDTH, 2 * HEIGHT).image
        image: Any = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        images.append(image)
        words.append(caption)
        bar.update()
    bar.close()
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return SmallPairs((stacked - 127.5) / 64, torch.tensor(words))


class SmallTowers(nn.Module):
    """A convolutional image tower and a text tower over the four words, both to unit length.

    t = exp(t') and b are learned, from 10 and -10 as in SigLIP; the softmax does not use b.
    """

    def __init__(self, seed: int, dim: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        widths = (3, 24, 48, 96, 96)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(4, wide)]
            layers += [nn.GELU()]
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 3 * 4, dim))
        self.embed = nn.Embedding(len(_WORDS), dim)
        self.phrase = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU())
        self.text = nn.Linear(2 * dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def embed_images(self, images: Tensor) -> Tensor:
        return functional.normalize(self.image(images), dim=-1)

    def embed_words(self, words: Tensor) -> Tensor:
        """[N, 4] -> [N, dim]: each (colour, kind) by itself, then their sum."""
        pairs = self.embed(words).unflatten(1, (OBJECTS, 2)).flatten(2)
        return functional.normalize(self.text(self.phrase(pairs).sum(dim=1)), dim=-1)


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Images, texts, t, b -> the loss of these pairs."""


def train(
    model: SmallTowers, pairs: SmallPairs, loss: Loss, steps: int, batch: int, seed: int, name: str
) -> None:
    """AdamW with warm-up and cosine; every run of a seed sees the same pairs in each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(steps), unit="step", desc=name, disable=not sys.stderr.isatty())
    for _ in bar:
        chosen = torch.randint(len(pairs), (batch,), generator=generator)
        image = model.embed_images(pairs.images[chosen])
        text = model.embed_words(pairs.words[chosen])
        value = loss(image, text, model.log_scale.exp(), model.bias)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(value.detach()):.3f}")


@torch.no_grad()
def retrieval(model: SmallTowers, pairs: SmallPairs) -> float:
    """Share of images and of texts whose own partner is nearest among all: R@1, both ways."""
    similarity = model.embed_images(pairs.images) @ model.embed_words(pairs.words).T
    right = torch.arange(len(pairs))
    by_image = (similarity.argmax(dim=1) == right).float().mean()
    by_text = (similarity.argmax(dim=0) == right).float().mean()
    return float(by_image + by_text) / 2
