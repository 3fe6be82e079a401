"""The demo's sample bag: generated tabletop scenes, and what a person might say about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from siglip_perception.bags.replay import write_sample_bag
from siglip_perception.scenes.scenes import Scene, SceneObject, animate, render, sample_scene
from siglip_perception.scenes.vocabulary import LANGUAGES, Language
from siglip_perception.types import Box

WIDTH, HEIGHT = 640, 480
RATE_HZ = 20
SCENES = 2
SCENE_S = 8
OBJECTS = 4
JPEG_QUALITY = 90
# Any time will do; a fixed one makes the bag the same each time.
START_NS = 1_750_000_000 * 10**9
# An instruction is spoken this long before the first frame that it is meant for.
LEAD_NS = 200_000_000
_SUPPORTS = ("plate", "bowl", "book")


@dataclass(frozen=True)
class Part:
    """A scene, and the instructions given while it is in view, evenly spread."""

    scene: Scene
    instructions: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """What is in the bag. truth: for each frame, where in it the object of each phrase is."""

    truth: tuple[Mapping[str, Box], ...]

    @property
    def frames(self) -> int:
        return len(self.truth)


def parts(seed: int) -> list[Part]:
    """The story of the bag: two scenes, each with an English and a Korean instruction."""
    rng = np.random.default_rng(seed)
    told = []
    for _ in range(SCENES):
        scene = sample_scene(rng, OBJECTS)
        order = [scene.objects[i] for i in rng.permutation(OBJECTS)]
        # Where there is something to put things on, it is the place.
        order.sort(key=lambda item: item.kind in _SUPPORTS)
        place, first, second = order[-1], order[0], order[1]
        told.append(Part(scene, (sentence(first, place, "en"), sentence(second, place, "ko"))))
    return told


def sentence(target: SceneObject, place: SceneObject, language: Language) -> str:
    """What to do with `target`, in English or Korean."""
    what, where = target.phrase(language), place.phrase(language)
    if language == "en":
        return f"put the {what} on the {where}"
    # The object particle is 을 after a syllable that ends in a consonant, otherwise 를.
    particle = "을" if (ord(what[-1]) - ord("가")) % 28 else "를"
    return f"{what}{particle} {where}에 올려 놓아"


def write_recording(path: Path, seed: int, rate_hz: int = RATE_HZ) -> Recording:
    """Write the bag (a new folder) of so many frames a second. Raises BagError."""
    story = parts(seed)
    each = SCENE_S * rate_hz
    instructions = []
    for number, part in enumerate(story):
        for i, text in enumerate(part.instructions):
            frame = number * each + i * each // len(part.instructions)
            instructions.append((_stamp_ns(frame, rate_hz) - LEAD_NS, text))
    truth: list[dict[str, Box]] = []
    frames = _frames(story, rate_hz, np.random.default_rng(seed), truth)
    write_sample_bag(path, frames, instructions)
    return Recording(tuple(truth))


def _frames(
    story: list[Part], rate_hz: int, rng: np.random.Generator, truth: list[dict[str, Box]]
) -> Iterator[tuple[int, bytes]]:
    for part in story:
        for scene in animate(part.scene, rng, SCENE_S * rate_hz):
            rendered = render(scene, WIDTH, HEIGHT)
            stamp_ns = _stamp_ns(len(truth), rate_hz)
            boxes = [(item, rendered.box(i)) for i, item in enumerate(scene.objects)]
            truth.append(
                {
                    item.phrase(language): box
                    for item, box in boxes
                    for language in LANGUAGES
                    if box is not None
                }
            )
            image = np.ascontiguousarray(rendered.image)
            yield stamp_ns, simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY)


def _stamp_ns(frame: int, rate_hz: int) -> int:
    return START_NS + frame * 10**9 // rate_hz
