"""A COCO data set of two images, written for the tests that read it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 20, 10
POLYGON = [2, 1, 6, 1, 6, 6, 2, 6]
PLAIN = {"size": [HEIGHT, WIDTH], "counts": [20, 10, 170]}


def content() -> dict[str, Any]:
    """Make two images of 20 x 10 and three categories, with a polygon and plain run lengths."""
    return {
        "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("cup", "plate", "dog"))],
        "annotations": [
            {
                "id": 11,
                "image_id": 1,
                "category_id": 0,
                "bbox": [2, 1, 4, 5],
                "segmentation": [list(POLYGON)],
            },
            {
                "id": 12,
                "image_id": 1,
                "category_id": 0,
                "bbox": [-3, 2, 6, 4],
                "segmentation": copy.deepcopy(PLAIN),
            },
            {"id": 13, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }


def write_annotations(folder: Path, **changes: Any) -> Path:
    """Write the content, with some keys changed, and its two images."""
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(folder / "one.png")
    Image.new("RGB", (WIDTH, HEIGHT), (10, 90, 90)).save(folder / "two.png")
    path = folder / "boxes.json"
    path.write_text(json.dumps({**content(), **changes}))
    return path
