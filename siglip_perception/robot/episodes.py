"""Episodes: what lies on the table, what the arm is told, and what it has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siglip_perception.scenes.vocabulary import COLORS, Language, PhraseClass

GRASPED_KINDS = ("block", "ball", "apple", "car", "banana", "cup")
"""Kinds that fit the gripper from above."""
PLACES = ("plate", "book")
"""Kinds that something can be put on."""
Twist = Literal["none", "absent", "same kind", "changed", "camera lost"]
TWISTS: tuple[Twist, ...] = ("none", "same kind", "none", "absent", "changed", "camera lost")
"""Complications of episodes, in turn."""
Event = Literal["moving", "holding"]
"""When the complication comes: soon after the arm has begun to move, or has lifted the thing."""


@dataclass(frozen=True)
class Item:
    """One thing on the table, by kind and color; x, y in meters, yaw in radians."""

    kind: str
    color: str
    x: float
    y: float
    yaw: float

    def phrase(self, language: Language) -> str:
        """Name it plainly."""
        return PhraseClass(self.color, self.kind).forms(language)[0]


@dataclass(frozen=True)
class Episode:
    """One order and its scene.

    items: what lies there. target, place: indices of items; None: the thing is not there (target),
    or is not asked for (place). second: the instruction that replaces the first in mid-motion, and
    its target's index. event: when that, or the loss of the camera, happens.
    expected: "act", or "still" where the named thing is absent.
    """

    number: int
    language: Language
    instruction: str
    items: tuple[Item, ...]
    target: int | None
    place: int | None
    twist: Twist
    second_instruction: str = ""
    second_target: int | None = None
    event: Event = "moving"

    @property
    def expected(self) -> Literal["act", "still"]:
        """Tell what has to happen."""
        return "still" if self.target is None else "act"

    @property
    def final_target(self) -> int | None:
        """Index of the thing that has to be moved in the end."""
        return self.target if self.second_target is None else self.second_target


@dataclass(frozen=True)
class Order:
    """An instruction of the user's own, and what it names; a color is None if it says none."""

    instruction: str
    language: Language
    target: PhraseClass
    place: PhraseClass


def sample_episode(number: int, seed: int, orders: Sequence[Order] = ()) -> Episode:
    """Sample episode `number` of a seed: the same in every run, English and Korean in turn.

    orders: what is asked for, in turn, instead of sampled instructions.
    """
    rng = np.random.default_rng((seed, number, 0xE9))
    order = orders[number % len(orders)] if orders else None
    twist: Twist = "none" if order else TWISTS[(number // 2) % len(TWISTS)]
    event: Event = "holding" if (number // (2 * len(TWISTS))) % 2 else "moving"
    language: Language = order.language if order else ("en", "ko")[number % 2]
    colors = [list(COLORS)[i] for i in rng.permutation(len(COLORS))]
    kinds = [GRASPED_KINDS[i] for i in rng.permutation(len(GRASPED_KINDS))]
    if twist == "same kind":
        kinds[1] = kinds[0]
    place_kind = PLACES[int(rng.integers(len(PLACES)))]
    if order is not None:
        kinds = _with_first(kinds, order.target.kind)
        place_kind = order.place.kind or place_kind
        colors = _with_first(colors, order.target.color)
        colors = [order.place.color or colors[-1], *colors[:-1]]
    spots = _spots(rng, 4)
    items = tuple(
        Item(kind, color, *spot, float(rng.uniform(-np.pi, np.pi)))
        for kind, color, spot in zip((place_kind, *kinds[:3]), colors, spots, strict=False)
    )
    place = 0
    if order is not None:
        return Episode(number, language, order.instruction, items, 1, place, twist)
    if twist == "absent":
        # The nearest miss: a kind that is there in a color that is not.
        missing = Item(kinds[0], colors[5], 0, 0, 0)
        text = _instruction(language, missing, items[place])
        return Episode(number, language, text, items, None, place, twist)
    text = _instruction(language, items[1], items[place])
    if twist == "changed":
        second = _instruction(language, items[2], items[place])
        return Episode(number, language, text, items, 1, place, twist, second, 2, event)
    return Episode(number, language, text, items, 1, place, twist, event=event)


def _with_first(values: list[str], first: str | None) -> list[str]:
    return values if first is None else [first, *(v for v in values if v != first)]


def _instruction(language: Language, thing: Item, place: Item) -> str:
    what, where = thing.phrase(language), place.phrase(language)
    if language == "en":
        return f"put the {what} on the {where}"
    last = ord(what[-1]) - 0xAC00
    particle = "을" if last % 28 else "를"
    return f"{what}{particle} {where} 위에 올려 놔"


def _spots(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Sample places in reach and in view, the first with room for a plate."""
    spots: list[tuple[float, float]] = []
    while len(spots) < count:
        spot = (float(rng.uniform(-0.14, 0.16)), float(rng.uniform(-0.26, 0.26)))
        gaps = [0.19 if number == 0 else 0.14 for number in range(len(spots))]
        if all(
            np.hypot(spot[0] - x, spot[1] - y) > gap
            for (x, y), gap in zip(spots, gaps, strict=True)
        ):
            spots.append(spot)
        elif rng.random() < 0.01:
            spots.clear()
    return spots
