"""Evaluation samples: images with questions and ground truth, here from generated scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siglip_perception.scenes.rendered.stage import Picture
from siglip_perception.scenes.samples.items import through_jpeg
from siglip_perception.scenes.scenes import Rendering, render, sample_scene
from siglip_perception.scenes.vocabulary import COLORS, KINDS, LANGUAGES, PhraseClass
from siglip_perception.types import Box, UInt8Array

SEED = 5_000_000
"""Far from the seeds of training and of its validation batch."""

_TWINS = 8  # every eighth scene shows two objects of the same kind and color
_JPEG_QUALITY = 90
_STAGE_SCENES = 50
"""Scenes of one stock of shapes: fewer than in training, as making one costs a second."""


@dataclass(frozen=True)
class Truth:
    """One true object for a phrase.

    mask: uint8 [height, width] of 0 and 1, None if only the box is known. occlusion: share of its
    outline, in [0, 1], behind others or outside the image; None if unknown.
    exact: x, y, width and height before rounding; None if the box is exact.
    """

    box: Box
    mask: UInt8Array | None
    occlusion: float | None
    exact: tuple[float, float, float, float] | None = None


Miss = Literal["", "other color", "other kind", "swapped", "far"]
"""How an absent phrase fails: its kind is there in another color, its color on another kind, both
but on different things, or neither; "" if unknown."""


@dataclass(frozen=True)
class Question:
    """A phrase, its language ("" if unknown), and its true objects: none if it is absent."""

    phrase: str
    language: str
    truths: tuple[Truth, ...]
    miss: Miss = ""


@dataclass(frozen=True)
class Sample:
    """One image with its questions.

    image: uint8 [height, width, 3] RGB. objects: number of named objects that it shows.
    crowds: phrases with a region of many matching objects that are not told apart.
    unsure: phrases whose truth is incomplete.
    """

    name: str
    image: UInt8Array
    objects: int
    questions: tuple[Question, ...]
    crowds: tuple[tuple[str, Truth], ...] = ()
    unsure: frozenset[str] = frozenset()


def scene_samples(scenes: int, least: int, most: int, seed: int = SEED) -> Iterator[Sample]:
    """Generate 640x480 scenes of `least` to `most` objects in turn, with JPEG artifacts.

    Each has a question per object name and as many for absent ones, half of which differ from an
    object only in color or only in kind.
    """
    for number in range(scenes):
        rng = np.random.default_rng((seed, number))
        twins = number % _TWINS == _TWINS - 1
        scene = sample_scene(rng, least + number % (most - least + 1), twins=twins)
        rendering = render(scene)
        yield Sample(
            f"scene {number}",
            through_jpeg(rendering.image, _JPEG_QUALITY),
            len(scene.objects),
            tuple(
                _questions([PhraseClass(o.color, o.kind) for o in scene.objects], rendering, rng)
            ),
        )


def rendered_samples(
    scenes: int, least: int, most: int, seed: int = SEED, stage_scenes: int = _STAGE_SCENES
) -> Iterator[Sample]:
    """Generate 640x480 scenes as scene_samples does, but rendered by MuJoCo.

    Fewer objects than asked for are in a scene where they would not be in view. Shapes, textures,
    lights and cameras of a seed are its own. stage_scenes: scenes of one stock of shapes and
    textures.
    """
    from siglip_perception.scenes.rendered.layout import sample_layout
    from siglip_perception.scenes.rendered.shards import new_stage

    for first in range(0, scenes, stage_scenes):
        with new_stage(seed, first // stage_scenes, 640, 480) as stage:
            for number in range(first, min(first + stage_scenes, scenes)):
                rng = np.random.default_rng((seed, number))
                count = least + number % (most - least + 1)
                picture = None
                while picture is None or picture.objects < min(count, 2):
                    layout = sample_layout(
                        rng,
                        stage.stock,
                        count,
                        stage.grounds,
                        stage.patterns,
                        twins=number % _TWINS == _TWINS - 1,
                    )
                    picture = stage.draw(layout)
                names = [
                    PhraseClass(thing.color, kind)
                    for thing, kind in zip(picture.things, picture.kinds, strict=True)
                ][: picture.objects]
                yield Sample(
                    f"rendered scene {number}",
                    through_jpeg(picture.image, _JPEG_QUALITY),
                    picture.objects,
                    tuple(_questions(names, picture, rng)),
                )


def _questions(
    names: list[PhraseClass], rendering: Rendering | Picture, rng: np.random.Generator
) -> Iterator[Question]:
    truths_by_class: dict[PhraseClass, list[Truth]] = {}
    for index, name in enumerate(names):
        box = rendering.box(index)
        if box is not None:
            mask = (rendering.instances == index + 1).astype(np.uint8)
            truth = Truth(box, mask, rendering.occlusion[index])
            truths_by_class.setdefault(name, []).append(truth)
    absent = _absent(list(truths_by_class), rng)
    for language in LANGUAGES:
        for phrase, truths in truths_by_class.items():
            yield Question(phrase.forms(language)[0], language, tuple(truths))
        for phrase in absent:
            miss = _miss(phrase, list(truths_by_class))
            yield Question(phrase.forms(language)[0], language, (), miss)


def _miss(absent: PhraseClass, present: list[PhraseClass]) -> Miss:
    has_color = any(phrase.color == absent.color for phrase in present)
    has_kind = any(phrase.kind == absent.kind for phrase in present)
    if has_color and has_kind:
        return "swapped"
    return "other kind" if has_color else "other color" if has_kind else "far"


def _absent(present: list[PhraseClass], rng: np.random.Generator) -> list[PhraseClass]:
    """Sample as many absent classes as present ones; every other one shares a color or kind."""
    every = [PhraseClass(color, kind) for color in COLORS for kind in KINDS]
    absent = [phrase for phrase in every if phrase not in present]
    near = [f for f in absent if any((f.color == s.color) != (f.kind == s.kind) for s in present)]
    chosen_classes: list[PhraseClass] = []
    for number in range(len(present)):
        pool = [f for f in (near if number % 2 == 0 else absent) if f not in chosen_classes]
        chosen_classes.append(pool[int(rng.integers(len(pool)))])
    return chosen_classes
