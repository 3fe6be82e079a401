"""A folder of images with boxes in COCO's format, as samples.

Lin et al. 2014, https://cocodataset.org/#format-data: `bbox` is [x, y, width, height] in pixels;
`segmentation` polygons, or run lengths down the columns, plain or packed into a string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.samples import Question, Sample, Truth
from siglip_perception.images.files import decode_file
from siglip_perception.types import Box, UInt8Array


class CocoError(PerceptionError):
    """The annotations or an image of them cannot be used."""


class CocoFolder:
    """Annotations, read and checked; the images are read one by one.

    Raises CocoError, one sentence, for a file that is missing or not COCO's.
    """

    def __init__(self, annotations: Path, images: Path, seed: int, max_pixels: int) -> None:
        content = _read(annotations)
        self._folder = images
        self._seed = seed
        self._max_pixels = max_pixels
        try:
            self._names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            self._files = {int(i["id"]): str(i["file_name"]) for i in content["images"]}
            self._boxes: dict[int, list[Mapping[str, Any]]] = {
                number: [] for number in self._files
            }
            for entry in content["annotations"]:
                if not entry.get("iscrowd"):
                    self._names[int(entry["category_id"])]
                    self._boxes[int(entry["image_id"])].append(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise CocoError(
                f"{annotations} is not in COCO's format ({type(error).__name__}: {error}): it"
                " needs images, annotations and categories."
            ) from error
        if not self._files:
            raise CocoError(f"{annotations} lists no image.")

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Sample]:
        """Each image, asked for every category that it shows and for as many that it does not."""
        for number, name in self._files.items():
            yield self._sample(number, name)

    def _sample(self, number: int, name: str) -> Sample:
        image = self._image(name)
        height, width = image.shape[:2]
        truths: dict[int, list[Truth]] = {}
        for entry in self._boxes[number]:
            box = _box(entry, width, height, name)
            if box is not None:
                mask = _mask(entry.get("segmentation"), width, height)
                truths.setdefault(int(entry["category_id"]), []).append(Truth(box, mask, None))
        rng = np.random.default_rng((self._seed, number))
        others = [category for category in self._names if category not in truths]
        count = min(max(len(truths), 1), len(others))
        absent = [others[i] for i in rng.choice(len(others), count, replace=False)]
        questions = [
            *(Question(self._names[c], "", tuple(found)) for c, found in truths.items()),
            *(Question(self._names[c], "", ()) for c in absent),
        ]
        objects = sum(len(found) for found in truths.values())
        return Sample(name, image, objects, tuple(questions))

    def _image(self, name: str) -> UInt8Array:
        path = self._folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise CocoError(f"The image {name!a} lies outside its folder.")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CocoError(
                f"Cannot read {path} ({error.strerror}): name the images' folder with --images."
            ) from error
        try:
            return decode_file(data, str(path), max_pixels=self._max_pixels).pixels
        except PerceptionError as error:
            raise CocoError(str(error)) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CocoError(f"Cannot read {path} ({error.strerror}).") from error
    except ValueError as error:
        raise CocoError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CocoError(f"{path} is not in COCO's format: its JSON is no object.")
    return content


def _box(entry: Mapping[str, Any], width: int, height: int, name: str) -> Box | None:
    """The box inside the image; None where nothing of it is."""
    try:
        x, y, across, down = (float(value) for value in entry["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise CocoError(
            f"An annotation of {name!a} has no bbox of four numbers, [x, y, width, height]."
        ) from error
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = min(round(x + across), width), min(round(y + down), height)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def _mask(segmentation: Any, width: int, height: int) -> UInt8Array | None:
    """uint8 [height, width] of polygons or run lengths; None for anything else."""
    if isinstance(segmentation, list) and segmentation:
        mask = np.zeros((height, width), dtype=np.uint8)
        for outline in segmentation:
            points = np.asarray(outline, dtype=np.float64).reshape(-1, 2)
            cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
        return mask
    if isinstance(segmentation, dict) and list(segmentation.get("size", ())) == [height, width]:
        counts = segmentation.get("counts")
        lengths = unpack(counts) if isinstance(counts, str) else counts
        if isinstance(lengths, list) and sum(lengths) == width * height:
            values = np.arange(len(lengths), dtype=np.uint8) % 2
            flat = np.repeat(values, lengths)
            return np.ascontiguousarray(flat.reshape(width, height).T)
    return None


def unpack(packed: str) -> list[int]:
    """COCO's packed run lengths: numbers of 5 bits a character from "0" on, least first, 32 where
    more follow; from the third on each is the difference to the one before the last."""
    lengths: list[int] = []
    number = shift = 0
    for character in packed:
        bits = ord(character) - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    return lengths
