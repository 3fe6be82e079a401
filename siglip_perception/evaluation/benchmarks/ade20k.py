"""ADE20K's scene parsing benchmark (ADEChallengeData2016): mean IoU over 150 classes.

Layout, as SceneParsing publishes it (http://sceneparsing.csail.mit.edu):

    images/validation/ADE_val_00000001.jpg
    annotations/validation/ADE_val_00000001.png   0: not labeled, 1 to 150: the class
    objectInfo150.txt                             tab-separated, its last column the names

Protocol of open-vocabulary segmentation (Zhou et al. 2022, MaskCLIP; Lan et al. 2024, ProxyCLIP):
every pixel gets the class of the highest score, pixels that are not labeled count for nothing, and
a class's intersection and union are summed over all images before they are divided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.grounding.scores import Scores
from siglip_perception.images.files import MAX_FILE_PIXELS, read_image
from siglip_perception.images.geometry import Geometry, spread
from siglip_perception.types import FloatArray, UInt8Array

CLASSES = 150
_LABELS = "objectInfo150.txt"
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabeledImage:
    """image: uint8 [height, width, 3]. labels: uint8 [height, width], 0 where not labeled."""

    name: str
    image: UInt8Array
    labels: Labels


class Ade20k:
    """The validation images of a folder, read one by one.

    report: collects images that are left out. Raises DatasetError for a folder of another layout.
    """

    def __init__(self, folder: Path, report: SkipReport) -> None:
        self._folder = folder
        self._report = report
        self.classes = _class_names(folder / _LABELS)
        self._images = sorted((folder / "images" / "validation").glob("*.jpg"))
        if not self._images:
            raise DatasetError(
                f"{folder} has no images/validation/*.jpg: give the folder ADEChallengeData2016."
            )

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[LabeledImage]:
        count = 0
        for path in self._images:
            labels = self._folder / "annotations" / "validation" / f"{path.stem}.png"
            try:
                image = read_image(path, max_pixels=MAX_FILE_PIXELS).pixels
                truth = _read_labels(labels)
            except PerceptionError as error:
                self._report.skip("image or annotation cannot be read", path.name, str(error))
                continue
            if truth.shape != image.shape[:2]:
                sizes = " and ".join(f"{a.shape[1]} x {a.shape[0]}" for a in (image, truth))
                self._report.skip("annotation of another size", path.name, sizes)
                continue
            count += 1
            yield LabeledImage(path.stem, image, truth)
        if not count:
            raise DatasetError(f"No image of {self._folder} can be used.")


def _class_names(path: Path) -> tuple[str, ...]:
    """Read the classes' names, the first of each one's synonyms."""
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing: give the folder ADEChallengeData2016, which has it."
        )
    lines = [line.split("\t") for line in path.read_text("utf-8", "replace").splitlines() if line]
    names = {
        int(columns[0]): columns[-1].replace(";", ",").split(",")[0].strip()
        for columns in lines
        if columns[0].strip().isdigit()
    }
    if sorted(names) != list(range(1, CLASSES + 1)) or not all(names.values()):
        raise DatasetError(
            f"{path} names {len(names)} classes and has to name those of the numbers 1 to"
            f" {CLASSES}: get ADE20K's scene parsing benchmark again."
        )
    return tuple(names[number] for number in range(1, CLASSES + 1))


def _read_labels(path: Path) -> Labels:
    try:
        with Image.open(path) as file:
            labels = np.asarray(file)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be read ({error}).") from error
    if labels.ndim != 2 or labels.dtype != np.uint8 or int(labels.max()) > CLASSES:
        raise DatasetError(f"{path} is no 8-bit image of class numbers from 0 to {CLASSES}.")
    return labels


def classify_pixels(scores: Scores, geometry: Geometry, patch: int) -> Labels:
    """Class of every pixel, uint8 [height, width], 1 for the first phrase.

    A patch's log-odds of a class are those of the best region that it is in, and of the whole
    image where it is in none; between patches they are interpolated.
    """
    inside = scores.maps > 0.5
    best = np.full((geometry.height, geometry.width), -np.inf, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for number, (regions, whole) in enumerate(
        zip(scores.logits, scores.image_logits, strict=True), start=1
    ):
        grid: FloatArray = np.where(inside, regions[:, None, None], -np.inf).max(
            axis=0, initial=-np.inf
        )
        grid = np.where(inside.any(axis=0), grid, whole).astype(np.float32)
        pixels = spread(grid, geometry, patch)
        is_better = pixels > best
        best[is_better], labels[is_better] = pixels[is_better], number
    return labels


class ConfusionCounts:
    """Pixels of each true class by the class that they were given."""

    def __init__(self, classes: int = CLASSES) -> None:
        self._classes = classes
        self._counts = np.zeros((classes + 1, classes + 1), np.int64)

    def add(self, truth: Labels, prediction: Labels) -> None:
        """Count one image: labels uint8 of one shape, 0 where the truth is not labeled."""
        size = self._classes + 1
        pairs = truth.astype(np.int64) * size + prediction
        self._counts += np.bincount(pairs.ravel(), minlength=size**2).reshape(size, size)

    def metrics(self) -> dict[str, float]:
        """mIoU and mAcc over the classes that are in the truth or were given, and aAcc, all in
        [0, 1]; NaN where nothing is labeled."""
        labeled = self._counts[1:]
        hits = labeled[:, 1:].diagonal()
        truths, given = labeled.sum(axis=1), labeled[:, 1:].sum(axis=0)
        union = truths + given - hits
        if not truths.sum():
            return dict.fromkeys(("mIoU", "mAcc", "aAcc"), float("nan"))
        return {
            "mIoU": float(np.mean(hits[union > 0] / union[union > 0])),
            "mAcc": float(np.mean(hits[truths > 0] / truths[truths > 0])),
            "aAcc": float(hits.sum() / truths.sum()),
        }
