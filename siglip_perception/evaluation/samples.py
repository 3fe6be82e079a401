"""What a model is asked about an image, and the truth; generated scenes as such samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from siglip_perception.scenes.scenes import Rendered, Scene, render, sample_scene
from siglip_perception.scenes.vocabulary import COLORS, KINDS, LANGUAGES, PhraseClass
from siglip_perception.types import Box, UInt8Array

SEED = 5_000_000
"""Far from the seeds of training and of its validation batch."""

_TWINS = 8  # of so many scenes, one shows two of a kind
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Truth:
    """One thing that answers a phrase.

    mask: uint8 [height, width] of 0 and 1, None where only the box is known. hidden: share of its
    outline, in [0, 1], behind others or outside the picture; None where that is not known.
    exact: x, y, width and height before they were rounded to the box; None where they were whole.
    """

    box: Box
    mask: UInt8Array | None
    hidden: float | None
    exact: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Question:
    """A phrase, its language ("" where none is told), and what answers it: nothing, if absent."""

    phrase: str
    language: str
    truths: tuple[Truth, ...]


@dataclass(frozen=True)
class Sample:
    """One image and what is asked about it.

    image: uint8 [height, width, 3] RGB. objects: how many things it shows that have a name.
    crowds: phrases with a region of many that answer them and are not told apart.
    unsure: phrases of which not all answers are known.
    """

    name: str
    image: UInt8Array
    objects: int
    questions: tuple[Question, ...]
    crowds: tuple[tuple[str, Truth], ...] = ()
    unsure: frozenset[str] = frozenset()


def generated(scenes: int, least: int, most: int, seed: int = SEED) -> Iterator[Sample]:
    """Scenes of `least` to `most` objects in turn, 640x480, through the camera's JPEG.

    Each is asked for every phrase that names one of its objects, and for as many that name none:
    half of those differ from an object in color or in kind only.
    """
    from siglip_perception.scenes.samples import through_jpeg  # it imports PyTorch

    for number in range(scenes):
        rng = np.random.default_rng((seed, number))
        twins = number % _TWINS == _TWINS - 1
        scene = sample_scene(rng, least + number % (most - least + 1), twins=twins)
        rendered = render(scene)
        yield Sample(
            f"scene {number}",
            through_jpeg(rendered.image, _JPEG_QUALITY),
            len(scene.objects),
            tuple(_questions(scene, rendered, rng)),
        )


def _questions(scene: Scene, rendered: Rendered, rng: np.random.Generator) -> Iterator[Question]:
    shown: dict[PhraseClass, list[Truth]] = {}
    for index, item in enumerate(scene.objects):
        box = rendered.box(index)
        if box is not None:
            mask = (rendered.instances == index + 1).astype(np.uint8)
            truth = Truth(box, mask, rendered.hidden[index])
            shown.setdefault(PhraseClass(item.color, item.kind), []).append(truth)
    absent = _absent(list(shown), rng)
    for language in LANGUAGES:
        for asked, truths in shown.items():
            yield Question(asked.forms(language)[0], language, tuple(truths))
        for missing in absent:
            yield Question(missing.forms(language)[0], language, ())


def _absent(shown: list[PhraseClass], rng: np.random.Generator) -> list[PhraseClass]:
    """As many classes as are shown; every other one shares its color or kind with one shown."""
    every = [PhraseClass(color, kind) for color in COLORS for kind in KINDS]
    free = [asked for asked in every if asked not in shown]
    near = [f for f in free if any((f.color == s.color) != (f.kind == s.kind) for s in shown)]
    missing: list[PhraseClass] = []
    for number in range(len(shown)):
        pool = [f for f in (near if number % 2 == 0 else free) if f not in missing]
        missing.append(pool[int(rng.integers(len(pool)))])
    return missing
