"""One generated scene as a training sample; sample i of a seed is the same in every run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import simplejpeg

from siglip_perception import contracts
from siglip_perception.images.squares import SquareSpec, to_levels
from siglip_perception.scenes.rendered.shards import RenderedShards, StoredScene
from siglip_perception.scenes.rendered.views import sample_view
from siglip_perception.scenes.scenes import (
    MAX_CLUTTER,
    MAX_OBJECTS,
    Rendering,
    render,
    sample_scene,
)
from siglip_perception.scenes.vocabulary import (
    LANGUAGES,
    PHRASE_CLASSES,
    sample_caption,
)
from siglip_perception.types import FloatArray, UInt8Array

SceneItem = tuple[UInt8Array, FloatArray, FloatArray, str]
"""Image, coverage, answers and caption of one scene: one row of batches.Batch."""

MAX_THINGS = MAX_OBJECTS + MAX_CLUTTER
_TWINS = 0.12
_CAPTION_OBJECTS = 4
"""Maximum number of objects in a caption: more do not fit the text tower's context."""
TABLETOP = contracts.get("tabletop")
GRID = TABLETOP.rows
_SQUARE = SquareSpec.of(TABLETOP, TABLETOP.encoders[0])
_KIND_STREAM = 0x3D
_EMPTY = {"en": "an empty table", "ko": "빈 탁자"}
_RENDER_SIZES = ((320, 240), (320, 240), (400, 300))


def through_jpeg(image: UInt8Array, quality: int) -> UInt8Array:
    """Encode to JPEG of that quality and decode again, RGB in and out."""
    data = simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB")
    output: UInt8Array = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return output


def patch_coverage(rendering: Rendering, things: int) -> FloatArray:
    """Compute the exact share of each patch that a thing covers, float32 [GRID * GRID, things]."""
    return instance_coverage(rendering.instances, things)


def instance_coverage(instances: UInt8Array, things: int) -> FloatArray:
    """Compute the coverage of uint8 [height, width] instances, float32 [GRID * GRID, things]."""
    coverage = np.zeros((GRID * GRID, things), dtype=np.float32)
    for number in range(things):
        mask = (instances == number + 1).astype(np.float32)
        coverage[:, number] = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    return coverage


@dataclass(frozen=True)
class RenderedShare:
    """Share of samples, 0 to 1, that are rendered scenes of a folder instead of drawn ones."""

    shards: RenderedShards
    share: float


def scene_item(
    seed: int, number: int, rendered: RenderedShare | None = None, max_objects: int = MAX_OBJECTS
) -> SceneItem:
    """Make sample `number` of a seed: a drawn scene, or one of the share of rendered ones.

    max_objects: most named objects in a drawn scene.
    """
    rng = np.random.default_rng((seed, number))
    if rendered is not None and _is_rendered(seed, number, rendered.share):
        shards = rendered.shards
        return _rendered_item(shards[int(rng.integers(len(shards)))], rng)
    twins = rng.random() < _TWINS
    scene = sample_scene(rng, int(rng.integers(1, max_objects + 1)), twins=twins)
    width, height = _RENDER_SIZES[int(rng.integers(len(_RENDER_SIZES)))]
    rendering = render(scene, width, height)
    image = rendering.image
    if rng.random() < 0.4:
        image = through_jpeg(image, int(rng.integers(50, 96)))
    things = (*scene.objects, *scene.clutter)
    coverage = np.zeros((GRID * GRID, MAX_THINGS), dtype=np.float32)
    coverage[:, : len(things)] = patch_coverage(rendering, len(things))
    answers = np.zeros((MAX_THINGS, len(PHRASE_CLASSES)), dtype=np.float32)
    for index, item in enumerate(things):
        answers[index] = _answers(item.color, item.kind)
    return (
        to_levels(image, _SQUARE),
        coverage,
        answers,
        _caption([(o.color, o.kind) for o in scene.objects], rng),
    )


def _is_rendered(seed: int, number: int, share: float) -> bool:
    """Choose by a generator of its own: a drawn scene stays the same whatever the share is."""
    return bool(np.random.default_rng((seed, number, _KIND_STREAM)).random() < share)


def _rendered_item(scene: StoredScene, rng: np.random.Generator) -> SceneItem:
    """Crop, flip and compress a stored scene anew each time it comes."""
    view = sample_view(scene, rng)
    image = view.image
    if rng.random() < 0.4:
        image = through_jpeg(image, int(rng.integers(50, 96)))
    things = view.things[:MAX_THINGS]
    coverage = np.zeros((GRID * GRID, MAX_THINGS), dtype=np.float32)
    coverage[:, : len(things)] = instance_coverage(view.instances, len(things))
    answers = np.zeros((MAX_THINGS, len(PHRASE_CLASSES)), dtype=np.float32)
    for number, thing in enumerate(things):
        if view.in_view[number]:
            answers[number] = _answers(thing.color, thing.kind)
    pairs = [
        (t.color, t.kind) for t, v in zip(things, view.in_view, strict=False) if t.named and v
    ]
    return to_levels(image, _SQUARE), coverage, answers, _caption(pairs, rng)


@cache
def _answers(color: str, kind: str) -> FloatArray:
    """Mark the phrase classes that name a thing, float32 [C]; muted clutter has none."""
    return np.array([c.matches(color, kind) for c in PHRASE_CLASSES], dtype=np.float32)


def _caption(color_kinds: list[tuple[str, str]], rng: np.random.Generator) -> str:
    """Name up to _CAPTION_OBJECTS of the objects in one language, or say that there is none."""
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    if not color_kinds:
        return _EMPTY[language]
    selection = rng.permutation(len(color_kinds))[:_CAPTION_OBJECTS]
    return sample_caption([color_kinds[i] for i in selection], language, rng)
