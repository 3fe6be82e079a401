"""Sample tabletop scenes from a seed: named objects among clutter."""

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
    Rendering,
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
    "Rendering",
    "Scene",
    "SceneObject",
    "animate",
    "render",
    "sample_scene",
]

MAX_OBJECTS = 8
MAX_CLUTTER = 4
MOST_HIDDEN = 0.5
"""Maximum hidden share of any object's outline in a sampled scene."""

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
_MUTED_COLORS = (
    (150, 145, 120),
    (110, 135, 135),
    (175, 165, 150),
    (125, 125, 135),
    (140, 150, 110),
)
_ROOM = 4 / 3
_TRIES = 400
_PREVIEW = 96


def sample_scene(rng: np.random.Generator, count: int, *, twins: bool = False) -> Scene:
    """Sample a scene of `count` objects (1 to 8) of distinct colors and kinds, with clutter.

    Objects may overlap, but at most MOST_HIDDEN of each is hidden. twins: give the last object the
    color and kind of the first.
    """
    kinds, colors = list(KINDS), list(COLORS)
    closeness = 0.54 if rng.random() < 0.5 else float(rng.uniform(0.1, 0.5))
    objects: list[SceneObject] = []
    used: set[tuple[str, str]] = set()
    scale = 1.0 if count < 5 else 0.85
    while len(objects) < count:
        kind = kinds[int(rng.integers(len(kinds)))]
        color = colors[int(rng.integers(len(colors)))]
        if twins and count > 1 and len(objects) == count - 1:
            kind, color = objects[0].kind, objects[0].color
        elif (kind, color) in used:
            continue
        size = scale * float(np.exp(rng.uniform(np.log(0.19), np.log(0.42))))
        candidate = _thing(rng, kind, color, size)
        too_near = any(_near(candidate, neighbor, closeness) for neighbor in objects)
        in_clear = _free(candidate, objects)
        if too_near or (not in_clear and _most_hidden([*objects, candidate], []) > MOST_HIDDEN):
            scale = max(scale * 0.985, 0.55)
            continue
        objects.append(candidate)
        used.add((kind, color))
    objects.sort(key=lambda item: item.y)
    table, wall = _TABLES[int(rng.integers(len(_TABLES)))], _WALLS[int(rng.integers(len(_WALLS)))]
    return Scene(
        tuple(objects),
        table,
        wall,
        horizon=float(max(rng.uniform(-0.15, 0.3), 0.0)),
        light=_light(rng),
        noise=float(rng.uniform(1.0, 8.0)),
        seed=int(rng.integers(2**31)),
        clutter=_clutter(rng, objects),
        cover=COVERS[int(rng.integers(len(COVERS)))],
        motion=(
            (float(rng.uniform(0.008, 0.022)), float(rng.uniform(0, np.pi)))
            if rng.random() < 0.2
            else (0.0, 0.0)
        ),
        defocus=float(rng.uniform(0.002, 0.006)) if rng.random() < 0.15 else 0.0,
    )


def _thing(rng: np.random.Generator, kind: str, color: str, size: float) -> SceneObject:
    """Sample a thing of that kind and color ("" for muted) anywhere on the table."""
    base = COLORS[color][0] if color else _MUTED_COLORS[int(rng.integers(len(_MUTED_COLORS)))]
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


def _free(thing: SceneObject, neighbors: list[SceneObject]) -> bool:
    """Tell without rendering that a thing is fully inside the image and overlaps no neighbor."""
    reach = 0.75 * thing.size
    inside = reach < thing.x < _ROOM - reach and reach < thing.y < 1 - reach
    return inside and not any(_near(thing, neighbor, 0.75) for neighbor in neighbors)


def _clutter(rng: np.random.Generator, objects: list[SceneObject]) -> tuple[SceneObject, ...]:
    """Sample up to MAX_CLUTTER things, perhaps with a mat, that hide little of the objects."""
    clutter: list[SceneObject] = []
    if rng.random() < 0.2:
        mat = _thing(rng, MAT, "", float(rng.uniform(0.5, 0.9)))
        clutter.append(replace(mat, aspect=float(rng.uniform(0.7, 1.1)), material="rough"))
    remaining = int(rng.choice(MAX_CLUTTER, p=(0.35, 0.3, 0.2, 0.15)))
    for _ in range(_TRIES):
        if remaining <= 0:
            break
        color = list(COLORS)[int(rng.integers(len(COLORS)))] if rng.random() < 0.5 else ""
        kind = CLUTTER[int(rng.integers(len(CLUTTER)))]
        thing = _thing(rng, kind, color, float(rng.uniform(0.1, 0.24)))
        if any(
            _near(thing, neighbor, 0.5)
            for neighbor in (*objects, *clutter)
            if neighbor.kind != MAT
        ):
            continue
        if _free(thing, objects) or _most_hidden(objects, [*clutter, thing]) <= MOST_HIDDEN:
            clutter.append(thing)
            remaining -= 1
    return tuple(clutter)


def _most_hidden(objects: list[SceneObject], clutter: list[SceneObject]) -> float:
    """Measure the largest hidden share of any object in a small rendering."""
    scene = Scene(tuple(objects), (0,) * 3, (0,) * 3, 0.0, Light(), 0.0, 0, tuple(clutter))
    # With a margin of half an image on each side, parts outside the image count as hidden.
    height, width, margin = _PREVIEW, round(_PREVIEW * _ROOM), _PREVIEW // 2
    labels = np.zeros((height + 2 * margin, width + 2 * margin), dtype=np.uint8)
    shift = np.int32(margin << 4)
    outline_areas = {}
    for number, item in painting_order(scene):
        mask = np.zeros_like(labels)
        for points in outlines(item, height):
            fill(mask, points + shift, 1, cv2.LINE_8)
        outline_areas[number] = int(np.count_nonzero(mask))
        labels[mask > 0] = number
    inside = labels[margin : margin + height, margin : margin + width]
    visible_areas = np.bincount(inside.ravel(), minlength=len(outline_areas) + 1)
    return max(
        1 - float(visible_areas[n]) / max(outline_areas[n], 1) for n in range(1, len(objects) + 1)
    )


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
    """Yield the scene as seen by a slowly moving camera, which returns to its start."""
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
