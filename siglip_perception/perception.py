"""The Python API: images and an instruction in, tokens and objects out.

from siglip_perception import Perception
seen = Perception("tabletop").look("frame.jpg", "pick up the red cup")
seen.objects, seen.tokens, seen.overlay()
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from siglip_perception import checkpoints, contracts
from siglip_perception.config import BY_NAME, ModelSelection, Settings, check_field
from siglip_perception.errors import BackendError, InstructionError, PerceptionError
from siglip_perception.images import overlay
from siglip_perception.images.files import MAX_FILE_PIXELS, Picture
from siglip_perception.images.inputs import ImageInput, to_picture
from siglip_perception.language import instruction as language
from siglip_perception.language.instruction import Instruction
from siglip_perception.language.mentions_json import mentions_as_json
from siglip_perception.parameter import format_value
from siglip_perception.types import (
    BoolArray,
    FloatArray,
    Frame,
    GroundedObject,
    Grounding,
    Point3,
    Task,
    TokenDtype,
    TokenGrid,
    UInt8Array,
)
from siglip_perception.util.backend_names import refuse_impossible

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds: only once there is a model to load.
    from siglip_perception.contracts import Contract
    from siglip_perception.pipeline import Query

# The longer side of a notebook's picture, in pixels.
_THUMBNAIL = 480


@dataclass(frozen=True, eq=False, repr=False)
class Percept:
    """Tokens and objects of one image.

    image: uint8 [height, width, 3] RGB, upright; the caller's own memory where to_picture() says
        so.
    tokens: the fused tokens, [rows * cols, dim]; None where they were not asked for.
    grounding: the answer to the instruction; None where nothing was looked for.
    camera: the image's key in look_all({camera: image}), else "".
    notes: sentences on what was mended, cut, left out or guessed; empty where nothing was.
    timings: seconds of the steps "preprocess", "encode" and "ground", of the whole batch.
    """

    image: UInt8Array
    tokens: TokenGrid | None
    grounding: Grounding | None
    camera: str
    notes: tuple[str, ...]
    timings: Mapping[str, float]

    @property
    def objects(self) -> tuple[GroundedObject, ...]:
        """Phrase after phrase, each one's best first; boxes are in the image's pixels."""
        return () if self.grounding is None else self.grounding.objects

    @property
    def instruction(self) -> str:
        """The sanitized instruction; for phrases, their list."""
        return "" if self.grounding is None else self.grounding.instruction

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases that were grounded."""
        return () if self.grounding is None else self.grounding.phrases

    @property
    def presence(self) -> dict[str, float]:
        """The probability of each phrase, in [0, 1], that such an object is in view at all."""
        if self.grounding is None:
            return {}
        return dict(zip(self.grounding.phrases, self.grounding.presence, strict=True))

    @property
    def mask(self) -> UInt8Array | None:
        """uint8 [height, width]: 0, or the number of the object there, counted from 1.

        None if it was not requested, or there was no phrase.
        """
        return None if self.grounding is None else self.grounding.mask

    def mask_of(self, target: GroundedObject) -> BoolArray:
        """bool [height, width]: the pixels of one of `objects`.

        Raises PerceptionError without a mask, or for an object of another image.
        """
        if self.mask is None:
            raise PerceptionError("There is no mask: look with with_mask=True.")
        if target not in self.objects:
            raise PerceptionError("The object is not one of this image's.")
        pixels: BoolArray = self.mask == self.objects.index(target) + 1
        return pixels

    def overlay(self) -> UInt8Array:
        """Return a copy of the image, uint8 [height, width, 3] RGB, with the objects marked.

        Outlines are drawn if there is a mask; nothing is drawn without a phrase.
        """
        if self.grounding is None:
            return self.image.copy()
        return overlay.draw(self.image, self.grounding)

    def as_json(self) -> dict[str, Any]:
        """Return the output of `siglip-perception ground --json` as JSON values.

        Boxes are [x, y, width, height] in pixels, points [x, y, z] in meters. Raises
        PerceptionError if there was no phrase.
        """
        if self.grounding is None:
            raise PerceptionError("Nothing was looked for: give an instruction or phrases.")
        return grounding_as_json(self.grounding)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        lines = [f"Percept of {self.camera or 'an image'}, {width} x {height}"]
        if self.tokens is not None:
            size = f"{self.tokens.rows} x {self.tokens.cols} tokens of {self.tokens.dim} channels"
            lines.append(f"{size}, contract {self.tokens.contract}")
        if self.grounding is not None:
            lines += describe(self.grounding)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_jpeg_(self) -> bytes:
        """The overlay as a notebook shows it, at most 480 pixels wide and high."""
        picture = Image.fromarray(self.overlay())
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


class Perception:
    """A model, loaded, that looks at images. Use it from one thread at a time.

    >>> seen = Perception("tabletop").look("frame.jpg", "pick up the red cup")

    model: name of a packaged or fetched model, or a folder of one.
    contract: name of a token contract, or its .yaml file; "": the one that the model keeps.
    taps: encoder -> block that its tokens are taken from (-1: the last), in place of the
        contract's; the contract's name then says so, as in "tabletop+siglip-1".
    threshold: least score of an object, in [0, 1]; None: for each language the one that
        `siglip-perception calibrate` measured, 0.5 where it measured none.
    max_objects: most objects in one image, 1 to 255. Both can be changed later.
    windows: 2 looks for objects in 2 x 2 overlapping windows of each image, too: smaller things,
        four more passes of the encoders.
    tokens_dtype: "float32", "float16" or "bfloat16".
    backend: "auto", "torch", "openvino" or "tensorrt". device: "auto", "cpu" or "cuda".
    precision: "auto", "fp32", "bf16", "fp16" or "int8"; only fp32 gives nearly the same numbers
        on every machine.
    grounding_model, grounding_contract: a SigLIP to find objects with, where the tokens' own is a
        policy's that has lost its alignment with language.
    max_pixels: an image with more is refused. mono16_white: value of 16-bit gray that is white, 1
        to 65535; 0: such files are refused.

    Raises PerceptionError, one sentence, for a value out of range (before anything is loaded), a
    model that is not there or keeps no contract, a backend that cannot run here.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = ModelSelection.model,
        *,
        contract: str | os.PathLike[str] = ModelSelection.contract,
        taps: Mapping[str, int] | None = None,
        threshold: float | None = None,
        max_objects: int = Settings.max_objects,
        windows: int = Settings.windows,
        tokens_dtype: TokenDtype = Settings.tokens_dtype,
        backend: str = ModelSelection.backend,
        device: str = ModelSelection.device,
        precision: str = ModelSelection.precision,
        grounding_model: str | os.PathLike[str] = ModelSelection.grounding_model,
        grounding_contract: str | os.PathLike[str] = ModelSelection.grounding_contract,
        max_pixels: int = MAX_FILE_PIXELS,
        mono16_white: int = Settings.mono16_white,
    ) -> None:
        selection = ModelSelection.of(
            model=_plain(model),
            contract=_plain(contract),
            backend=_plain(backend),
            device=_plain(device),
            precision=_plain(precision),
            grounding_model=_plain(grounding_model),
            grounding_contract=_plain(grounding_contract),
        )
        self.model = selection.model
        options = {
            "threshold": _threshold(threshold),
            "max_objects": _check("max_objects", max_objects),
            "windows": _check("windows", windows),
            "tokens_dtype": _check("tokens_dtype", tokens_dtype),
        }
        self._max_pixels = int(_check("max_pixels", max_pixels))
        self._mono16_white = int(_check("mono16_white", mono16_white))
        if taps is not None and not isinstance(taps, Mapping):
            raise PerceptionError(
                f"taps is {format_value(taps)}: give the block of each encoder, as in {{'siglip':"
                " -1}}."
            )
        for name in filter(None, (selection.contract, selection.grounding_contract)):
            contracts.path(name)
        for model_name in filter(None, (selection.model, selection.grounding_model)):
            checkpoints.resolve(model_name)
        refuse_impossible(selection.backend, selection.device, selection.precision)
        from siglip_perception.pipeline import Pipeline, PipelineOptions

        self.pipeline = Pipeline.load(selection, PipelineOptions(**options, taps=dict(taps or {})))
        # A video's frames have the same instruction, which is then encoded only once.
        self._query = functools.lru_cache(maxsize=64)(self.pipeline.query)

    @property
    def contract(self) -> Contract:
        """Definition of the tokens: encoders, taps, grid; `channels` has each encoder's slice."""
        return self.pipeline.contract

    @property
    def fingerprint(self) -> str:
        """Digest, 64 hex digits, of the weights and the preprocessing."""
        return self.pipeline.fingerprint

    @property
    def backend(self) -> str:
        """Description of the backend that runs the encoders, and why it was chosen."""
        return self.pipeline.backend

    @property
    def threshold(self) -> float | None:
        """Least score of an object, in [0, 1]; None: each language's own, see thresholds."""
        return self.pipeline.threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self.pipeline.threshold = _threshold(value)

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of an object by the language of its phrase, in [0, 1]."""
        return self.pipeline.thresholds

    @property
    def max_objects(self) -> int:
        """Most objects in one image, 1 to 255."""
        return self.pipeline.max_objects

    @max_objects.setter
    def max_objects(self, value: int) -> None:
        self.pipeline.max_objects = int(_check("max_objects", value))

    def look(
        self,
        image: ImageInput,
        instruction: str = "",
        *,
        phrases: str | Iterable[str] | None = None,
        with_tokens: bool = True,
        with_objects: bool = True,
        with_mask: bool = True,
    ) -> Percept:
        """Look at one image.

        image: array, tensor, Pillow image, path or file's bytes; to_picture() says which, and
            when it is not copied.
        instruction: a sentence in English or Korean, or a list such as "red cup. plate."; "":
            nothing is looked for, and only the tokens are computed.
        phrases: what to look for as it is, in place of an instruction.
        with_tokens, with_objects, with_mask: what to compute; no block of an encoder runs for what
            is not asked for.

        Raises ImageError for an image that is refused; InstructionError for an instruction that
        names nothing; BackendError where this model finds no objects, or gives NaN.
        """
        picture = self._picture(image, "the image")
        request = _request(instruction, phrases) if with_objects else None
        return self._look([picture], [request], [""], with_tokens, with_mask)[0]

    @overload
    def look_all(  # type: ignore[overload-overlap] # a dict is an iterable of texts, too
        self,
        images: Mapping[str, ImageInput],
        instruction: str | Sequence[str] = "",
        *,
        phrases: str | Iterable[str] | None = None,
        with_tokens: bool = True,
        with_objects: bool = True,
        with_mask: bool = True,
        batch_size: int = 16,
    ) -> dict[str, Percept]: ...

    @overload
    def look_all(
        self,
        images: Iterable[ImageInput],
        instruction: str | Sequence[str] = "",
        *,
        phrases: str | Iterable[str] | None = None,
        with_tokens: bool = True,
        with_objects: bool = True,
        with_mask: bool = True,
        batch_size: int = 16,
    ) -> list[Percept]: ...

    def look_all(
        self,
        images: Mapping[str, ImageInput] | Iterable[ImageInput],
        instruction: str | Sequence[str] = "",
        *,
        phrases: str | Iterable[str] | None = None,
        with_tokens: bool = True,
        with_objects: bool = True,
        with_mask: bool = True,
        batch_size: int = 16,
    ) -> dict[str, Percept] | list[Percept]:
        """Look at several images, of any sizes, `batch_size` at a time; see look().

        images: a list, or an array or tensor [B, H, W, 3] (a tensor [B, 3, H, W], too), which
            gives a list; or a dict of cameras, which gives a dict of the same keys. For a policy
            that joins its cameras, join(percept.tokens of each) of siglip_perception.types is its
            one sequence.
        instruction: one for all images, or one for each.

        Errors name the image by its number, from 0, or by its camera.
        """
        size = _positive("batch_size", batch_size)
        cameras: list[str] = []
        if isinstance(images, (str, bytes, os.PathLike, Image.Image, Picture)):
            raise PerceptionError(
                "look_all() takes several images, and this is one, of type"
                f" {type(images).__name__}: give a list, or use look()."
            )
        if isinstance(images, Mapping):
            cameras = [_camera(name) for name in images]
            sources: list[ImageInput] = list(images.values())
        else:
            try:
                sources = list(images)
            except TypeError as error:
                raise PerceptionError(
                    f"look_all() takes several images, not one of type {type(images).__name__}:"
                    " give a list of them, or a dict of cameras."
                ) from error
        labels = cameras or [f"image {number}" for number in range(len(sources))]
        requests = _requests(instruction, phrases, len(sources)) if with_objects else None
        pictures = [self._picture(*pair) for pair in zip(sources, labels, strict=True)]
        percepts: list[Percept] = []
        for start in range(0, len(pictures), size):
            part = slice(start, start + size)
            chunk = pictures[part]
            percepts += self._look(
                chunk,
                requests[part] if requests is not None else [None] * len(chunk),
                labels[part],
                with_tokens,
                with_mask,
            )
        if not isinstance(images, Mapping):
            return percepts
        return {
            camera: replace(percept, camera=camera)
            for camera, percept in zip(cameras, percepts, strict=True)
        }

    def tokens(self, image: ImageInput) -> TokenGrid:
        """The fused tokens of one image, and nothing else; see look()."""
        tokens = self.look(image, with_mask=False).tokens
        assert tokens is not None
        return tokens

    def embed(self, phrases: str | Iterable[str]) -> FloatArray:
        """Encode phrases with SigLIP's text tower: float32 [P, D], each row of unit length.

        A product of two rows is their cosine. One phrase gives [1, D].

        Raises InstructionError for a phrase that is empty, or that would have to be cut;
        BackendError where this model has no text tower.
        """
        texts = [_embeddable(phrase) for phrase in _as_list(phrases)]
        if not texts:
            raise InstructionError("There is no phrase to embed: give at least one.")
        rows = []
        for start in range(0, len(texts), language.MAX_PHRASES):
            part = tuple(texts[start : start + language.MAX_PHRASES])
            embedded, truncated = self.pipeline.embed(part)
            for phrase, cut in zip(part, truncated, strict=True):
                if cut:
                    raise InstructionError(
                        f"The phrase {format_value(phrase)} is longer than the text encoder reads:"
                        " say it in fewer words."
                    )
            rows.append(embedded.cpu().numpy())
        embeddings: FloatArray = np.concatenate(rows)
        return embeddings

    def __repr__(self) -> str:
        return f"Perception({self.model!r}): contract {self.contract.name}, {self.backend}"

    def _picture(self, image: ImageInput, name: str) -> Picture:
        return to_picture(
            image, name=name, max_pixels=self._max_pixels, mono16_white=self._mono16_white
        )

    def _look(
        self,
        pictures: Sequence[Picture],
        requests: Sequence[Instruction | None],
        names: Sequence[str],
        with_tokens: bool,
        with_mask: bool,
    ) -> list[Percept]:
        """One batch. names: of the images in errors; empty for the only one."""
        queries = [None if request is None else self._query(request) for request in requests]
        if not with_tokens and None in queries:
            raise PerceptionError(
                "Neither tokens nor objects are asked for: give an instruction or phrases, or"
                " leave with_tokens as it is."
            )
        tasks = [
            Task(Frame(picture.pixels), query, with_mask)
            for picture, query in zip(pictures, queries, strict=True)
        ]
        results = self.pipeline.process_batch(tasks, with_tokens=with_tokens)
        percepts = []
        for number, result in enumerate(results):
            if isinstance(result, FloatingPointError):
                name = f"{names[number]}: " if names[number] else ""
                raise BackendError(
                    f"{name}{result} Check the weights, or use precision fp32 and backend torch."
                ) from result
            notes = _notes(pictures[number], requests[number], queries[number])
            percepts.append(
                Percept(
                    pictures[number].pixels,
                    result.tokens,
                    result.grounding,
                    "",
                    tuple(notes),
                    result.timings,
                )
            )
        return percepts


def describe(grounding: Grounding) -> list[str]:
    """A line for each phrase, and below it one for each of its objects."""
    lines = []
    if grounding.uncalibrated:
        lines.append("uncalibrated scores: they rank objects, but are no probabilities")
    if grounding.outside_training:
        lines.append("outside training: this image is unlike those that scores were measured on")
    outside = set(grounding.unfamiliar)
    for number, (phrase, presence) in enumerate(
        zip(grounding.phrases, grounding.presence, strict=True)
    ):
        objects = [item for item in grounding.objects if item.phrase == phrase]
        doubt = ", outside training" if number in outside else ""
        found = "" if objects else ", not found"
        lines.append(f"{phrase}: in view {presence:.2f}{found}{doubt}")
        lines += [
            f"  score {item.score:.2f}, box x {item.box.x} y {item.box.y}"
            f" {item.box.width} x {item.box.height}"
            + (f", {item.role.name.lower()}" if item.role else "")
            for item in objects
        ]
    return lines


def grounding_as_json(grounding: Grounding) -> dict[str, Any]:
    """Make the JSON of Percept.as_json()."""
    return {
        "instruction": grounding.instruction,
        "contract": grounding.contract,
        "phrases": list(grounding.phrases),
        "presence": [round(value, 6) for value in grounding.presence],
        "mentions": mentions_as_json(grounding.phrases, grounding.mentions),
        "confidence": round(grounding.confidence, 3),
        "objects": [_object_as_json(item) for item in grounding.objects],
        "uncalibrated": grounding.uncalibrated,
        "outside_training": grounding.outside_training,
        "unfamiliar": list(grounding.unfamiliar),
    }


def read_instruction(text: str) -> Instruction:
    """Parse an instruction that has to name an object; raises InstructionError."""
    instruction = language.parse(text)
    if not instruction.phrases:
        raise InstructionError(instruction.explanation)
    return instruction


def _request(text: object, phrases: object) -> Instruction | None:
    """Return the instruction of one image; None if there is none."""
    if not isinstance(text, str):
        raise InstructionError(
            f"The instruction is of type {type(text).__name__}: give a sentence, or phrases=[...]."
        )
    if phrases is None:
        return read_instruction(text) if text.strip() else None
    if text.strip():
        raise InstructionError("Both an instruction and phrases are given: leave one of them out.")
    texts = _as_list(phrases)
    if not texts:
        return None
    request = language.from_phrases(texts)
    if not request.phrases:
        raise InstructionError(
            f"The phrases {format_value(texts)} name no object: say what it is."
        )
    return request


def _requests(text: object, phrases: object, count: int) -> list[Instruction | None]:
    """Return the instruction of each of `count` images."""
    if isinstance(text, str) or not isinstance(text, Sequence):
        return [_request(text, phrases)] * count
    if len(text) != count:
        raise InstructionError(
            f"There are {len(text)} instructions for {count} images: give one for each, or a"
            " single one for all."
        )
    return [_request(entry, phrases) for entry in text]


def _as_list(phrases: object) -> list[str]:
    if isinstance(phrases, str):
        return [phrases]
    texts: list[Any] = list(phrases) if isinstance(phrases, Iterable) else [phrases]
    for phrase in texts:
        if not isinstance(phrase, str):
            raise InstructionError(
                f"A phrase is of type {type(phrase).__name__}: give a list of texts."
            )
    return texts


def _embeddable(phrase: str) -> str:
    """Return the phrase as the text tower reads it; raises InstructionError if any is lost."""
    read = language.from_phrases([phrase])
    if not read.phrases:
        raise InstructionError(f"The phrase {format_value(phrase)} names nothing: give a word.")
    if read.changed:
        raise InstructionError(
            f"The phrase {format_value(phrase)} has more than {language.MAX_PHRASE_CHARS}"
            " characters, or some that are not text: shorten it, or remove them."
        )
    return read.phrases[0]


def _notes(picture: Picture, request: Instruction | None, query: Query | None) -> list[str]:
    notes = []
    if picture.repairs:
        notes.append(f"the image has faults that were repaired: {', '.join(picture.repairs)}")
    if request is not None and request.changed:
        notes.append(
            f"the instruction was cut to {language.MAX_PHRASES} phrases of"
            f" {language.MAX_PHRASE_CHARS} characters, or characters that are not text left out"
        )
    if request is not None and request.explanation:
        notes.append(request.explanation)
    if query is not None and any(query.truncated):
        pairs = zip(query.phrases, query.truncated, strict=True)
        cut = ", ".join(format_value(phrase) for phrase, truncated in pairs if truncated)
        notes.append(f"longer than the text encoder reads, and cut: {cut}")
    return notes


def _check(name: str, value: object) -> Any:
    """Check an option by the rules of the node's parameter of this field."""
    return check_field(name, _plain(value))


def _threshold(value: object) -> float | None:
    """Check a threshold; None stands for what the node's parameter has a special value for."""
    if value is None:
        return None
    parameter = replace(BY_NAME["threshold"], special=None)
    return float(parameter.check(_plain(value)))  # type: ignore[arg-type]


def _positive(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PerceptionError(
            f"{name} is {format_value(value)}; it must be a whole number, 1 or more."
        )
    return value


def _plain(value: object) -> object:
    """Convert a path to a text, and numpy's scalar to Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def _camera(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise PerceptionError(f"A camera is called {format_value(name)}: name it with a text.")
    return name


def _object_as_json(item: GroundedObject) -> dict[str, Any]:
    return {
        "phrase": item.phrase,
        "role": item.role.name.lower(),
        "score": round(item.score, 6),
        "logit": round(item.logit, 6),
        "box": [item.box.x, item.box.y, item.box.width, item.box.height],
        "area": round(item.area, 6),
        "id": item.id,
        "mentions": list(item.mentions),
        "position": _meters(item.position),
        "extent": _meters(item.extent),
    }


def _meters(point: Point3) -> list[float] | None:
    """[x, y, z], or nothing without depth: JSON has no NaN."""
    return [round(value, 4) for value in point] if all(map(math.isfinite, point)) else None
