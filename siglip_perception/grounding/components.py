"""A region of what looks alike -> one for each thing: two red cups are two objects."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

# Fewer patches than this, apart from the rest, are noise.
_FEWEST = 2
# Pieces with one patch between them belong together: something narrow stands before them.
_JOIN = np.ones((2, 2), np.uint8)


def split_pieces(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Soft maps [R, N] over a grid -> maps [S, N] of their separate pieces, in their order.

    A piece keeps its own patches over one half, and everything up to one half. A region all of
    whose pieces are noise stays as it is.
    """
    if not len(maps):
        return maps
    soft = maps.detach().view(-1, *grid).cpu().numpy()
    pieces: list[Tensor] = []
    for number, region in enumerate(soft):
        inside = region > 0.5
        count, labels = cv2.connectedComponents(
            cv2.dilate(inside.astype(np.uint8), _JOIN), connectivity=8
        )
        sizes = np.bincount(labels[inside], minlength=count)
        kept = [label for label in range(1, count) if sizes[label] >= _FEWEST]
        if (len(kept) == 1 and sizes[kept[0]] == inside.sum()) or not kept:
            pieces.append(maps[number])
            continue
        for label in kept:
            others = torch.from_numpy((inside & (labels != label)).ravel()).to(maps.device)
            pieces.append(maps[number].masked_fill(others, 0.0))
    return torch.stack(pieces)
