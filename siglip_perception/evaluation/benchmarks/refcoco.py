"""RefCOCO, RefCOCO+ and RefCOCOg: the share of expressions whose box is right.

Layout, as the repository lichengunc/refer publishes it:

    refcoco/instances.json      boxes, in COCO's format
    refcoco/refs(unc).p         expressions, pickled; refs(umd).p or refs(google).p for RefCOCOg
    images/mscoco/images/train2014/COCO_train2014_000000581857.jpg

Protocol (Yu et al. 2016; Mao et al. 2016): each sentence is a question, one box answers it, and it
is right with an IoU of 0.5 or more.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.evaluation.metrics import IOU_THRESHOLD
from siglip_perception.images.files import MAX_FILE_PIXELS, read_image
from siglip_perception.types import Box, UInt8Array

_REFS = ("refs(unc).p", "refs(umd).p", "refs(google).p")
_IMAGES = Path("images", "mscoco", "images", "train2014")
_TRAINING = "train"
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Expression:
    """One sentence of a split about one object. box: x, y, width and height, pixels."""

    text: str
    split: str
    box: Rectangle


@dataclass(frozen=True)
class ReferredImage:
    """An image with its expressions: uint8 [height, width, 3]."""

    name: str
    image: UInt8Array
    expressions: tuple[Expression, ...]


class RefCoco:
    """The images of all splits but the training's, read one by one.

    images: their folder; None: where the repository has it. report: collects what is left out.
    Raises DatasetError for a folder of another layout.
    """

    def __init__(self, folder: Path, images: Path | None, report: SkipReport) -> None:
        self.name = folder.resolve().name
        self._report = report
        self._folder = images or _image_folder(folder)
        content = _read_instances(folder / "instances.json")
        boxes = {entry["id"]: entry["bbox"] for entry in content["annotations"]}
        files = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        self._expressions: dict[str, list[Expression]] = {}
        for ref in _read_refs(folder):
            split = str(ref["split"])
            if split == _TRAINING:
                continue
            if ref["ann_id"] not in boxes or ref["image_id"] not in files:
                report.skip("reference without its box or image", f"ref {ref['ref_id']}")
                continue
            x, y, width, height = map(float, boxes[ref["ann_id"]])
            self._expressions.setdefault(files[ref["image_id"]], []).extend(
                Expression(str(sentence["sent"]), split, (x, y, width, height))
                for sentence in ref["sentences"]
            )
        if not self._expressions:
            raise DatasetError(f"{folder} has no expression outside of the training's split.")

    def __len__(self) -> int:
        return len(self._expressions)

    def __iter__(self) -> Iterator[ReferredImage]:
        count = 0
        for name, expressions in self._expressions.items():
            try:
                picture = read_image(self._folder / name, max_pixels=MAX_FILE_PIXELS)
            except PerceptionError as error:
                detail = f"{error} Its {len(expressions)} expressions go with it"
                self._report.skip("image cannot be read", name, detail)
                continue
            count += 1
            yield ReferredImage(name, picture.pixels, tuple(expressions))
        if not count:
            raise DatasetError(
                f"No image of the expressions is in {self._folder}: name the folder of COCO's"
                " train2014 with --images."
            )


class Accuracy:
    """Share of right answers by split."""

    def __init__(self) -> None:
        self._answers: dict[str, list[bool]] = {}

    def add(self, expression: Expression, box: Box | None) -> None:
        """Count the answer to one expression; None: nothing was found."""
        is_right = box is not None and overlap(box, expression.box) >= IOU_THRESHOLD
        self._answers.setdefault(expression.split, []).append(is_right)

    def metrics(self) -> dict[str, float]:
        """Share by split, in [0, 1]."""
        return {
            split: sum(answers) / len(answers) for split, answers in sorted(self._answers.items())
        }


def overlap(box: Box, truth: Rectangle) -> float:
    """Intersection over union, in [0, 1], of a box with one of fractions of pixels."""
    x, y, width, height = truth
    across = min(box.x + box.width, x + width) - max(box.x, x)
    down = min(box.y + box.height, y + height) - max(box.y, y)
    if across <= 0 or down <= 0:
        return 0.0
    common = across * down
    return common / (box.width * box.height + width * height - common)


def _image_folder(folder: Path) -> Path:
    """The folder of the images, beside the data set's or in it."""
    places = [place / _IMAGES for place in (folder.resolve().parent, folder)]
    return next((place for place in places if place.is_dir()), places[0])


def _read_instances(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        for name, fields in (("annotations", ("id", "bbox")), ("images", ("id", "file_name"))):
            for entry in content[name]:
                _ = [entry[field] for field in fields]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing: give the folder refcoco, refcoco+ or refcocog."
        ) from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error!r}): get it again.") from error
    assert isinstance(content, dict)
    return content


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers alone: any other pickle may run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no text or number")


def _read_refs(folder: Path) -> list[Mapping[str, Any]]:
    path = next((folder / name for name in _REFS if (folder / name).is_file()), None)
    if path is None:
        raise DatasetError(
            f"{folder} has none of {', '.join(_REFS)}: give the folder refcoco, refcoco+ or"
            " refcocog."
        )
    try:
        with path.open("rb") as file:
            refs = _unpickle(file)
        for ref in refs:
            _ = [ref[name] for name in ("ref_id", "ann_id", "image_id", "split", "sentences")]
            _ = [sentence["sent"] for sentence in ref["sentences"]]
    except (OSError, pickle.UnpicklingError, ValueError, EOFError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): get it again.") from error
    return refs


def _unpickle(file: BinaryIO) -> list[Mapping[str, Any]]:
    # Python 2 wrote the published files: its texts are bytes.
    refs = _PlainUnpickler(file, encoding="latin1").load()
    if not isinstance(refs, list):
        raise ValueError(f"a {type(refs).__name__} instead of a list")
    return refs
