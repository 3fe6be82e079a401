"""Generated tabletop scenes: named objects among clutter, from a seed, for ever new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from siglip_perception.scenes.drawing import (
    COVERS,
    MATERIALS,
    PATTERNS,
    Light,
    Rendered,
    Scene,
    SceneObject,
    fill,
    outlines,
    painting_order,
    render,
)
from siglip_perception.scenes.shapes import CLUTTER, MAT, TURNS_FREELY
from siglip_perception.scenes.vocabulary import COLORS, KINDS

__all__ = [
    "MAX_CLUTTER",
    "MAX_OBJECTS",
    "Light",
    "Rendered",
    "Scene",
    "SceneObject",
    "animate",
    "render",
    "sample_scene",
]

MAX_OBJECTS = 8
MAX_CLUTTER = 4
MOST_HIDDEN = 0.5
"""No object of a sampled scene has more than this share of its outline hidden."""

_TABLES = (
    (150, 111, 76),
    (176, 142, 104),
    (120, 124, 128),
    (168, 170, 165),
    (98, 120, 110),
    (140, 128, 140),
    (196, 182, 160),
    (92, 100, 118),
)
_WALLS = ((205, 200, 188), (160, 172, 180), (190, 178, 160), (120, 130, 140))
_MUTED = ((150, 145, 120), (110, 135, 135), (175, 165, 150), (125, 125, 135), (140, 150, 110))
_ROOM = 4 / 3
_TRIES = 400
_PREVIEW = 96


def sample_scene(rng: np.random.Generator, objects: int, *, twins: bool = False) -> Scene:
    """A scene of that many objects (1 to 8), all of different color and kind, amid clutter.

    Some stand before others: at most MOST_HIDDEN of an object is hidden. With `twins` the last
    object is of the same color and kind as the first.
    """
    kinds, colors = list(KINDS), list(COLORS)
    closeness = 0.54 if rng.random() < 0.5 else float(rng.uniform(0.1, 0.5))
    placed: list[SceneObject] = []
    taken: set[tuple[str, str]] = set()
    scale = 1.0 if objects < 5 else 0.85
    while len(placed) < objects:
        kind = kinds[int(rng.integers(len(kinds)))]
        color = colors[int(rng.integers(len(colors)))]
        if twins and objects > 1 and len(placed) == objects - 1:
            kind, color = placed[0].kind, placed[0].color
        elif (kind, color) in taken:
            continue
        size = scale * float(np.exp(rng.uniform(np.log(0.19), np.log(0.42))))
        candidate = _thing(rng, kind, color, size)
        near = any(_near(candidate, other, closeness) for other in placed)
        free = _free(candidate, placed)
        if near or (not free and _most_hidden([*placed, candidate], []) > MOST_HIDDEN):
            scale = max(scale * 0.985, 0.55)
            continue
        placed.append(candidate)
        taken.add((kind, color))
    placed.sort(key=lambda item: item.y)
    table, wall = _TABLES[int(rng.integers(len(_TABLES)))], _WALLS[int(rng.integers(len(_WALLS)))]
    return Scene(
        tuple(placed),
        table,
        wall,
        horizon=float(max(rng.uniform(-0.15, 0.3), 0.0)),
        light=_light(rng),
        noise=float(rng.uniform(1.0, 8.0)),
        seed=int(rng.integers(2**31)),
        clutter=_clutter(rng, placed),
        cover=COVERS[int(rng.integers(len(COVERS)))],
        motion=(
            (float(rng.uniform(0.008, 0.022)), float(rng.uniform(0, np.pi)))
            if rng.random() < 0.2
            else (0.0, 0.0)
        ),
        defocus=float(rng.uniform(0.002, 0.006)) if rng.random() < 0.15 else 0.0,
    )


def _thing(rng: np.random.Generator, kind: str, color: str, size: float) -> SceneObject:
    """A thing of that kind and color ("" for a muted one) anywhere on the table."""
    base = COLORS[color][0] if color else _MUTED[int(rng.integers(len(_MUTED)))]
    rgb = np.clip(np.array(base) + rng.normal(0, 9, 3), 0, 255).astype(int)
    free = kind in TURNS_FREELY
    return SceneObject(
        kind,
        color,
        (int(rgb[0]), int(rgb[1]), int(rgb[2])),
        x=float(rng.uniform(0.12, _ROOM - 0.12)),
        y=float(rng.uniform(0.16, 0.88)),
        size=size,
        angle=float(rng.uniform(-np.pi, np.pi) if free else rng.normal(0, 0.12)),
        aspect=float(rng.uniform(0.88, 1.14)),
        material=MATERIALS[int(rng.integers(len(MATERIALS)))],
        pattern=PATTERNS[int(rng.integers(1, len(PATTERNS)))] if rng.random() < 0.25 else "plain",
        phase=float(rng.random()),
    )


def _near(first: SceneObject, second: SceneObject, closeness: float) -> bool:
    apart = np.hypot(first.x - second.x, first.y - second.y)
    return bool(apart < closeness * (first.size + second.size))


def _free(thing: SceneObject, others: list[SceneObject]) -> bool:
    """Whether it is plain without drawing that it hides nothing and nothing of it is hidden."""
    reach = 0.75 * thing.size
    inside = reach < thing.x < _ROOM - reach and reach < thing.y < 1 - reach
    return inside and not any(_near(thing, other, 0.75) for other in others)


def _clutter(rng: np.random.Generator, objects: list[SceneObject]) -> tuple[SceneObject, ...]:
    """Up to MAX_CLUTTER things that hide hardly anything of the objects, a mat among them."""
    placed: list[SceneObject] = []
    if rng.random() < 0.2:
        mat = _thing(rng, MAT, "", float(rng.uniform(0.5, 0.9)))
        placed.append(replace(mat, aspect=float(rng.uniform(0.7, 1.1)), material="rough"))
    wanted = int(rng.choice(MAX_CLUTTER, p=(0.35, 0.3, 0.2, 0.15)))
    for _ in range(_TRIES):
        if wanted <= 0:
            break
        color = list(COLORS)[int(rng.integers(len(COLORS)))] if rng.random() < 0.5 else ""
        kind = CLUTTER[int(rng.integers(len(CLUTTER)))]
        thing = _thing(rng, kind, color, float(rng.uniform(0.1, 0.24)))
        if any(_near(thing, other, 0.5) for other in (*objects, *placed) if other.kind != MAT):
            continue
        if _free(thing, objects) or _most_hidden(objects, [*placed, thing]) <= MOST_HIDDEN:
            placed.append(thing)
            wanted -= 1
    return tuple(placed)


def _most_hidden(objects: list[SceneObject], clutter: list[SceneObject]) -> float:
    """The largest hidden share of any object, from a small drawing."""
    scene = Scene(tuple(objects), (0,) * 3, (0,) * 3, 0.0, Light(), 0.0, 0, tuple(clutter))
    # Half a picture of margin on each side: what stands outside counts as hidden.
    height, width, margin = _PREVIEW, round(_PREVIEW * _ROOM), _PREVIEW // 2
    labels = np.zeros((height + 2 * margin, width + 2 * margin), dtype=np.uint8)
    shift = np.int32(margin << 4)
    whole = {}
    for number, item in painting_order(scene):
        mask = np.zeros_like(labels)
        for points in outlines(item, height):
            fill(mask, points + shift, 1, cv2.LINE_8)
        whole[number] = int(np.count_nonzero(mask))
        labels[mask > 0] = number
    inside = labels[margin : margin + height, margin : margin + width]
    seen = np.bincount(inside.ravel(), minlength=len(whole) + 1)
    return max(1 - float(seen[n]) / max(whole[n], 1) for n in range(1, len(objects) + 1))


def _light(rng: np.random.Generator) -> Light:
    direction = float(rng.uniform(0, 2 * np.pi))
    reach = float(rng.uniform(0.03, 0.16))
    tint = rng.normal(1, 0.035, 3).clip(0.92, 1.08)
    return Light(
        level=float(rng.uniform(0.72, 1.15)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        slope=(float(rng.normal(0, 0.16)), float(rng.normal(0, 0.16))),
        shadow=(reach * float(np.cos(direction)), reach * abs(float(np.sin(direction)))),
        depth=float(rng.uniform(0.15, 0.5)),
        softness=float(rng.uniform(0.0, 0.02)),
        band=float(rng.uniform(0.15, 0.35)) if rng.random() < 0.2 else 0.0,
        band_at=float(rng.uniform(-0.5, 0.5)),
        band_angle=float(rng.uniform(0, np.pi)),
    )


def animate(scene: Scene, rng: np.random.Generator, frames: int) -> Iterator[Scene]:
    """The same scene as a slowly moving camera sees it: a drift that comes back."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    reach = rng.uniform(0.02, 0.05, 2)
    for number in range(frames):
        turn = 2 * np.pi * number / max(frames, 1)
        dx = reach[0] * (np.sin(turn + phase[0]) - np.sin(phase[0]))
        dy = reach[1] * (np.sin(turn + phase[1]) - np.sin(phase[1]))
        objects, clutter = (
            tuple(replace(item, x=item.x + dx, y=item.y + dy) for item in things)
            for things in (scene.objects, scene.clutter)
        )
        yield replace(scene, objects=objects, clutter=clutter)
