"""Zero-shot figures of a model on pairs kept apart: retrieval both ways, and classification."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from siglip_perception.datasets.texts import decode_text
from siglip_perception.errors import PerceptionError

TEMPLATES = ("{}", "a photo of a {}")


def recall(similarity: Tensor, right: Tensor, ranks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Share of rows that have a right column among their best k, for each k.

    similarity: float [N, M]; right: bool [N, M], any number in a row. Rows with none are left out,
    and a column that ties with the best right one counts as ahead of it.
    """
    rows = right.any(dim=1)
    similarity, right = similarity[rows], right[rows]
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((similarity >= best) & ~right).sum(dim=1)
    return {k: float((ahead < k).float().mean()) for k in ranks}


def retrieval_figures(image: Tensor, text: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """R@1 and R@5, text to image and image to text; equal captions are right for each other.

    image, text: float [N, d], of unit length. Texts are taken once each.
    """
    numbers: dict[str, int] = {}
    ids = torch.tensor([numbers.setdefault(c.casefold(), len(numbers)) for c in captions])
    firsts = torch.tensor([(ids == n).nonzero()[0, 0] for n in range(len(numbers))])
    similarity = (image @ text[firsts].T).cpu()
    right = ids[:, None] == torch.arange(len(numbers))
    figures = {f"image_to_text_r{k}": v for k, v in recall(similarity, right).items()}
    return figures | {f"text_to_image_r{k}": v for k, v in recall(similarity.T, right.T).items()}


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line; PerceptionError for fewer than two."""
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PerceptionError(f"The classes in {path} cannot be read ({error}).") from error
    names = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(names) < 2:
        raise PerceptionError(f"{path} has to name two classes or more, one a line.")
    return names


def labels_of(captions: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """The class that each caption names; None where it names none, or several.

    A class that is part of a longer one that is named does not count: "cup" in "paper cup".
    """
    longest = sorted(classes, key=len, reverse=True)
    # No letter right before; what follows may be a plural or a Korean particle.
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name.casefold())}" for name in longest))
    number = {name.casefold(): n for n, name in enumerate(classes)}
    found = [set(pattern.findall(caption.casefold())) for caption in captions]
    return [number[next(iter(names))] if len(names) == 1 else None for names in found]


def classification_figures(
    image: Tensor, class_text: Tensor, labels: Sequence[int | None]
) -> dict[str, float]:
    """Zero-shot accuracy over the images that have a label, and how many they are.

    image: float [N, d]; class_text: float [C, d], of unit length, the mean over templates.
    """
    kept = [n for n, label in enumerate(labels) if label is not None]
    if not kept:
        return {"classified": 0.0}
    truth = torch.tensor([labels[n] for n in kept])
    right = truth[:, None] == torch.arange(len(class_text))
    tops = recall((image[kept] @ class_text.T).cpu(), right)
    return {"classified": float(len(kept))} | {f"class_top{k}": v for k, v in tops.items()}
