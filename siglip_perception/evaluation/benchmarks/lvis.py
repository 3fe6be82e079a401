"""LVIS v1 detection: AP over 1203 categories, of which each image is judged for some only.

Layout: `lvis_v1_val.json` and the images of COCO 2017 in `val2017/` and `train2017/`, from both of
which LVIS takes its validation images.

Protocol (Gupta et al. 2019): every category is asked for on every image, 300 detections of an
image at most count, a category is judged where an image's annotations or its neg_category_ids have
it, and detections that match nothing are ignored in not_exhaustive_category_ids. APr, APc and APf
are those of rare, common and frequent categories.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.evaluation.coco_masks import evaluation_library
from siglip_perception.images.files import MAX_FILE_PIXELS, read_image
from siglip_perception.types import GroundedObject, UInt8Array

ANNOTATIONS = "lvis_v1_val.json"
MAX_DETECTIONS = 300
_FIGURES = {"AP_all": "AP", "AP_50": "AP50", "AP_75": "AP75", "APr": "APr", "APc": "APc"}
_FIGURES |= {"APf": "APf"}
_LISTS = ("images", "annotations", "categories")
_NO_TRUTH = -1.0


@dataclass(frozen=True)
class LvisImage:
    """identity: LVIS's own id. image: uint8 [height, width, 3]."""

    identity: int
    image: UInt8Array


class Lvis:
    """The validation images of a folder, read one by one, and what was found on them.

    report: collects images that are left out, and are not judged. Raises DatasetError for a folder
    of another layout.
    """

    def __init__(self, folder: Path, report: SkipReport) -> None:
        evaluation_library()
        self._folder = folder
        self._report = report
        self._content = _read(folder / ANNOTATIONS)
        self._categories = {
            _phrase(category): int(category["id"]) for category in self._content["categories"]
        }
        if len(self._categories) < len(self._content["categories"]):
            raise DatasetError(f"{folder / ANNOTATIONS} has two categories of one name.")
        self._seen: list[int] = []
        self._results: list[dict[str, Any]] = []

    @property
    def phrases(self) -> tuple[str, ...]:
        """Names of the categories."""
        return tuple(self._categories)

    def __len__(self) -> int:
        return len(self._content["images"])

    def __iter__(self) -> Iterator[LvisImage]:
        for entry in self._content["images"]:
            # The last two parts of coco_url are the set and the file.
            name = "/".join(str(entry["coco_url"]).split("/")[-2:])
            try:
                picture = read_image(self._folder / name, max_pixels=MAX_FILE_PIXELS)
            except PerceptionError as error:
                self._report.skip("image cannot be read", name, str(error))
                continue
            self._seen.append(int(entry["id"]))
            yield LvisImage(int(entry["id"]), picture.pixels)
        if not self._seen:
            raise DatasetError(
                f"No image of {self._folder / ANNOTATIONS} can be read in {self._folder}: put"
                " COCO's val2017 and train2017 there."
            )

    def add(self, image: LvisImage, objects: Sequence[GroundedObject]) -> None:
        """Take the objects of one image, of any category; the best 300 count."""
        best = sorted(objects, key=lambda item: -item.score)[:MAX_DETECTIONS]
        self._results += [
            {
                "image_id": image.identity,
                "category_id": self._categories[item.phrase],
                "bbox": [item.box.x, item.box.y, item.box.width, item.box.height],
                "score": item.score,
            }
            for item in best
        ]

    def metrics(self) -> dict[str, float]:
        """AP, AP50, AP75 and APr, APc, APf of boxes, in [0, 1], by faster-coco-eval.

        NaN where no category of the kind is judged.
        """
        seen = set(self._seen)
        truths = [a for a in self._content["annotations"] if a["image_id"] in seen]
        names = tuple(_FIGURES.values())
        if not truths or not self._results:
            return dict.fromkeys(names, 0.0 if truths else float("nan"))
        library = evaluation_library()
        truth = library.COCO(
            {
                "images": [i for i in self._content["images"] if i["id"] in seen],
                "annotations": [
                    {key: value for key, value in a.items() if key != "segmentation"}
                    | {"iscrowd": 0}
                    for a in truths
                ],
                "categories": self._content["categories"],
            }
        )
        evaluation = library.COCOeval_faster(
            truth, truth.loadRes(self._results), "bbox", lvis_style=True
        )
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.run()
        values = evaluation.stats_as_dict
        return {
            name: float("nan") if float(values[label]) == _NO_TRUTH else float(values[label])
            for label, name in _FIGURES.items()
        }


def _phrase(category: dict[str, Any]) -> str:
    """Make a phrase of a category's name: fire_extinguisher, or cup_(trophy)."""
    return str(category["name"]).replace("_", " ").replace("(", "").replace(")", "").strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing: give the folder with LVIS's {ANNOTATIONS} and COCO's images."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): get it again.") from error
    fields = {
        "images": ("id", "coco_url", "neg_category_ids", "not_exhaustive_category_ids"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area"),
        "categories": ("id", "name", "frequency"),
    }
    for name in _LISTS:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DatasetError(f"{path} has no list of {name}: it is not LVIS's.")
        for number, entry in enumerate(entries):
            missing = [f for f in fields[name] if not isinstance(entry, dict) or f not in entry]
            if missing:
                raise DatasetError(
                    f"{path}: {name}[{number}] has no {missing[0]}: it is not LVIS v1's."
                )
    assert isinstance(content, dict)
    return content
