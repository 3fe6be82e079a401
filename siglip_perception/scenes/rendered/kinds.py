"""Shapes of the named kinds and of clutter: several parametric families each, drawn at random.

Every shape stands on z = 0 around the z axis, in meters. A part has its object's color, times a
factor, or a color of its own; a phrase names the color of the largest part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siglip_perception.scenes.rendered.meshes import (
    Floats,
    Mesh,
    arc,
    ball,
    box,
    extrude,
    in_plane,
    join,
    lathe,
    tube,
)

Rgb = tuple[float, float, float]
Shade = float | Rgb
Pose = Literal["stands", "lies", "tips", "rolls", "upside"]

_STEEL: Rgb = (0.62, 0.63, 0.65)
_RUBBER: Rgb = (0.08, 0.08, 0.09)
_GLASS: Rgb = (0.35, 0.45, 0.5)
_PAPER: Rgb = (0.93, 0.92, 0.87)
_WOOD: Rgb = (0.62, 0.44, 0.26)
_STEM: Rgb = (0.3, 0.2, 0.1)
_LEAF: Rgb = (0.25, 0.5, 0.2)
_PORCELAIN: Rgb = (0.92, 0.91, 0.89)


@dataclass(frozen=True)
class Part:
    """One mesh of a shape; shade: a factor on the object's color, or a color of its own (0..1)."""

    mesh: Mesh
    shade: Shade = 1.0


@dataclass(frozen=True)
class Shape:
    """parts: what is drawn. poses: how the thing may rest on a table."""

    parts: tuple[Part, ...]
    poses: tuple[Pose, ...] = ("stands",)

    def vertices(self) -> Floats:
        """All vertices, float64 [n, 3]."""
        return np.concatenate([part.mesh.vertices for part in self.parts])


Generator = np.random.Generator


def _between(rng: Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _handle(
    rng: Generator, radius: float, bottom: float, top: float, reach: float, thickness: float
) -> Mesh:
    """Bend a tube into a C that leaves a wall of this radius and returns to it, at two heights."""
    bend = _between(rng, 60, 95)
    points = arc((radius, (top + bottom) / 2), (reach, (top - bottom) / 2), -bend, bend, 14)
    # The handle's ends lie inside the wall.
    points[0, 0] = points[-1, 0] = radius - 0.3 * thickness
    flat = _between(rng, 0.7, 1.6)
    return tube(in_plane(points), np.full(len(points), thickness / 2), 8).scaled(1, flat, 1)


def _vessel(outside: Floats, wall: float) -> tuple[Mesh, Mesh]:
    """Make a vessel's outer and inner surface from its outer profile [n, 2], bottom to rim."""
    inside = outside.copy()
    inside[:, 0] = np.maximum(inside[:, 0] - wall, 0.0)
    inside[:, 1] = np.maximum(inside[:, 1], outside[0, 1] + wall)
    rim = [(float(outside[-1, 0] - wall / 2), float(outside[-1, 1] + wall / 3))]
    shell = [(0.0, float(outside[0, 1])), *map(tuple, outside), *rim]
    hollow = [*rim, *[(float(r), float(h)) for r, h in inside[::-1]], (0.0, float(inside[0, 1]))]
    return lathe(shell), lathe(hollow)


def _inner_shade(rng: Generator) -> Shade:
    choice = rng.random()
    return _PORCELAIN if choice < 0.2 else (0.75 if choice < 0.7 else 1.0)


def cup(rng: Generator) -> Shape:
    """A mug, a beaker, a rounded tea cup or a paper cup."""
    family = int(rng.integers(4))
    height = _between(rng, 0.07, 0.12) * (0.75 if family == 2 else 1.0)
    top = height * _between(rng, 0.38, 0.52) * (1.35 if family == 2 else 1.0)
    if family == 2:  # a tea cup: a curved belly
        heights = np.linspace(0, 1, 10)
        foot = _between(rng, 0.4, 0.6)
        radii = top * (foot + (1 - foot) * np.sqrt(heights))
        outside = np.column_stack([radii, heights * height])
    else:
        taper = {0: _between(rng, 0.9, 1.0), 1: _between(rng, 0.7, 0.95), 3: 0.68}[family]
        outside = np.array(
            [[top * taper, 0.0], [top * (taper + 1) / 2, height / 2], [top, height]]
        )
        if family == 0 and rng.random() < 0.5:  # a belly or a waist
            outside[1, 0] *= _between(rng, 0.86, 1.14)
            outside = np.column_stack(
                [
                    np.interp(np.linspace(0, 1, 9), [0, 0.5, 1], outside[:, 0]),
                    np.linspace(0, height, 9),
                ]
            )
    shell, hollow = _vessel(outside, _between(rng, 0.003, 0.006))
    parts = [Part(shell), Part(hollow, _inner_shade(rng))]
    if family in (0, 2) or (family == 1 and rng.random() < 0.3):
        radius = float(np.interp(height * 0.5, outside[:, 1], outside[:, 0]))
        handle = _handle(
            rng,
            radius * 0.97,
            height * _between(rng, 0.14, 0.28),
            height * _between(rng, 0.74, 0.9),
            height * _between(rng, 0.26, 0.45),
            height * _between(rng, 0.09, 0.15),
        )
        parts.append(Part(handle, 1.0 if rng.random() < 0.85 else _inner_shade(rng)))
    if rng.random() < 0.2:  # a band
        low = height * _between(rng, 0.2, 0.6)
        high = low + height * _between(rng, 0.08, 0.25)
        radii = np.interp([low, high], outside[:, 1], outside[:, 0]) + 0.0006
        parts.append(Part(lathe([(radii[0], low), (radii[1], high)]), _other_color(rng)))
    return Shape(tuple(parts), ("stands", "stands", "stands", "lies", "upside"))


def bowl(rng: Generator) -> Shape:
    """A round, deep, flared or straight-walled bowl, perhaps on a foot."""
    radius = _between(rng, 0.06, 0.1)
    height = radius * _between(rng, 0.45, 0.95)
    heights = np.linspace(0, 1, 12)
    family = int(rng.integers(4))
    base = _between(rng, 0.3, 0.5)
    if family == 0:  # a cut sphere
        radii = base + (1 - base) * np.sqrt(np.clip(1 - (1 - heights) ** 2, 0, 1))
    elif family == 1:  # straight walls, as a cone
        radii = base + (1 - base) * heights
    elif family == 2:  # a flared rim
        radii = base + (0.86 - base) * np.sqrt(heights) + 0.14 * heights**6
    else:
        radii = base + (1 - base) * heights ** _between(rng, 0.35, 0.7)
    outside = np.column_stack([radii * radius, heights * height])
    parts = []
    foot = height * _between(rng, 0.06, 0.16) if rng.random() < 0.5 else 0.0
    if foot:
        outside[:, 1] += foot
        ring = radius * base * 0.9
        parts.append(Part(lathe([(0, 0), (ring, 0), (ring * 0.95, foot + 0.002)]), 0.9))
    shell, hollow = _vessel(outside, _between(rng, 0.003, 0.006))
    parts = [Part(shell), Part(hollow, _inner_shade(rng)), *parts]
    return Shape(tuple(parts), ("stands", "stands", "stands", "stands", "upside", "tips"))


def plate(rng: Generator) -> Shape:
    """A plate with a rim, a coupe, or a square one with rounded corners."""
    radius = _between(rng, 0.08, 0.13)
    rise = radius * _between(rng, 0.08, 0.22)
    well = _between(rng, 0.55, 0.75)
    thickness = _between(rng, 0.003, 0.006)
    if rng.random() < 0.5:
        top = [(0.0, thickness), (well * radius, thickness), (0.98 * radius, rise), (radius, rise)]
    else:
        steps = np.linspace(0, 1, 8)
        top = [(float(s * radius), float(thickness + rise * s**3)) for s in steps]
    bottom = [(0.0, 0.0), (well * radius * 0.9, 0.0), (radius, rise - thickness * 0.8)]
    parts = [Part(lathe(bottom, 36), 0.85), Part(lathe(top[::-1], 36))]
    if rng.random() < 0.3:
        edge = radius * _between(rng, 0.82, 0.93)
        height = float(np.interp(edge, [t[0] for t in top], [t[1] for t in top])) + 0.0006
        parts.append(Part(lathe([(radius, rise + 0.0006), (edge, height)], 36), _other_color(rng)))
    if rng.random() < 0.2:  # a square with corners, by scaling each ring of vertices
        parts = [Part(_squared(part.mesh), part.shade) for part in parts]
    return Shape(tuple(parts), ("stands", "stands", "stands", "stands", "upside"))


def _squared(mesh: Mesh) -> Mesh:
    """Pull a turned mesh outwards to a square with rounded corners."""
    x, y = mesh.vertices[:, 0], mesh.vertices[:, 1]
    reach = np.hypot(x, y)
    rounded = (np.abs(x) ** 5 + np.abs(y) ** 5) ** 0.2
    factor = np.where(reach > 1e-3, reach / np.maximum(rounded, 1e-9), 1.0)
    return Mesh(
        mesh.vertices * np.column_stack([factor, factor, np.ones_like(factor)]), mesh.faces
    )


def bottle(rng: Generator) -> Shape:
    """A wine, beer, water, sauce or squat bottle, with a cap and perhaps a label."""
    height = _between(rng, 0.16, 0.28)
    radius = height * _between(rng, 0.11, 0.2)
    neck = radius * _between(rng, 0.3, 0.55)
    shoulder = _between(rng, 0.42, 0.72)
    neck_from = min(shoulder + _between(rng, 0.08, 0.28), 0.86)
    family = int(rng.integers(3))
    belly = 1.0 if family < 2 else _between(rng, 0.85, 0.95)
    bends = np.linspace(0, 1, 8)
    curve = bends if family == 1 else 0.5 - 0.5 * np.cos(np.pi * bends)
    profile = [(0.0, 0.0), (radius * 0.92, 0.0), (radius, 0.02 * height)]
    if belly < 1:
        profile.append((radius * belly, 0.5 * shoulder * height))
    profile += [
        (
            float(radius + (neck - radius) * c),
            float((shoulder + (neck_from - shoulder) * b) * height),
        )
        for b, c in zip(bends, curve, strict=True)
    ]
    profile += [(neck, 0.93 * height), (neck * 0.98, height), (0.0, height)]
    parts = [Part(lathe(profile, 24))]
    if rng.random() < 0.75:
        low = _between(rng, 0.86, 0.93)
        wide = neck * _between(rng, 1.06, 1.35)
        cap = [(wide, low * height), (wide, 1.01 * height), (0.0, 1.015 * height)]
        parts.append(Part(lathe([(0.0, low * height), *cap], 18), _other_color(rng, plain=0.4)))
    if rng.random() < 0.45:
        low = shoulder * _between(rng, 0.12, 0.35)
        high = shoulder * _between(rng, 0.6, 0.92)
        ring = radius * 1.006
        label = Part(lathe([(ring, low * height), (ring, high * height)], 24), _other_color(rng))
        parts.append(label)
    return Shape(tuple(parts), ("stands", "stands", "stands", "lies"))


def sphere(rng: Generator) -> Shape:
    """A ball, perhaps of two colors or with a band."""
    radius = _between(rng, 0.025, 0.06)
    whole = ball(radius).moved(z=radius)
    choice = rng.random()
    if choice < 0.7:
        return Shape((Part(whole),), ("rolls",))
    band = _between(rng, 6, 18)
    stripe = ball(radius * 1.004, 24, -band, band).moved(z=radius)
    return Shape((Part(whole), Part(stripe, _other_color(rng))), ("rolls",))


def block(rng: Generator) -> Shape:
    """A cube or a cuboid with sharp or cut edges, or a toy brick with studs."""
    size = _between(rng, 0.03, 0.07)
    family = rng.random()
    x, y, z = size * rng.uniform(0.85, 1.15, 3)
    if family < 0.35:
        x *= _between(rng, 1.2, 2.2)
    bevel = 0.0 if rng.random() < 0.4 else size * _between(rng, 0.04, 0.14)
    parts = [Part(box(x, y, z, bevel))]
    if family > 0.85:
        stud = size * 0.17
        across = max(int(x / (2.4 * stud)), 1)
        along = max(int(y / (2.4 * stud)), 1)
        studs = [
            lathe([(0, z), (stud, z), (stud, z + 0.5 * stud), (0, z + 0.5 * stud)], 12).moved(
                (i - (across - 1) / 2) * 2.4 * stud, (j - (along - 1) / 2) * 2.4 * stud
            )
            for i in range(across)
            for j in range(along)
        ]
        parts.append(Part(join(*studs)))
        return Shape(tuple(parts), ("stands", "stands", "lies"))
    return Shape(tuple(parts), ("stands", "stands", "tips"))


def banana(rng: Generator) -> Shape:
    """One to three bent fruits that taper at both ends."""
    length = _between(rng, 0.13, 0.2)
    bend = _between(rng, 50, 110)
    radius = length / np.radians(bend)
    thickness = length * _between(rng, 0.09, 0.13)
    points = arc((0.0, 0.0), (radius, radius), 90 - bend / 2, 90 + bend / 2, 15)
    points[:, 1] -= points[:, 1].mean()
    taper = np.sin(np.linspace(0.12, np.pi - 0.12, 15)) ** 0.45
    sides = int(rng.choice([5, 6, 10]))
    one_fruit = join(tube(in_plane(points), thickness * taper, sides)).turned(0, np.pi / 2)
    tip = tube(in_plane(points[-3:] + (points[-1] - points[-3]) * 0.8), [thickness * 0.34] * 3, 6)
    stem = tip.turned(0, np.pi / 2)
    count = int(rng.choice([1, 1, 1, 2, 3]))
    fruits: list[Mesh] = []
    stems: list[Mesh] = []
    for number in range(count):
        angle = 0.22 * (number - (count - 1) / 2)
        pivot = points[-1]
        for mesh, target in ((one_fruit, fruits), (stem, stems)):
            turned = mesh.moved(-pivot[0], pivot[1]).turned(2, angle).moved(pivot[0], -pivot[1])
            target.append(turned.moved(z=thickness * (1 + 0.6 * (number % 2))))
    shade: Shade = _STEM if rng.random() < 0.5 else 0.7
    parts = (Part(join(*fruits)), Part(join(*stems), shade))
    return Shape(parts, ("stands", "lies", "stands"))


def book(rng: Generator) -> Shape:
    """A closed book: covers, a spine and pages; thin or thick, tall or square."""
    width = _between(rng, 0.09, 0.16)
    height = width * _between(rng, 1.0, 1.5)
    thickness = _between(rng, 0.01, 0.04)
    cover = _between(rng, 0.0015, 0.003)
    inset = _between(rng, 0.002, 0.006)
    lid = box(width, height, cover)
    pages = box(width - inset, height - 2 * inset, thickness - 2 * cover)
    parts = [
        Part(join(lid, lid.moved(z=thickness - cover))),
        Part(box(cover, height, thickness).moved(x=-width / 2 + cover / 2)),
        Part(pages.moved(x=-inset / 2, z=cover), _PAPER),
    ]
    if rng.random() < 0.6:  # a title
        plate_x, plate_y = width * _between(rng, 0.3, 0.7), height * _between(rng, 0.1, 0.3)
        title = box(plate_x, plate_y, 0.0008).moved(
            y=height * _between(rng, -0.2, 0.3), z=thickness
        )
        parts.append(Part(title, _other_color(rng)))
    return Shape(tuple(parts), ("stands", "stands", "stands", "lies", "tips"))


def car(rng: Generator) -> Shape:
    """A toy sedan, van, pickup or racer: a body, a cabin with windows, four wheels."""
    length = _between(rng, 0.1, 0.16)
    width = length * _between(rng, 0.4, 0.52)
    wheel = length * _between(rng, 0.09, 0.13)
    floor = wheel * _between(rng, 0.5, 0.8)
    family = int(rng.integers(4))
    hood = length * _between(rng, 0.17, 0.24)
    half = length / 2
    body = [
        (-half, floor),
        (half, floor),
        (half * 0.98, floor + hood * 0.8),
        (half * 0.9, floor + hood),
    ]
    body += [(-half * 0.92, floor + hood), (-half, floor + hood * 0.75)]
    rise = hood * _between(rng, 0.75, 1.1)
    low = floor + hood - 0.001
    if family == 0:
        cabin = [(-0.36, 0.0), (0.26, 0.0), (0.1, 1.0), (-0.26, 1.0)]
    elif family == 1:  # a van or a bus
        rise *= 1.35
        cabin = [(-0.47, 0.0), (0.38, 0.0), (0.3, 1.0), (-0.46, 1.0)]
    elif family == 2:  # a pickup
        cabin = [(-0.08, 0.0), (0.3, 0.0), (0.17, 1.0), (-0.06, 1.0)]
    else:  # a racer
        rise *= 0.6
        cabin = [(-0.25, 0.0), (0.05, 0.0), (-0.05, 1.0), (-0.2, 1.0)]
    roof = [(x * length, low + z * rise) for x, z in cabin]
    center = np.mean(roof, axis=0)
    panes = [
        (float(center[0] + (x - center[0]) * 0.8), float(center[1] + (z - center[1]) * 0.68))
        for x, z in roof
    ]
    rims = [
        lathe(
            [(0, -width * 0.09), (wheel, -width * 0.09), (wheel, width * 0.09), (0, width * 0.09)],
            16,
        )
        .turned(0, np.pi / 2)
        .moved(x, y, wheel)
        for x in (-0.3 * length, 0.3 * length)
        for y in (-width / 2, width / 2)
    ]
    hubs = [
        lathe([(wheel * 0.45, -width * 0.1), (wheel * 0.45, width * 0.1), (0, width * 0.1)], 12)
        .turned(0, np.pi / 2 if y < 0 else -np.pi / 2)
        .moved(x, y, wheel)
        for x in (-0.3 * length, 0.3 * length)
        for y in (-width / 2, width / 2)
    ]
    # Front and rear panes: a narrower, longer copy of the cabin's glass.
    glass_ends = [(float(center[0] + (x - center[0]) * 1.02), z) for x, z in panes]
    window: Shade = _GLASS if rng.random() < 0.7 else _RUBBER
    parts = [
        Part(join(extrude(body, width), extrude(roof, width * 0.86))),
        Part(join(extrude(panes, width * 0.875), extrude(glass_ends, width * 0.66)), window),
        Part(join(*rims), _RUBBER),
        Part(join(*hubs), _STEEL if rng.random() < 0.6 else 1.0),
    ]
    return Shape(tuple(parts), ("stands", "stands", "stands", "stands", "lies"))


def hammer(rng: Generator) -> Shape:
    """A claw hammer, a mallet or a sledge; the head is of steel or of the handle's color."""
    length = _between(rng, 0.16, 0.26)
    grip = length * _between(rng, 0.035, 0.06)
    head = length * _between(rng, 0.3, 0.46)
    face = head * _between(rng, 0.13, 0.24)
    path = np.array([[0, 0, 0], [0.35 * length, 0, 0], [length, 0, 0]], dtype=np.float64)
    handle = tube(path, [grip * 1.15, grip, grip * 0.85], 10)
    family = int(rng.integers(3))
    barrel = [(0, -0.5), (0.9, -0.5), (1, -0.45), (1, 0.45), (0.9, 0.5), (0, 0.5)]
    if family == 0:  # a claw hammer: a barrel, and two bent prongs behind it
        front = lathe([(r * face, z * head * 0.5) for r, z in barrel], 14)
        neck = lathe([(0, 0), (face * 0.75, 0), (face * 0.7, head * 0.3), (0, head * 0.3)], 12)
        bent = arc((-head * 0.05, head * 0.5), (head * 0.28, head * 0.36), -20, 75, 8)
        prongs = [
            tube(
                np.column_stack(
                    [bent[:, 0] - head * 0.24, np.full(8, y), bent[:, 1] - head * 0.1]
                ),
                np.linspace(face * 0.45, face * 0.15, 8),
                6,
            )
            for y in (-face * 0.35, face * 0.35)
        ]
        blocks = join(front.moved(z=-head * 0.28), neck.moved(z=-head * 0.02), *prongs)
    elif family == 1:  # a mallet: a fat barrel
        face *= 1.6
        blocks = lathe([(r * face, z * head) for r, z in barrel], 18)
    else:  # a sledge: a block with cut edges
        blocks = box(face * 1.7, face * 1.7, head, face * 0.3).moved(z=-head / 2)
    # The head's axis is z, the handle's is x.
    top = blocks.moved(x=length * 0.96)
    choice = rng.random()
    own: Shade = 1.0
    steel: Shade = _STEEL if choice < 0.5 else (own if choice < 0.8 else _RUBBER)
    parts = [Part(handle), Part(top, steel)]
    if rng.random() < 0.4:  # a sleeve on the grip
        sleeve = tube(
            path[:2] * np.array([0.9, 1, 1]) + np.array([0.01, 0, 0]), [grip * 1.3] * 2, 10
        )
        parts.append(Part(sleeve, _other_color(rng)))
    laid = tuple(Part(p.mesh.moved(x=-length * 0.6).turned(0, np.pi / 2), p.shade) for p in parts)
    return Shape(laid, ("stands", "stands", "stands", "tips"))


def apple(rng: Generator) -> Shape:
    """A round, flat or tall apple with a dimple, a stem and perhaps a leaf."""
    radius = _between(rng, 0.03, 0.048)
    tall = _between(rng, 0.8, 1.05)
    dimple = _between(rng, 0.15, 0.35)
    waist = _between(rng, 0.0, 0.14)
    angles = np.radians(np.linspace(-90, 90, 19))
    heights = np.sin(angles)
    radii = np.cos(angles) ** 0.8 * (1 + waist * heights)
    up = heights - dimple * np.exp(-((radii / 0.35) ** 2)) * np.sign(heights)
    profile = [
        (float(r * radius), float(z * radius * tall)) for r, z in zip(radii, up, strict=True)
    ]
    body = lathe(profile, 26)
    lift = -float(body.vertices[:, 2].min())
    stem_at = radius * tall * (1 - dimple) + lift
    parts = [Part(body.moved(z=lift))]
    lean = _between(rng, -0.4, 0.4)
    rise = radius * _between(rng, 0.3, 0.6)
    path = np.array(
        [
            [0, 0, stem_at - 0.004],
            [lean * rise * 0.4, 0, stem_at + rise * 0.5],
            [lean * rise, 0, stem_at + rise],
        ]
    )
    parts.append(Part(tube(path, [0.0022, 0.0018, 0.0024], 7), _STEM))
    if rng.random() < 0.4:
        leaf = ball(radius * 0.35, 10).scaled(1, 0.55, 0.1).turned(1, _between(rng, -0.6, 0.2))
        parts.append(Part(leaf.moved(x=radius * 0.4, z=stem_at + rise * 0.6), _LEAF))
    return Shape(tuple(parts), ("stands", "stands", "tips", "lies"))


def teapot(rng: Generator) -> Shape:
    """A round, squat or tall pot with a spout, a lid with a knob, and a side or a top handle."""
    radius = _between(rng, 0.05, 0.075)
    height = radius * _between(rng, 1.1, 2.1)
    heights = np.linspace(0, 1, 14)
    base, neck = _between(rng, 0.5, 0.85), _between(rng, 0.35, 0.6)
    swell = _between(rng, 0.3, 0.6)
    below = base + (1 - base) * np.sin(np.clip(heights / swell, 0, 1) * np.pi / 2)
    above = neck + (1 - neck) * np.cos(np.clip((heights - swell) / (1 - swell), 0, 1) * np.pi / 2)
    radii = np.where(heights < swell, below, above) * radius
    body = lathe([(0.0, 0.0), *zip(map(float, radii), map(float, heights * height), strict=True)])
    top = float(radii[-1])
    dome = height * _between(rng, 0.06, 0.2)
    knob = radius * _between(rng, 0.1, 0.2)
    lid = lathe(
        [(top * 1.03, height - 0.001), (top * 0.7, height + dome * 0.7), (0, height + dome)]
    )
    handle_ball = ball(knob, 14).moved(z=height + dome + knob * 0.8)
    spout_low = height * _between(rng, 0.2, 0.42)
    reach = radius * _between(rng, 1.6, 2.0)
    tip = height * _between(rng, 0.8, 1.08)
    spout_path = np.array(
        [
            [radius * 0.75, 0, spout_low],
            [radius * 1.25, 0, spout_low + 0.1 * height],
            [(radius * 1.2 + reach) / 2, 0, (spout_low + tip) / 2 + 0.04 * height],
            [reach, 0, tip],
        ]
    )
    wide = radius * _between(rng, 0.2, 0.32)
    spout = tube(spout_path, [wide, wide * 0.8, wide * 0.6, wide * _between(rng, 0.4, 0.6)], 12)
    thickness = radius * _between(rng, 0.12, 0.2)
    if rng.random() < 0.65:
        grip = _handle(
            rng,
            radius * 0.9,
            height * 0.18,
            height * 0.86,
            radius * _between(rng, 0.5, 0.85),
            thickness,
        ).turned(2, np.pi)
    else:
        bow = arc((0, height * 0.9), (radius * 0.85, radius * _between(rng, 0.8, 1.2)), 8, 172, 16)
        grip = tube(in_plane(bow), np.full(16, thickness / 2), 8)
    trim: Shade = 1.0 if rng.random() < 0.75 else _other_color(rng)
    parts = [Part(body), Part(spout), Part(lid), Part(handle_ball, trim), Part(grip, trim)]
    return Shape(tuple(parts), ("stands", "stands", "stands", "stands", "lies"))


def _other_color(rng: Generator, plain: float = 0.6) -> Shade:
    """Sample the color of a lesser part: white, black, steel or wood, or any color."""
    if rng.random() < plain:
        return (_PORCELAIN, _RUBBER, _STEEL, _WOOD)[int(rng.integers(4))]
    red, green, blue = rng.uniform(0.1, 0.9, 3)
    return (float(red), float(green), float(blue))


SHAPES: dict[str, Callable[[Generator], Shape]] = {
    "cup": cup,
    "bowl": bowl,
    "plate": plate,
    "bottle": bottle,
    "ball": sphere,
    "block": block,
    "banana": banana,
    "book": book,
    "car": car,
    "hammer": hammer,
    "apple": apple,
    "teapot": teapot,
}
"""Kinds that phrases name, by vocabulary.KINDS."""


def _can(rng: Generator) -> Shape:
    radius = _between(rng, 0.028, 0.038)
    height = radius * _between(rng, 2.2, 3.8)
    side = [
        (radius * 0.9, 0),
        (radius, 0.04 * height),
        (radius, 0.95 * height),
        (radius * 0.88, height),
    ]
    lid = lathe([(radius * 0.88, height), (radius * 0.8, height * 0.985), (0, height * 0.985)])
    return Shape((Part(lathe([(0, 0), *side])), Part(lid, _STEEL)), ("stands", "lies"))


def _pen(rng: Generator) -> Shape:
    length, radius = _between(rng, 0.1, 0.17), _between(rng, 0.003, 0.006)
    path = np.array([[0, 0, 0], [0.85 * length, 0, 0], [length, 0, 0]])
    tip = tube(path[1:] + np.array([0.001, 0, 0]), [radius * 0.9, 0.0006], 8)
    parts = (Part(tube(path[:2], [radius] * 2, 8)), Part(tip, _other_color(rng)))
    return Shape(parts, ("stands",))


def _spoon(rng: Generator) -> Shape:
    length = _between(rng, 0.12, 0.2)
    bowl_part = ball(length * 0.13, 16).scaled(1.5, 1, 0.25)
    path = np.array([[0.1 * length, 0, 0], [0.5 * length, 0, 0.02 * length], [length, 0, 0.01]])
    return Shape((Part(join(bowl_part, tube(path, [length * 0.025] * 3, 8))),), ("stands",))


def _prism(sides: int) -> Callable[[Generator], Shape]:
    def shape(rng: Generator) -> Shape:
        radius, height = _between(rng, 0.02, 0.05), _between(rng, 0.01, 0.05)
        return Shape((Part(lathe([(0, 0), (radius, 0), (radius, height), (0, height)], sides)),))

    return shape


def _star(rng: Generator) -> Shape:
    radius, count = _between(rng, 0.03, 0.05), int(rng.integers(4, 8))
    angles = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False)
    radii = np.where(np.arange(2 * count) % 2 == 0, radius, radius * _between(rng, 0.4, 0.65))
    outline = np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])
    return Shape((Part(extrude(outline, _between(rng, 0.008, 0.02)).turned(0, np.pi / 2)),))


def _ring(rng: Generator) -> Shape:
    radius = _between(rng, 0.025, 0.06)
    circle = arc((0, 0), (radius, radius), 0, 360, 24)
    path = np.column_stack([circle, np.zeros(24)])
    return Shape((Part(tube(path, np.full(24, radius * _between(rng, 0.12, 0.3)), 8)),))


def _cone(rng: Generator) -> Shape:
    radius, height = _between(rng, 0.02, 0.045), _between(rng, 0.05, 0.1)
    return Shape((Part(lathe([(0, 0), (radius, 0), (0, height)])),), ("stands", "lies"))


def _cable(rng: Generator) -> Shape:
    points = np.cumsum(rng.normal(0, 0.03, (6, 2)), axis=0)
    steps = np.linspace(0, 5, 26)
    smooth = np.column_stack([np.interp(steps, np.arange(6), points[:, i]) for i in (0, 1)])
    kernel = np.ones(5) / 5
    smooth = np.column_stack([np.convolve(smooth[:, i], kernel, "valid") for i in (0, 1)])
    path = np.column_stack([smooth, np.zeros(len(smooth))])
    return Shape((Part(tube(path, np.full(len(path), _between(rng, 0.002, 0.004)), 7)),))


def _basket(rng: Generator) -> Shape:
    radius = _between(rng, 0.07, 0.11)
    height = radius * _between(rng, 0.8, 1.2)
    outside = np.array([[radius * 0.75, 0.0], [radius, height]])
    shell, hollow = _vessel(outside, 0.004)
    bow = tube(in_plane(arc((0, height), (radius, radius), 0, 180, 16)), np.full(16, 0.005), 8)
    return Shape((Part(shell), Part(hollow, 0.7), Part(bow)))


CLUTTER: dict[str, Callable[[Generator], Shape]] = {
    "can": _can,
    "pen": _pen,
    "spoon": _spoon,
    "triangle": _prism(3),
    "disk": _prism(24),
    "star": _star,
    "ring": _ring,
    "cone": _cone,
    "cable": _cable,
    "basket": _basket,
}
"""Things that no phrase names by kind."""
