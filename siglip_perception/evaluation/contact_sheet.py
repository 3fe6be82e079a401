"""Draw failures side by side for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from siglip_perception.evaluation.measure import Failure
from siglip_perception.grounding.objects import label_mask
from siglip_perception.images.overlay import draw
from siglip_perception.types import Grounding, UInt8Array

_TILE = (640, 480)
_COLUMNS = 3
_TRUTH = (255, 255, 255)


def sheet(failures: Sequence[Failure]) -> UInt8Array:
    """Draw failures in three columns, uint8 [H, W, 3] RGB; thin white boxes are the truth."""
    tiles = [_tile(failure) for failure in failures]
    blank = np.full((_TILE[1], _TILE[0], 3), 128, dtype=np.uint8)
    while len(tiles) % _COLUMNS or not tiles:
        tiles.append(blank)
    rows = [
        np.concatenate(tiles[i : i + _COLUMNS], axis=1) for i in range(0, len(tiles), _COLUMNS)
    ]
    return np.concatenate(rows, axis=0)


def _tile(failure: Failure) -> UInt8Array:
    """Draw one failure: the overlay of the wrong phrases only, and the true boxes."""
    phrases = tuple(question.phrase for question in failure.questions)
    indices = [i for i, detection in enumerate(failure.objects) if detection.phrase in phrases]
    presence = dict(zip(failure.phrases, failure.presence, strict=True))
    image = np.array(failure.sample.image)
    for question in failure.questions:
        for truth in question.truths:
            box = truth.box
            corner = box.x + box.width - 1, box.y + box.height - 1
            cv2.rectangle(image, (box.x, box.y), corner, _TRUTH, 1)
    height, width = image.shape[:2]
    grounding = Grounding(
        failure.sample.name,
        0,
        phrases,
        tuple(presence[phrase] for phrase in phrases),
        tuple(failure.objects[index] for index in indices),
        "",
        label_mask([failure.masks[index] for index in indices], width, height),
    )
    tile = np.zeros((_TILE[1], _TILE[0], 3), dtype=np.uint8)
    cv2.resize(draw(image, grounding), _TILE, dst=tile, interpolation=cv2.INTER_AREA)
    return tile
