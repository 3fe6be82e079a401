"""Sample bag of the demo: generated tabletop scenes with instructions about them."""

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
# An arbitrary but fixed time, so that the bag is always the same.
START_NS = 1_750_000_000 * 10**9
# Time from an instruction to the first frame that it is meant for.
LEAD_NS = 200_000_000
_SUPPORTS = ("plate", "bowl", "book")


@dataclass(frozen=True)
class Part:
    """A scene, and the instructions while it is in view, at even intervals."""

    scene: Scene
    instructions: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """Content of the bag. truth: for each frame, phrase -> box of its object."""

    truth: tuple[Mapping[str, Box], ...]

    @property
    def frames(self) -> int:
        return len(self.truth)


def parts(seed: int) -> list[Part]:
    """Return the bag's parts: two scenes, each with an English and a Korean instruction."""
    rng = np.random.default_rng(seed)
    story = []
    for _ in range(SCENES):
        scene = sample_scene(rng, OBJECTS)
        order = [scene.objects[i] for i in rng.permutation(OBJECTS)]
        # A kind that things can be put on comes last, as the place.
        order.sort(key=lambda item: item.kind in _SUPPORTS)
        place, first, second = order[-1], order[0], order[1]
        story.append(Part(scene, (sentence(first, place, "en"), sentence(second, place, "ko"))))
    return story


def sentence(target: SceneObject, place: SceneObject, language: Language) -> str:
    """Return the order to put `target` onto `place`, in English or Korean."""
    target_phrase, place_phrase = target.phrase(language), place.phrase(language)
    if language == "en":
        return f"put the {target_phrase} on the {place_phrase}"
    # The object particle is 을 after a syllable that ends in a consonant, otherwise 를.
    particle = "을" if (ord(target_phrase[-1]) - ord("가")) % 28 else "를"
    return f"{target_phrase}{particle} {place_phrase}에 올려 놓아"


def write_recording(path: Path, seed: int, rate_hz: int = RATE_HZ) -> Recording:
    """Write the bag, a new folder, with this many frames per second; raises BagError."""
    story = parts(seed)
    scene_frames = SCENE_S * rate_hz
    instructions = []
    for number, part in enumerate(story):
        for i, text in enumerate(part.instructions):
            frame = number * scene_frames + i * scene_frames // len(part.instructions)
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
            picture = render(scene, WIDTH, HEIGHT)
            stamp_ns = _stamp_ns(len(truth), rate_hz)
            boxes = [(item, picture.box(i)) for i, item in enumerate(scene.objects)]
            truth.append(
                {
                    item.phrase(language): box
                    for item, box in boxes
                    for language in LANGUAGES
                    if box is not None
                }
            )
            image = np.ascontiguousarray(picture.image)
            yield stamp_ns, simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY)


def _stamp_ns(frame: int, rate_hz: int) -> int:
    return START_NS + frame * 10**9 // rate_hz
