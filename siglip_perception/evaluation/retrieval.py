"""Zero-shot metrics on held-out pairs: retrieval in both directions, and classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TEMPLATES = ("{}", "a photo of a {}")


def recall(
    similarity: Tensor, relevant: Tensor, ranks: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """Recall at k: share of rows with a relevant column among their best k, for each k in ranks.

    similarity: float [N, M]; relevant: bool [N, M], any number per row. Rows without relevant
    columns are ignored; a wrong column that ties with the best relevant one counts as ahead of it.
    """
    rows = relevant.any(dim=1)
    similarity, relevant = similarity[rows], relevant[rows]
    best = similarity.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((similarity >= best) & ~relevant).sum(dim=1)
    return {k: float((ahead < k).float().mean()) for k in ranks}


def retrieval_metrics(image: Tensor, text: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """R@1 and R@5, text to image and image to text; equal captions match each other's images.

    image, text: float [N, d], of unit length. Each distinct caption counts once.
    """
    numbers: dict[str, int] = {}
    ids = torch.tensor([numbers.setdefault(c.casefold(), len(numbers)) for c in captions])
    firsts = torch.tensor([(ids == n).nonzero()[0, 0] for n in range(len(numbers))])
    similarity = (image @ text[firsts].T).cpu()
    relevant = ids[:, None] == torch.arange(len(numbers))
    metrics = {f"image_to_text_r{k}": v for k, v in recall(similarity, relevant).items()}
    return metrics | {
        f"text_to_image_r{k}": v for k, v in recall(similarity.T, relevant.T).items()
    }


def classification_metrics(
    image: Tensor, class_text: Tensor, labels: Sequence[int | None]
) -> dict[str, float]:
    """Zero-shot accuracy over the images with a label, and their number.

    image: float [N, d]; class_text: float [C, d], of unit length, the mean over templates.
    """
    indices = [n for n, label in enumerate(labels) if label is not None]
    if not indices:
        return {"classified": 0.0}
    truth = torch.tensor([labels[n] for n in indices])
    relevant = truth[:, None] == torch.arange(len(class_text))
    tops = recall((image[indices] @ class_text.T).cpu(), relevant)
    return {"classified": float(len(indices))} | {f"class_top{k}": v for k, v in tops.items()}
