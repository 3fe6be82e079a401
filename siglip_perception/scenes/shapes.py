"""Shapes of everything that a generated scene can show, as layers of polygons.

Shapes are defined in a unit frame (x right, y down, about 1 high), so a scene renders at any size
and moving an object means changing two numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Shade = float | tuple[int, int, int]
Layer = tuple[Points, Shade]
"""A polygon [n, 2] in the unit frame, and a factor on the object's color or a fixed RGB."""

_RUBBER, _STEEL, _GLASS = (38, 38, 42), (176, 178, 182), (172, 200, 212)
_STEM, _LEAF = (84, 60, 36), (78, 140, 60)


def ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360
) -> Points:
    """Points of an ellipse, or of its arc from `start` to `stop` degrees, clockwise from right."""
    angles = np.radians(np.linspace(start, stop, 36))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def _ring(cx: float, cy: float, outer: float, inner: float, start: float, stop: float) -> Points:
    return np.concatenate(
        [
            ellipse(cx, cy, outer, outer, start, stop),
            ellipse(cx, cy, inner, inner, start, stop)[::-1],
        ]
    )


def _cup() -> list[Layer]:
    body = np.concatenate(
        [_polygon((-0.42, -0.38), (0.34, -0.38)), ellipse(-0.04, 0.38, 0.29, 0.1, 0, 180)]
    )
    return [
        (_ring(0.33, -0.02, 0.26, 0.15, -95, 100), 0.8),
        (body, 1.0),
        (_polygon((-0.36, -0.3), (-0.22, -0.3), (-0.2, 0.38), (-0.28, 0.36)), 1.2),
        (ellipse(-0.04, -0.38, 0.38, 0.1), 0.6),
    ]


def _bowl() -> list[Layer]:
    return [
        (ellipse(0, -0.12, 0.6, 0.5, 0, 180), 1.0),
        (ellipse(0, 0.36, 0.24, 0.06), 0.75),
        (ellipse(0, -0.12, 0.6, 0.17), 1.15),
        (ellipse(0, -0.1, 0.53, 0.13), 0.6),
    ]


def _plate() -> list[Layer]:
    return [
        (ellipse(0, 0.04, 0.72, 0.34), 0.7),
        (ellipse(0, 0, 0.72, 0.33), 1.0),
        (ellipse(0, 0.01, 0.5, 0.22), 0.82),
        (ellipse(0, 0.02, 0.46, 0.2), 1.1),
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
        (ellipse(0, 0, 0.45, 0.45), 0.85),
        (ellipse(-0.06, -0.06, 0.37, 0.37), 1.0),
        (ellipse(-0.16, -0.17, 0.12, 0.1), 1.35),
    ]


def _block() -> list[Layer]:
    return [
        (_polygon((-0.45, -0.2), (0.2, -0.2), (0.2, 0.45), (-0.45, 0.45)), 1.0),
        (_polygon((-0.45, -0.2), (-0.22, -0.45), (0.43, -0.45), (0.2, -0.2)), 1.25),
        (_polygon((0.2, -0.2), (0.43, -0.45), (0.43, 0.2), (0.2, 0.45)), 0.7),
    ]


def _banana() -> list[Layer]:
    outer = ellipse(0, -0.3, 0.66, 0.66, 15, 165)
    inner = ellipse(0, -0.46, 0.62, 0.52, 20, 160)[::-1]
    shade = np.concatenate(
        [ellipse(0, -0.3, 0.66, 0.66, 40, 140), ellipse(0, -0.34, 0.64, 0.6, 40, 140)[::-1]]
    )
    return [
        (np.concatenate([outer, inner]), 1.0),
        (shade, 0.75),
        (_polygon((0.6, -0.22), (0.7, -0.3), (0.72, -0.1), (0.62, -0.08)), 0.5),
    ]


def _book() -> list[Layer]:
    return [
        (_polygon((-0.55, -0.36), (0.5, -0.36), (0.58, 0.4), (-0.6, 0.4)), 1.0),
        (_polygon((-0.6, 0.4), (0.58, 0.4), (0.57, 0.5), (-0.58, 0.5)), (226, 220, 204)),
        (_polygon((-0.55, -0.36), (-0.44, -0.36), (-0.48, 0.4), (-0.6, 0.4)), 0.65),
        (_polygon((-0.26, -0.18), (0.36, -0.18), (0.37, -0.06), (-0.27, -0.06)), 1.4),
    ]


def _car() -> list[Layer]:
    body = _polygon(
        (-0.66, 0.2), (-0.66, -0.02), (-0.58, -0.1), (-0.36, -0.14), (-0.2, -0.4), (0.22, -0.4)
    )
    body = np.concatenate([body, _polygon((0.4, -0.12), (0.62, -0.06), (0.68, 0.06), (0.68, 0.2))])
    layers: list[Layer] = [
        (body, 1.0),
        (_polygon((-0.27, -0.14), (-0.15, -0.33), (-0.02, -0.33), (-0.02, -0.14)), _GLASS),
        (_polygon((0.04, -0.14), (0.04, -0.33), (0.19, -0.33), (0.31, -0.14)), _GLASS),
        (_polygon((-0.66, 0.1), (0.68, 0.1), (0.68, 0.2), (-0.66, 0.2)), 0.7),
    ]
    for x in (-0.36, 0.38):
        layers += [(ellipse(x, 0.22, 0.19, 0.19), _RUBBER), (ellipse(x, 0.22, 0.09, 0.09), _STEEL)]
    return layers


def _hammer() -> list[Layer]:
    head = _polygon((-0.38, -0.54), (-0.12, -0.54), (0.2, -0.54), (0.46, -0.36), (0.2, -0.28))
    return [
        (_polygon((-0.1, -0.3), (0.1, -0.3), (0.12, 0.56), (-0.12, 0.56)), 1.0),
        (_polygon((-0.12, 0.2), (0.12, 0.2), (0.13, 0.56), (-0.13, 0.56)), 0.65),
        (np.concatenate([head, _polygon((-0.38, -0.28))]), 1.0),
        (_polygon((-0.38, -0.58), (-0.24, -0.58), (-0.24, -0.24), (-0.38, -0.24)), 0.75),
        (_polygon((-0.2, -0.5), (0.16, -0.5), (0.16, -0.44), (-0.2, -0.44)), 1.3),
    ]


def _apple() -> list[Layer]:
    return [
        (ellipse(-0.15, 0.06, 0.32, 0.4), 0.92),
        (ellipse(0.15, 0.06, 0.32, 0.4), 0.92),
        (ellipse(-0.08, 0.02, 0.3, 0.33), 1.0),
        (ellipse(0, -0.29, 0.16, 0.05), 0.55),
        (_polygon((-0.03, -0.28), (0.03, -0.28), (0.08, -0.52), (0.0, -0.52)), _STEM),
        (_polygon((0.04, -0.38), (0.2, -0.56), (0.42, -0.52), (0.26, -0.36)), _LEAF),
        (ellipse(-0.22, -0.08, 0.09, 0.12), 1.3),
    ]


def _teapot() -> list[Layer]:
    spout = _polygon((0.3, 0.22), (0.34, -0.02), (0.54, -0.26), (0.72, -0.26), (0.6, -0.08))
    return [
        (_ring(-0.42, 0.02, 0.28, 0.17, 90, 270), 0.8),
        (np.concatenate([spout, _polygon((0.42, 0.3))]), 0.85),
        (ellipse(0, 0.1, 0.46, 0.38), 1.0),
        (ellipse(0, -0.24, 0.26, 0.08), 0.65),
        (ellipse(0, -0.28, 0.22, 0.07), 1.1),
        (ellipse(0, -0.4, 0.08, 0.08), 0.8),
        (ellipse(-0.16, -0.02, 0.1, 0.12), 1.3),
    ]


def _star() -> list[Layer]:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2 == 0, 0.5, 0.2)
    return [(np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1), 1.0)]


def _triangle() -> list[Layer]:
    return [(_polygon((0, -0.45), (0.5, 0.42), (-0.5, 0.42)), 1.0)]


def _cross() -> list[Layer]:
    return [
        (_polygon((-0.15, -0.5), (0.15, -0.5), (0.15, 0.5), (-0.15, 0.5)), 1.0),
        (_polygon((-0.5, -0.15), (0.5, -0.15), (0.5, 0.15), (-0.5, 0.15)), 1.0),
    ]


def _pen() -> list[Layer]:
    return [
        (_polygon((-0.07, -0.6), (0.07, -0.6), (0.07, 0.5), (-0.07, 0.5)), 1.0),
        (_polygon((-0.07, 0.5), (0.07, 0.5), (0.0, 0.7)), (226, 200, 160)),
    ]


def _hoop() -> list[Layer]:
    return [(_ring(0, 0, 0.48, 0.3, 0, 360), 1.0)]


def _scrap() -> list[Layer]:
    torn = _polygon((-0.4, 0.3), (-0.5, -0.2), (-0.1, -0.45))
    return [
        (np.concatenate([torn, _polygon((0.45, -0.3), (0.5, 0.2), (0, 0.4))]), 1.0),
        (np.concatenate([torn, _polygon((0.05, 0.0))]), 0.85),
    ]


def _cable() -> list[Layer]:
    x = np.linspace(-0.9, 0.9, 30)
    y = 0.28 * np.sin(4.2 * x)
    return [(np.stack([np.r_[x, x[::-1]], np.r_[y - 0.05, y[::-1] + 0.05]], axis=1), 1.0)]


def _mat() -> list[Layer]:
    return [(_polygon((-0.7, -0.5), (0.7, -0.5), (0.7, 0.5), (-0.7, 0.5)), 1.0)]


_MAKERS: dict[str, Callable[[], list[Layer]]] = {
    "cup": _cup,
    "bowl": _bowl,
    "plate": _plate,
    "bottle": _bottle,
    "ball": _ball,
    "block": _block,
    "banana": _banana,
    "book": _book,
    "car": _car,
    "hammer": _hammer,
    "apple": _apple,
    "teapot": _teapot,
    "star": _star,
    "triangle": _triangle,
    "cross": _cross,
    "pen": _pen,
    "hoop": _hoop,
    "scrap": _scrap,
    "cable": _cable,
    "mat": _mat,
}
SHAPES: dict[str, list[Layer]] = {kind: make() for kind, make in _MAKERS.items()}
"""Layers from back to front, by kind of object or clutter."""

CLUTTER = ("star", "triangle", "cross", "pen", "hoop", "scrap", "cable")
"""Small things that no phrase names by kind; MAT, a large flat one, lies under the rest."""
MAT = "mat"
TURNS_FREELY = frozenset({"ball", "banana", "book", "hammer", *CLUTTER})
"""Kinds that may lie at any angle; all others stand upright."""
