"""Generated tabletop scenes: coloured objects with exact masks, from a seed, for ever new.

Shapes are drawn in a unit frame (x to the right, y down, the object about 1 high), so a scene
renders at any size, and moving an object means changing two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.contrastive.vocabulary import (
    COLORS,
    KINDS,
    Language,
    PhraseClass,
)
from siglip_perception.types import Box, UInt8Array

Points = npt.NDArray[np.float64]
Layer = tuple[Points, float]
"""A polygon [n, 2] in the unit frame, and the factor on the object's colour inside it."""

_SUBPIXEL_BITS = 4
_TABLES = (
    (150, 111, 76),
    (176, 142, 104),
    (120, 124, 128),
    (168, 170, 165),
    (98, 120, 110),
    (140, 128, 140),
)
_WALLS = ((205, 200, 188), (160, 172, 180), (190, 178, 160), (120, 130, 140))


@dataclass(frozen=True)
class SceneObject:
    """One object: centre (x, y) and height as shares of the image's height, angle in radians."""

    kind: str
    color: str
    rgb: tuple[int, int, int]
    x: float
    y: float
    size: float
    angle: float
    aspect: float

    def phrase(self, language: Language) -> str:
        """The plain name, "red cup" or "빨간 컵"."""
        return PhraseClass(self.color, self.kind).forms(language)[0]


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, and what they stand on.

    horizon: share of the height above the table's edge. light: factor on everything.
    noise: standard deviation of the sensor's noise in grey levels. seed: of texture and noise.
    """

    objects: tuple[SceneObject, ...]
    table: tuple[int, int, int]
    wall: tuple[int, int, int]
    horizon: float
    light: float
    noise: float
    seed: int
    aspect: float = 4 / 3


@dataclass(frozen=True)
class Rendered:
    """image: uint8 [H, W, 3] RGB. instances: uint8 [H, W], 0 background, i + 1 object i."""

    image: UInt8Array
    instances: UInt8Array

    def box(self, index: int) -> Box | None:
        """The visible part's box in pixels; None where the object is wholly hidden."""
        ys, xs = np.nonzero(self.instances == index + 1)
        if len(xs) == 0:
            return None
        x, y = int(xs.min()), int(ys.min())
        return Box(x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1)


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360
) -> Points:
    angles = np.radians(np.linspace(start, stop, 36))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def _ring(cx: float, cy: float, outer: float, inner: float, start: float, stop: float) -> Points:
    return np.concatenate(
        [
            _ellipse(cx, cy, outer, outer, start, stop),
            _ellipse(cx, cy, inner, inner, start, stop)[::-1],
        ]
    )


def _cup() -> list[Layer]:
    body = np.concatenate(
        [_polygon((-0.42, -0.38), (0.34, -0.38)), _ellipse(-0.04, 0.38, 0.29, 0.1, 0, 180)]
    )
    return [
        (_ring(0.33, -0.02, 0.26, 0.15, -95, 100), 0.8),
        (body, 1.0),
        (_polygon((-0.36, -0.3), (-0.22, -0.3), (-0.2, 0.38), (-0.28, 0.36)), 1.2),
        (_ellipse(-0.04, -0.38, 0.38, 0.1), 0.6),
    ]


def _bowl() -> list[Layer]:
    return [
        (_ellipse(0, -0.12, 0.6, 0.5, 0, 180), 1.0),
        (_ellipse(0, 0.36, 0.24, 0.06), 0.75),
        (_ellipse(0, -0.12, 0.6, 0.17), 1.15),
        (_ellipse(0, -0.1, 0.53, 0.13), 0.6),
    ]


def _plate() -> list[Layer]:
    return [
        (_ellipse(0, 0.04, 0.72, 0.34), 0.7),
        (_ellipse(0, 0, 0.72, 0.33), 1.0),
        (_ellipse(0, 0.01, 0.5, 0.22), 0.82),
        (_ellipse(0, 0.02, 0.46, 0.2), 1.1),
    ]


def _bottle() -> list[Layer]:
    body = np.concatenate(
        [
            _polygon((-0.08, -0.42), (0.08, -0.42), (0.08, -0.2), (0.21, -0.02), (0.21, 0.5)),
            _polygon((-0.21, 0.5), (-0.21, -0.02), (-0.08, -0.2)),
        ]
    )
    return [
        (body, 1.0),
        (_polygon((-0.1, -0.52), (0.1, -0.52), (0.1, -0.42), (-0.1, -0.42)), 0.6),
        (_polygon((-0.21, 0.1), (0.21, 0.1), (0.21, 0.34), (-0.21, 0.34)), 1.3),
        (_polygon((-0.16, 0.0), (-0.1, 0.0), (-0.1, 0.48), (-0.16, 0.48)), 1.15),
    ]


def _ball() -> list[Layer]:
    return [
        (_ellipse(0, 0, 0.45, 0.45), 0.85),
        (_ellipse(-0.06, -0.06, 0.37, 0.37), 1.0),
        (_ellipse(-0.16, -0.17, 0.12, 0.1), 1.35),
    ]


def _block() -> list[Layer]:
    return [
        (_polygon((-0.45, -0.2), (0.2, -0.2), (0.2, 0.45), (-0.45, 0.45)), 1.0),
        (_polygon((-0.45, -0.2), (-0.22, -0.45), (0.43, -0.45), (0.2, -0.2)), 1.25),
        (_polygon((0.2, -0.2), (0.43, -0.45), (0.43, 0.2), (0.2, 0.45)), 0.7),
    ]


def _banana() -> list[Layer]:
    outer = _ellipse(0, -0.3, 0.66, 0.66, 15, 165)
    inner = _ellipse(0, -0.46, 0.62, 0.52, 20, 160)[::-1]
    return [
        (np.concatenate([outer, inner]), 1.0),
        (
            np.concatenate(
                [
                    _ellipse(0, -0.3, 0.66, 0.66, 40, 140),
                    _ellipse(0, -0.34, 0.64, 0.6, 40, 140)[::-1],
                ]
            ),
            0.75,
        ),
        (_polygon((0.6, -0.22), (0.7, -0.3), (0.72, -0.1), (0.62, -0.08)), 0.5),
    ]


def _book() -> list[Layer]:
    return [
        (_polygon((-0.55, -0.36), (0.5, -0.36), (0.58, 0.4), (-0.6, 0.4)), 1.0),
        (_polygon((-0.6, 0.4), (0.58, 0.4), (0.57, 0.5), (-0.58, 0.5)), 1.6),
        (_polygon((-0.55, -0.36), (-0.44, -0.36), (-0.48, 0.4), (-0.6, 0.4)), 0.65),
        (_polygon((-0.26, -0.18), (0.36, -0.18), (0.37, -0.06), (-0.27, -0.06)), 1.4),
    ]


_SHAPES: dict[str, Callable[[], list[Layer]]] = {
    "cup": _cup,
    "bowl": _bowl,
    "plate": _plate,
    "bottle": _bottle,
    "ball": _ball,
    "block": _block,
    "banana": _banana,
    "book": _book,
}
_TURNS_FREELY = frozenset({"ball", "banana", "book"})


def sample_scene(rng: np.random.Generator, objects: int) -> Scene:
    """A scene of that many objects, all of different colour and kind, hardly overlapping."""
    kinds, colors = list(KINDS), list(COLORS)
    placed: list[SceneObject] = []
    taken: set[tuple[str, str]] = set()
    scale = 1.0
    while len(placed) < objects:
        kind = kinds[int(rng.integers(len(kinds)))]
        color = colors[int(rng.integers(len(colors)))]
        if (kind, color) in taken:
            continue
        base = np.array(COLORS[color][0], dtype=np.float64)
        rgb = np.clip(base + rng.normal(0, 9, 3), 0, 255).astype(int)
        size = scale * float(rng.uniform(0.22, 0.42))
        candidate = SceneObject(
            kind,
            color,
            (int(rgb[0]), int(rgb[1]), int(rgb[2])),
            x=float(rng.uniform(0.16, 4 / 3 - 0.16)),
            y=float(rng.uniform(0.2, 0.86)),
            size=size,
            angle=float(
                rng.uniform(-np.pi, np.pi) if kind in _TURNS_FREELY else rng.normal(0, 0.12)
            ),
            aspect=float(rng.uniform(0.88, 1.14)),
        )
        if any(
            np.hypot(candidate.x - other.x, candidate.y - other.y) < 0.52 * (size + other.size)
            for other in placed
        ):
            scale = max(scale * 0.985, 0.5)
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
        light=float(rng.uniform(0.75, 1.15)),
        noise=float(rng.uniform(1.0, 6.0)),
        seed=int(rng.integers(2**31)),
    )


def _outline(item: SceneObject, points: Points, height: int) -> npt.NDArray[np.int32]:
    """Unit frame -> pixels in cv2's fixed point."""
    cos, sin = np.cos(item.angle), np.sin(item.angle)
    turned = (points * [item.aspect, 1.0]) @ np.array([[cos, sin], [-sin, cos]])
    pixels = (turned * item.size + [item.x, item.y]) * height
    fixed: npt.NDArray[np.int32] = np.round(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    return fixed


def _texture(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Smooth blotches and grain, about [-1, 1]."""
    coarse = rng.normal(0, 1, (6, 8)).astype(np.float32)
    fine = rng.normal(0, 1, (int(rng.integers(12, 60)), int(rng.integers(6, 24)))).astype(
        np.float32
    )
    size = (width, height)
    return 0.6 * cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC) + 0.4 * cv2.resize(
        fine, size, interpolation=cv2.INTER_LINEAR
    )


def render(scene: Scene, width: int = 640, height: int = 480) -> Rendered:
    """Draw the scene; the same scene and size give the same bytes."""
    rng = np.random.default_rng(scene.seed)
    texture = _texture(rng, width, height)
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = scene.table
    edge = round(scene.horizon * height)
    canvas[:edge] = scene.wall
    canvas += (texture * 9)[..., None]
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    instances = np.zeros((height, width), dtype=np.uint8)
    for number, item in enumerate(scene.objects, start=1):
        layers = _SHAPES[item.kind]()
        shadow = replace(item, x=item.x + 0.06 * item.size, y=item.y + 0.07 * item.size)
        dark = image.copy()
        for points, _ in layers:
            cv2.fillPoly(
                dark, [_outline(shadow, points, height)], (30, 30, 32), cv2.LINE_AA, _SUBPIXEL_BITS
            )
        cv2.addWeighted(image, 0.65, dark, 0.35, 0, dst=image)
        for points, shade in layers:
            rgb = tuple(float(min(c * shade + max(shade - 1, 0) * 40, 255)) for c in item.rgb)
            outline = _outline(item, points, height)
            cv2.fillPoly(image, [outline], rgb, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.fillPoly(instances, [outline], number, cv2.LINE_8, _SUBPIXEL_BITS)
    noise = rng.standard_normal((height, width, 1), dtype=np.float32) * scene.noise
    lit = image.astype(np.float32) * scene.light + noise
    return Rendered(np.clip(lit, 0, 255).astype(np.uint8), instances)


def animate(scene: Scene, rng: np.random.Generator, frames: int) -> Iterator[Scene]:
    """The same scene as a slowly moving camera sees it: a drift that comes back, and new noise."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    reach = rng.uniform(0.02, 0.05, 2)
    for number in range(frames):
        turn = 2 * np.pi * number / max(frames, 1)
        dx = reach[0] * (np.sin(turn + phase[0]) - np.sin(phase[0]))
        dy = reach[1] * (np.sin(turn + phase[1]) - np.sin(phase[1]))
        moved = tuple(replace(item, x=item.x + dx, y=item.y + dy) for item in scene.objects)
        yield replace(scene, objects=moved, seed=scene.seed)
