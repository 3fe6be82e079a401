"""COCO's average precision of published objects, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from siglip_perception.evaluation.coco_masks import evaluation_library, mask_library
from siglip_perception.evaluation.samples import Sample, Truth
from siglip_perception.types import GroundedObject, UInt8Array

_NO_TRUTH = -1.0


class Detections:
    """Published objects for every phrase on every image, with the ground truth.

    A phrase whose truth is incomplete on an image (Sample.unsure) is ignored there.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        self.phrases = tuple(phrases)
        self._category = {phrase: number for number, phrase in enumerate(phrases, start=1)}
        self._images: list[dict[str, Any]] = []
        self._truths: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def add(
        self, sample: Sample, objects: Sequence[GroundedObject], masks: Sequence[UInt8Array]
    ) -> None:
        """Add one image with all published objects and their masks, uint8 [height, width]."""
        height, width = sample.image.shape[:2]
        image = len(self._images) + 1
        self._images.append({"id": image, "width": width, "height": height})
        truths = [(q.phrase, truth, False) for q in sample.questions for truth in q.truths]
        truths += [(phrase, truth, True) for phrase, truth in sample.crowds]
        for phrase, truth, crowd in truths:
            if phrase not in sample.unsure:
                self._truths.append(self._truth(image, phrase, truth, crowd))
        for answer, mask in zip(objects, masks, strict=True):
            if answer.phrase not in sample.unsure:
                box = answer.box
                self._results.append(
                    {
                        "image_id": image,
                        "category_id": self._category[answer.phrase],
                        "bbox": [box.x, box.y, box.width, box.height],
                        "score": answer.score,
                        "segmentation": _encode_rle(mask),
                    }
                )

    def _truth(self, image: int, phrase: str, truth: Truth, crowd: bool) -> dict[str, Any]:
        box = truth.box
        exact = truth.exact or (box.x, box.y, box.width, box.height)
        entry = {
            # Ids start at 1: the matching code uses 0 for no match.
            "id": len(self._truths) + 1,
            "image_id": image,
            "category_id": self._category[phrase],
            "bbox": list(exact),
            "area": exact[2] * exact[3],
            "iscrowd": int(crowd),
        }
        return entry if truth.mask is None else {**entry, "segmentation": _encode_rle(truth.mask)}

    def metrics(self) -> dict[str, float]:
        """Compute AP (IoU 0.50 to 0.95), AP50 and AP75 of boxes, in [0, 1]; NaN without truths.

        mask_AP and so on: the same for masks, if every true object has one.
        """
        boxes = self._evaluate("bbox")
        if not all("segmentation" in truth for truth in self._truths):
            return boxes
        return boxes | {f"mask_{name}": value for name, value in self._evaluate("segm").items()}

    def _evaluate(self, kind: str) -> dict[str, float]:
        names = ("AP", "AP50", "AP75")
        if all(truth["iscrowd"] for truth in self._truths):
            return dict.fromkeys(names, float("nan"))
        if not self._results:
            return dict.fromkeys(names, 0.0)
        library = evaluation_library()
        truth = library.COCO(
            {
                "images": self._images,
                "annotations": self._truths,
                "categories": [{"id": n, "name": name} for name, n in self._category.items()],
            }
        )
        # The library scores a result by its segmentation if it has one, even for boxes.
        keys = {"image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation"}
        results = [{key: result[key] for key in keys} for result in self._results]
        evaluation = library.COCOeval_faster(truth, truth.loadRes(results), kind)
        evaluation.run()
        values = [float(evaluation.stats[number]) for number in range(3)]
        return {
            name: float("nan") if value == _NO_TRUTH else value
            for name, value in zip(names, values, strict=True)
        }


def _encode_rle(mask: UInt8Array) -> Any:
    """Run-length encode a mask, uint8 [height, width] of 0 and 1."""
    return mask_library().encode(np.asfortranarray(mask))
