"""Read a folder of images with COCO annotations as samples.

Lin et al. 2014, https://cocodataset.org/#format-data: `bbox` is [x, y, width, height] in pixels;
`segmentation` is polygons, or column-wise run lengths, plain or compressed into a string.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siglip_perception.datasets.file_names import FileFinder, FileNameError
from siglip_perception.datasets.skips import SkipReport, describe, printable
from siglip_perception.datasets.texts import decode_text
from siglip_perception.errors import DatasetError, ImageError, InstructionError, PerceptionError
from siglip_perception.evaluation.coco_masks import (
    SegmentationError,
    decode_segmentation,
    evaluation_library,
)
from siglip_perception.evaluation.samples import Question, Sample, Truth
from siglip_perception.images.checks import upright
from siglip_perception.images.files import Picture, read_image
from siglip_perception.language.instruction import from_phrases
from siglip_perception.types import Box, UInt8Array
from siglip_perception.util.files import read_regular

_FILE_FIELDS = ("file_name", "coco_url", "flickr_url", "url", "path")
# Twice the largest annotations in use, those of COCO's training images.
_MAX_BYTES = 1 << 30
_INTEGER = re.compile(r"-?[0-9]{1,18}")

Rectangle = tuple[float, float, float, float]
"""x, y, width and height in pixels."""


class CocoError(DatasetError):
    """Unusable annotations file or image folder."""


class _PictureError(Exception):
    """An unusable image; it is counted under `reason`."""

    def __init__(self, name: str, reason: str, detail: str) -> None:
        super().__init__(describe(name, reason, detail))
        self.name = name
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class _Annotation:
    """One entry of `annotations`, checked as far as possible without its image.

    box: in pixels of the annotated image; None means the segmentation's bounding box.
    """

    name: str
    phrase: str
    box: Rectangle | None
    segmentation: Any
    crowd: bool


@dataclass(frozen=True)
class _Image:
    """One entry of `images`. size: annotated width and height, None if missing."""

    identity: int | str
    name: str
    path: Path
    size: tuple[int, int] | None


class CocoFolder:
    """COCO annotations, read and checked at once; the images are read one by one.

    images: image folder; None looks beside the annotations. report: collects skipped items.
    Raises CocoError if the file is missing or not in COCO's format, or no image exists;
    DatasetError for the first skipped item if the report is strict.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path | None,
        seed: int,
        max_pixels: int,
        report: SkipReport | None = None,
    ) -> None:
        evaluation_library()  # fail early if it is not installed
        self.report = report or SkipReport()
        self._file = annotations
        self._seed = seed
        self._max_pixels = max_pixels
        content = _read(annotations)
        self._phrases = self._categories(content["categories"])
        entries = self._image_entries(content["images"])
        self._unsure: dict[int | str, set[str]] = {identity: set() for identity in entries}
        self._annotations: dict[int | str, list[_Annotation]] = {i: [] for i in entries}
        self._read_annotations(content["annotations"])
        self._images = self._find_pictures(entries, _picture_folder(annotations, images))

    def __len__(self) -> int:
        return len(self._images)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Unique category names."""
        return tuple(dict.fromkeys(self._phrases.values()))

    def __iter__(self) -> Iterator[Sample]:
        """Yield each image with questions for its categories and for as many absent ones.

        Skips unreadable images; raises CocoError if none can be read.
        """
        samples, problem = 0, ""
        for image in self._images:
            try:
                sample = self._sample(image)
            except _PictureError as error:
                self.report.skip(error.reason, error.name, error.detail)
                problem = problem or describe(error.name, error.reason, error.detail)
                continue
            samples += 1
            yield sample
        if not samples:
            raise CocoError(f"No picture of {self._file} can be used ({problem}).")

    def _skip(self, reason: str, name: str, detail: str = "") -> None:
        self.report.skip(reason, f"{self._file.name}, {name}", detail)

    def _categories(self, entries: list[Any]) -> dict[int | str, str]:
        """Map category ids to phrases; names that differ only in case get one spelling."""
        phrases: dict[int | str, str] = {}
        spelling: dict[str, str] = {}
        ambiguous = set()
        for index, entry in enumerate(entries):
            name = f"categories[{index}]"
            if not isinstance(entry, dict):
                self._skip("category is no object", name, _excerpt(entry))
                continue
            identity = _identity(entry.get("id"))
            phrase = _phrase(entry.get("name"))
            if identity is None:
                self._skip("category's id is no number or text", name, _excerpt(entry.get("id")))
            elif not phrase:
                detail = f"id {identity}: {_excerpt(entry.get('name'))}"
                self._skip("category's name is no phrase", name, detail)
            else:
                phrase = spelling.setdefault(phrase.casefold(), phrase)
                if phrases.setdefault(identity, phrase) != phrase:
                    ambiguous.add(identity)
                    detail = f"id {identity}: {phrase!r} and {phrases[identity]!r}"
                    self._skip("category's id has two names", name, detail)
        for identity in ambiguous:
            del phrases[identity]
        if not phrases:
            raise CocoError(
                f"{self._file} has no category with an id and a name"
                f"{_because(self.report)}: add the categories to ask for."
            )
        return phrases

    def _image_entries(self, entries: list[Any]) -> dict[int | str, Mapping[str, Any]]:
        """Map ids to image entries; skips ids shared by two different files."""
        by_identity: dict[int | str, Mapping[str, Any]] = {}
        ambiguous = set()
        for index, entry in enumerate(entries):
            name = f"images[{index}]"
            if not isinstance(entry, dict):
                self._skip("image is no object", name, _excerpt(entry))
                continue
            identity = _identity(entry.get("id"))
            if identity is None:
                self._skip("image's id is no number or text", name, _excerpt(entry.get("id")))
            elif _file_name(entry) is None:
                detail = f"id {identity}: {_excerpt(entry.get('file_name'))}"
                self._skip("image's file_name is no text", name, detail)
            elif identity not in by_identity:
                by_identity[identity] = entry
            elif _file_name(by_identity[identity]) == _file_name(entry):
                self._skip("image listed twice", name, f"id {identity}")
            else:
                ambiguous.add(identity)
                files = f"{_file_name(by_identity[identity])} and {_file_name(entry)}"
                self._skip("image's id has two files", name, f"id {identity}: {files}")
        for identity in ambiguous:
            del by_identity[identity]
        if not by_identity:
            raise CocoError(f"{self._file} lists no image{_because(self.report)}.")
        return by_identity

    def _read_annotations(self, entries: list[Any]) -> None:
        contents: set[int] = set()
        identities: set[int | str] = set()
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                self._skip("annotation is no object", f"annotations[{index}]", _excerpt(entry))
                continue
            identity = _identity(entry.get("id"))
            name = f"annotations[{index}]" if identity is None else f"annotation {identity}"
            image = _identity(entry.get("image_id"))
            category = _identity(entry.get("category_id"))
            phrase = None if category is None else self._phrases.get(category)
            if image is None or image not in self._annotations:
                self._skip(
                    "annotation's image_id is unknown", name, _excerpt(entry.get("image_id"))
                )
                continue
            if phrase is None:
                detail = _excerpt(entry.get("category_id"))
                self._skip("annotation's category_id is unknown", name, detail)
                continue
            annotation = self._annotation(name, phrase, entry, self._unsure[image])
            if annotation is None:
                continue
            content = hash((image, phrase, annotation.box, repr(annotation.segmentation)))
            if content in contents:
                self._skip("annotation listed twice", name)
                continue
            if identity is not None and identity in identities:
                self.report.note(
                    "annotation's id has two annotations", f"{self._file.name}, {name}"
                )
            if identity is not None:
                identities.add(identity)
            contents.add(content)
            self._annotations[image].append(annotation)

    def _annotation(
        self, name: str, phrase: str, entry: Mapping[str, Any], unsure: set[str]
    ) -> _Annotation | None:
        """Check an entry; None if it is unusable, which makes its phrase unsure."""
        crowd = _flag(entry.get("iscrowd"))
        segmentation = entry.get("segmentation")
        raw = entry.get("bbox")
        problem = ""
        box: Rectangle | None = None
        if crowd is None:
            problem, raw = "annotation's iscrowd is neither 0 nor 1", entry.get("iscrowd")
        elif raw is None and not segmentation:
            problem = "annotation has no bbox"
        elif raw is not None:
            numbers = _numbers(raw, 4)
            if numbers is None:
                problem = "bbox is not four numbers"
            elif not all(map(math.isfinite, numbers)):
                problem = "bbox is not finite"
            elif numbers[2] <= 0 or numbers[3] <= 0:
                problem = "bbox has no area"
            else:
                box = (numbers[0], numbers[1], numbers[2], numbers[3])
        if problem:
            unsure.add(phrase)
            self._skip(problem, name, _excerpt(raw))
            return None
        return _Annotation(name, phrase, box, segmentation, bool(crowd))

    def _find_pictures(
        self, entries: Mapping[int | str, Mapping[str, Any]], folder: Path
    ) -> list[_Image]:
        finder = FileFinder(folder)
        images = []
        problem = ""
        for identity, entry in entries.items():
            name = _file_name(entry) or ""
            try:
                path = finder.find(name)
            except FileNameError as error:
                number = len(self._annotations[identity])
                lost_annotations = f"; its {number} annotations go with it" if number else ""
                self.report.skip(error.reason, name, f"{error.detail}{lost_annotations}")
                problem = problem or describe(name, error.reason)
                continue
            images.append(_Image(identity, name, path, self._size(identity, entry)))
        if not images:
            raise CocoError(
                f"No picture of {self._file} is in {folder} ({problem}): name the pictures'"
                " folder with --images."
            )
        return images

    def _size(self, identity: int | str, entry: Mapping[str, Any]) -> tuple[int, int] | None:
        raw = [entry.get("width"), entry.get("height")]
        if raw == [None, None]:
            return None
        numbers = _numbers(raw, 2)
        if numbers is None or not all(n >= 1 and n == n // 1 < 2**31 for n in numbers):
            name = f"{self._file.name}, image {identity}"
            self.report.note("image's width and height are no size", name, _excerpt(raw))
            return None
        return int(numbers[0]), int(numbers[1])

    def _sample(self, image: _Image) -> Sample:
        """Read an image and make its questions; raise _PictureError if it is unusable."""
        try:
            picture = read_image(image.path, max_pixels=self._max_pixels)
        except PerceptionError as error:
            reason = error.reason if isinstance(error, ImageError) else "unreadable"
            detail = str(error).removeprefix(f"{image.path}: ")
            raise _PictureError(str(image.path), f"picture {reason}", detail) from error
        for repair in picture.repairs:
            self.report.note(repair, str(image.path))
        turn = self._turn(image, picture)
        unsure = set(self._unsure[image.identity])
        truths: dict[str, list[Truth]] = {}
        crowds: list[tuple[str, Truth]] = []
        for annotation in self._annotations[image.identity]:
            truth = self._truth(annotation, turn)
            if truth is None:
                unsure.add(annotation.phrase)
            elif annotation.crowd:
                crowds.append((annotation.phrase, truth))
            else:
                truths.setdefault(annotation.phrase, []).append(truth)
        # A category with a crowd or a skipped annotation may be present: do not ask for it.
        possible = {*truths, *unsure, *(phrase for phrase, _ in crowds)}
        absent_phrases = [phrase for phrase in self.phrases if phrase not in possible]
        count = min(max(len(truths), 1), len(absent_phrases))
        rng = np.random.default_rng((self._seed, _number(image.identity)))
        absent = (
            [absent_phrases[i] for i in rng.choice(len(absent_phrases), count, replace=False)]
            if count
            else []
        )
        return Sample(
            image.name,
            picture.pixels,
            sum(len(group) for group in truths.values()),
            (
                *(Question(phrase, "", tuple(group)) for phrase, group in truths.items()),
                *(Question(phrase, "", ()) for phrase in absent),
            ),
            tuple(crowds),
            frozenset(unsure),
        )

    def _turn(self, image: _Image, picture: Picture) -> _Turn:
        """Map annotations to the upright image; raise _PictureError if the sizes do not match."""
        height, width = picture.pixels.shape[:2]
        stored_size = picture.size
        if image.size in (None, (width, height)):
            return _Turn(1, width, height)
        stated_size = "{} x {}".format(*image.size)
        if image.size == stored_size:
            self.report.note(
                "width and height fit the picture only turned: its annotations were turned",
                image.name,
                f"stated as {stated_size}, upright {width} x {height} by EXIF's orientation"
                f" {picture.orientation}",
            )
            return _Turn(picture.orientation, *stored_size)
        is_turned = image.size == (height, width)
        raise _PictureError(
            image.name,
            "width and height fit the picture only turned"
            if is_turned
            else "width and height are not the picture's",
            f"stated as {stated_size}, is {width} x {height}",
        )

    def _truth(self, annotation: _Annotation, turn: _Turn) -> Truth | None:
        """The box and the mask in the upright picture; None where nothing of the box is in it."""
        mask: UInt8Array | None = None
        problem: SegmentationError | None = None
        try:
            mask = decode_segmentation(annotation.segmentation, turn.width, turn.height)
        except SegmentationError as error:
            problem = error
        raw = annotation.box
        if raw is None and mask is not None:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            left, top = float(columns[0]), float(rows[0])
            raw = left, top, float(columns[-1]) - left + 1, float(rows[-1]) - top + 1
        if problem is not None:
            use = "" if annotation.box is None else "; the bbox is used"
            self._skip(f"{problem.reason}{use}", annotation.name, problem.detail)
        if raw is None:
            return None
        x, y = max(raw[0], 0.0), max(raw[1], 0.0)
        right = min(raw[0] + raw[2], float(turn.width))
        bottom = min(raw[1] + raw[3], float(turn.height))
        excerpt = f"{_excerpt(list(raw))} in {turn.width} x {turn.height}"
        if right <= x or bottom <= y:
            self._skip("bbox lies outside of the picture", annotation.name, excerpt)
            return None
        if round(right) <= round(x) or round(bottom) <= round(y):
            hint = ": fractions?" if max(raw) <= 1 else ""
            self._skip("bbox is smaller than a pixel", annotation.name, f"{excerpt}{hint}")
            return None
        exact = turn.box((x, y, right - x, bottom - y))
        left, top = round(exact[0]), round(exact[1])
        box = Box(left, top, round(exact[0] + exact[2]) - left, round(exact[1] + exact[3]) - top)
        return Truth(box, None if mask is None else turn.mask(mask), None, exact)


@dataclass(frozen=True)
class _Turn:
    """Transform from the annotated image to the upright one, by EXIF orientation (1 to 8).

    width, height: of the annotated image.
    """

    orientation: int
    width: int
    height: int

    def box(self, box: Rectangle) -> Rectangle:
        """Transform a rectangle as upright() transforms pixels."""
        x, y, across, down = box
        width, height = self.width, self.height
        if self.orientation >= 5:
            x, y, across, down, width, height = y, x, down, across, height, width
        if self.orientation in (2, 3, 6, 7):
            x = width - x - across
        if self.orientation in (3, 4, 7, 8):
            y = height - y - down
        return x, y, across, down

    def mask(self, mask: UInt8Array) -> UInt8Array:
        """Transform a mask, uint8 [height, width]."""
        return upright(mask[:, :, None], self.orientation)[:, :, 0]


def _picture_folder(annotations: Path, images: Path | None) -> Path:
    """Return the given image folder, or guess it from the annotations' path."""
    if images is not None:
        if images.is_dir():
            return images
        problem = "is no folder" if images.exists() else "does not exist"
        raise CocoError(f"{images} {problem}: name the pictures' folder with --images.")
    beside = annotations.absolute().parent
    if beside.name == "annotations":
        beside = beside.parent
    # instances_val2017.json belongs to val2017/.
    part = beside / annotations.stem.rsplit("_", 1)[-1]
    return part if part.is_dir() else beside


def _read(path: Path) -> Mapping[str, list[Any]]:
    """Read the file with its three lists; raise CocoError if it is not in COCO's format."""
    if path.is_dir():
        inside = sorted(p for p in (*path.glob("*.json"), *path.glob("annotations/*.json")))
        such = f", such as {inside[0]}" if inside else ""
        raise CocoError(f"{path} is a folder: name the annotations' JSON file with --coco{such}.")
    try:
        text = decode_text(read_regular(path, _MAX_BYTES))
    except OSError as error:
        raise CocoError(f"Cannot read {path} ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise CocoError(f"{path} is not JSON: it is neither UTF-8 nor UTF-16 text.") from error
    if not text.strip():
        raise CocoError(f"{path} is empty: name the annotations' JSON file with --coco.")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CocoError(f"{path} is not JSON: {_json_problem(text, error)}.") from error
    except RecursionError as error:
        raise CocoError(
            f"{path} is not in COCO's format: its JSON is nested too deeply."
        ) from error
    except ValueError as error:  # an integer with more digits than Python parses
        raise CocoError(f"{path} has an integer of thousands of digits: correct it.") from error
    if isinstance(content, list):
        kind = (
            "a file of predictions, with scores, not of annotations"
            if any(isinstance(entry, dict) and "score" in entry for entry in content[:1])
            else "a list"
        )
        raise CocoError(
            f"{path} is {kind}: COCO's annotations are an object with images, annotations and"
            " categories."
        )
    if not isinstance(content, dict):
        raise CocoError(f"{path} is not in COCO's format: its JSON is not an object.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise CocoError(
                f"{path} is not in COCO's format, a JSON object of images, annotations and"
                f" categories: {_key_problem(content, key)}."
            )
    if any(isinstance(a, dict) and "segments_info" in a for a in content["annotations"][:1]):
        raise CocoError(
            f"{path} is COCO's panoptic format: name the file of instances, such as"
            " instances_val2017.json."
        )
    return content


def _json_problem(text: str, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data":
        return (
            f"after one value another begins on line {error.lineno}, as in JSON lines; COCO's"
            " annotations are one object"
        )
    if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
        return f"it is cut off on line {text.count(chr(10)) + 1}"
    return str(error)


def _key_problem(content: Mapping[str, Any], key: str) -> str:
    entries = content.get("annotations")
    if key == "categories" and isinstance(entries, list) and "caption" in str(entries[:1]):
        return "it has captions and no categories; name the file of instances"
    if key in content:
        return f"its {key} are no list but {_excerpt(content[key])}"
    keys = ", ".join(printable(str(name)) for name in list(content)[:8])
    return f"it has no {key}, only {keys}" if content else f"it has no {key}"


def _identity(value: Any) -> int | str | None:
    """Parse an id, as an integer if possible; None if it is neither number nor text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _INTEGER.fullmatch(text) else text or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _number(identity: int | str) -> int:
    """Convert an id to a non-negative random seed."""
    if isinstance(identity, int) and identity >= 0:
        return identity
    return zlib.crc32(str(identity).encode("utf-8", "backslashreplace"))


def _flag(value: Any) -> bool | None:
    """Parse COCO's 0 or 1, also as a boolean or a string; None for anything else."""
    if value in (None, "", "0") or (isinstance(value, int | float) and value == 0):
        return False
    if value == "1" or (isinstance(value, int | float) and value == 1):
        return True
    return None


def _phrase(name: Any) -> str:
    """Convert a category's name to a phrase; "" if it is not one."""
    if not isinstance(name, str):
        return ""
    try:
        phrases = from_phrases((name,)).phrases
    except InstructionError:
        return ""
    return phrases[0] if phrases else ""


def _file_name(entry: Mapping[str, Any]) -> str | None:
    """Return the image's file_name or, without one, its URL or path."""
    for field in _FILE_FIELDS:
        value = entry.get(field)
        if value is not None:
            return value if isinstance(value, str) and value.strip() else None
    return None


def _numbers(value: Any, count: int) -> list[float] | None:
    """Parse a list of `count` numbers, strings allowed; None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    numbers = []
    for entry in value:
        if isinstance(entry, bool) or not isinstance(entry, int | float | str):
            return None
        try:
            numbers.append(float(entry))
        except OverflowError:
            numbers.append(math.inf)
        except ValueError:
            return None
    return numbers


def _because(report: SkipReport) -> str:
    first = report.first()
    return f" that can be used ({first})" if first else ""


def _excerpt(value: Any) -> str:
    """Format a JSON value, shortened to fit into a sentence."""
    text = "none" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= 60 else f"{text[:57]}...")
