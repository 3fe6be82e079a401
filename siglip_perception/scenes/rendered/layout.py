"""Sample a rendered scene: its things and how they rest, the camera, the light, the surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siglip_perception.scenes.rendered.kinds import CLUTTER, SHAPES, Pose, Shape
from siglip_perception.scenes.rendered.meshes import Floats
from siglip_perception.scenes.vocabulary import COLORS

Generator = np.random.Generator
Vector = tuple[float, float, float]

MAX_OBJECTS = 8
MAX_CLUTTER = 4
_PLACING_TRIES = 60
_STACKED = 0.35
_SUPPORTS = {"book": 0.95, "plate": 0.8, "bowl": 0.62}
"""Kinds that others rest on or in: the largest reach of such a thing, by the support's own."""


@dataclass(frozen=True)
class Thing:
    """One shape of a stage's stock: `kind` is a key of SHAPES, or of CLUTTER if not `named`."""

    kind: str
    named: bool
    shape: Shape


@dataclass(frozen=True)
class Surface:
    """Material of an object.

    rgb: 0..1. specular, shininess, reflectance: MuJoCo's, 0..1. pattern: index of a texture of
    things, or None.
    """

    rgb: Vector
    specular: float
    shininess: float
    pattern: int | None


@dataclass(frozen=True)
class Placed:
    """A thing in a scene.

    thing: index into the stock. color: a key of COLORS, "" for clutter of a muted color.
    position: of the shape's origin in meters. rotation: 3 x 3, shape to world.
    """

    thing: int
    color: str
    surface: Surface
    position: Vector
    rotation: Floats


@dataclass(frozen=True)
class Camera:
    """position in meters; rotation: 3 x 3, camera (x right, y up, looking along -z) to world;
    fovy: vertical field of view in degrees."""

    position: Vector
    rotation: Floats
    fovy: float

    def project(self, points: Floats, width: int, height: int) -> tuple[Floats, Floats]:
        """Project world points [n, 3] to pixels [n, 2]; also their depth in meters [n]."""
        local = (points - np.array(self.position)) @ self.rotation
        depth = -local[:, 2]
        focal = height / 2 / np.tan(np.radians(self.fovy) / 2)
        safe = np.maximum(depth, 1e-6)
        x = width / 2 + focal * local[:, 0] / safe
        y = height / 2 - focal * local[:, 1] / safe
        return np.column_stack([x, y]), depth


@dataclass(frozen=True)
class Lamp:
    """A light at `position` that shines along `direction`; diffuse: RGB, 0..1."""

    position: Vector
    direction: Vector
    diffuse: Vector
    casts_shadow: bool


@dataclass(frozen=True)
class Arm:
    """A robot's arm as a chain of joints [n, 3] in meters; rgb of its links."""

    joints: Floats
    radius: float
    rgb: Vector


@dataclass(frozen=True)
class Exposure:
    """Effects of the camera on the light.

    gain, tint: factors, overall and per channel. gamma: exponent. noise: deviation in gray levels.
    blur: sigma in units of the image height. motion: length in units of the image height, and
    direction in radians. quality: of the JPEG, or None for none.
    """

    gain: float
    tint: Vector
    gamma: float
    noise: float
    blur: float
    motion: tuple[float, float]
    quality: int | None


@dataclass(frozen=True)
class Layout:
    """A whole scene: `objects` are named by phrases, `clutter` is not."""

    objects: tuple[Placed, ...]
    clutter: tuple[Placed, ...]
    camera: Camera
    lamps: tuple[Lamp, ...]
    ambient: float
    ground: int
    ground_repeat: float
    ground_shine: float
    walls: tuple[tuple[float, int], ...]
    boxes: tuple[tuple[Vector, Vector, Vector], ...]
    arm: Arm | None
    exposure: Exposure
    noise_seed: int


def sample_layout(
    rng: Generator,
    stock: tuple[Thing, ...],
    count: int,
    grounds: int,
    patterns: int,
    *,
    twins: bool = False,
) -> Layout:
    """Sample a scene of up to `count` objects of distinct colors and kinds, with clutter.

    grounds, patterns: number of textures of each. twins: give the last object the color and kind
    of the first. The scene has fewer objects if no more fit into view.
    """
    camera = _camera(rng)
    by_kind: dict[str, list[int]] = {}
    for index, thing in enumerate(stock):
        by_kind.setdefault(thing.kind, []).append(index)
    objects: list[Placed] = []
    footprints: list[tuple[float, float, float]] = []
    pairs: set[tuple[str, str]] = set()
    colors = list(COLORS)
    # Some scenes have few colors, so that the kind has to tell the things apart.
    if rng.random() < 0.3:
        colors = [colors[i] for i in rng.permutation(len(colors))[: int(rng.integers(1, 4))]]
    kinds = list(SHAPES)
    if rng.random() < 0.2:
        kinds = [kinds[i] for i in rng.permutation(len(kinds))[: int(rng.integers(1, 4))]]
    closeness = float(rng.uniform(0.55, 1.1))
    occupied: set[int] = set()
    for _ in range(_PLACING_TRIES):
        if len(objects) >= count:
            break
        kind = kinds[int(rng.integers(len(kinds)))]
        color = colors[int(rng.integers(len(colors)))]
        if twins and count > 1 and len(objects) == count - 1:
            kind, color = stock[objects[0].thing].kind, objects[0].color
        elif (kind, color) in pairs:
            continue
        choices = [i for i in by_kind[kind] if all(i != item.thing for item in objects)]
        if not choices:
            continue
        placed = _place(
            rng,
            stock,
            choices[int(rng.integers(len(choices)))],
            color,
            camera,
            objects,
            footprints,
            occupied,
            closeness,
            patterns,
        )
        if placed is not None:
            objects.append(placed)
            pairs.add((kind, color))
    clutter: list[Placed] = []
    clutter_kinds = list(CLUTTER)
    for _ in range(int(rng.choice(MAX_CLUTTER + 1, p=(0.3, 0.25, 0.2, 0.15, 0.1)))):
        kind = clutter_kinds[int(rng.integers(len(clutter_kinds)))]
        choices = [i for i in by_kind[kind] if all(i != item.thing for item in clutter)]
        color = list(COLORS)[int(rng.integers(len(COLORS)))] if rng.random() < 0.6 else ""
        if not choices:
            continue
        placed = _place(
            rng,
            stock,
            choices[int(rng.integers(len(choices)))],
            color,
            camera,
            [],
            footprints,
            occupied,
            closeness,
            patterns,
        )
        if placed is not None:
            clutter.append(placed)
    wall_distance = float(rng.uniform(0.5, 2.5))
    return Layout(
        tuple(objects),
        tuple(clutter),
        camera,
        _lamps(rng),
        ambient=float(rng.uniform(0.15, 0.5)),
        ground=int(rng.integers(grounds)),
        ground_repeat=float(np.exp(rng.uniform(np.log(0.5), np.log(6)))),
        ground_shine=float(rng.uniform(0.05, 0.35)) if rng.random() < 0.15 else 0.0,
        walls=tuple(
            (wall_distance * float(rng.uniform(0.8, 1.3)), int(rng.integers(grounds)))
            for _ in range(4)
        ),
        boxes=tuple(_background_box(rng, wall_distance) for _ in range(int(rng.integers(0, 4)))),
        arm=_arm(rng) if rng.random() < 0.2 else None,
        exposure=_exposure(rng),
        noise_seed=int(rng.integers(2**31)),
    )


def _camera(rng: Generator) -> Camera:
    """Look at the table from any side, 10 to 75 degrees down."""
    down = np.radians(rng.uniform(10, 75))
    around = rng.uniform(0, 2 * np.pi)
    fovy = float(rng.uniform(30, 55))
    # The distance at which 0.2 to 0.9 m of table fill the height: the same things, large or small.
    span = float(np.exp(rng.uniform(np.log(0.22), np.log(0.9))))
    distance = span / 2 / np.tan(np.radians(fovy) / 2)
    target = np.array([*rng.uniform(-0.1, 0.1, 2), rng.uniform(0.0, 0.06)])
    away = np.array([np.cos(down) * np.cos(around), np.cos(down) * np.sin(around), np.sin(down)])
    position = target + distance * away
    position[2] = max(position[2], 0.05)
    back = position - target
    back /= np.linalg.norm(back)
    side = np.cross([0.0, 0.0, 1.0], back)
    side /= np.linalg.norm(side)
    up = np.cross(back, side)
    roll = float(rng.normal(0, np.radians(5))) if rng.random() < 0.7 else 0.0
    right = np.cos(roll) * side + np.sin(roll) * up
    upward = np.cross(back, right)
    x, y, z = map(float, position)
    return Camera((x, y, z), np.column_stack([right, upward, back]), fovy)


def _place(
    rng: Generator,
    stock: tuple[Thing, ...],
    index: int,
    color: str,
    camera: Camera,
    objects: list[Placed],
    footprints: list[tuple[float, float, float]],
    occupied: set[int],
    closeness: float,
    patterns: int,
) -> Placed | None:
    """Rest a thing on the table in view, or on a book, a plate or in a bowl; None if full."""
    shape = stock[index].shape
    rotation = _rotation(rng, shape.poses[int(rng.integers(len(shape.poses)))])
    turned = shape.vertices() @ rotation.T
    lift = -float(turned[:, 2].min())
    middle = (turned.min(axis=0) + turned.max(axis=0)) / 2
    reach = float(np.hypot(*(turned[:, :2] - middle[:2]).T).max())
    surface = _surface(rng, color, patterns)
    supports = [
        number
        for number, item in enumerate(objects)
        if stock[item.thing].kind in _SUPPORTS
        and number not in occupied
        and abs(item.rotation[2, 2]) > 0.999
    ]
    if supports and rng.random() < _STACKED:
        number = supports[int(rng.integers(len(supports)))]
        support = objects[number]
        below = stock[support.thing]
        extent = below.shape.vertices()
        half = extent[:, :2].max(axis=0)
        if reach < _SUPPORTS[below.kind] * float(half.min()):
            occupied.add(number)
            height = float(extent[:, 2].max()) if below.kind == "book" else 0.008
            x = support.position[0] - float(middle[0])
            y = support.position[1] - float(middle[1])
            rest = (x, y, lift + height + support.position[2])
            return Placed(index, color, surface, rest, rotation)
    for _ in range(8):
        point = _table_point(rng, camera)
        if point is None:
            continue
        x, y = point
        if all(np.hypot(x - u, y - v) > closeness * (reach + r) for u, v, r in footprints):
            footprints.append((x, y, reach))
            position = (x - float(middle[0]), y - float(middle[1]), lift)
            return Placed(index, color, surface, position, rotation)
    return None


def _table_point(rng: Generator, camera: Camera) -> tuple[float, float] | None:
    """Sample a visible point of the table within 1.6 m of the camera; None if this try misses."""
    half = np.tan(np.radians(camera.fovy) / 2)
    u, v = rng.uniform(-0.95, 0.95) * half * 4 / 3, rng.uniform(-0.95, 0.95) * half
    ray = camera.rotation @ np.array([u, v, -1.0])
    if ray[2] > -0.02:
        return None
    distance = -camera.position[2] / ray[2]
    if distance > 1.6:
        return None
    return camera.position[0] + distance * ray[0], camera.position[1] + distance * ray[1]


def _rotation(rng: Generator, pose: Pose) -> Floats:
    yaw = _about(2, rng.uniform(0, 2 * np.pi))
    spin = _about(2, rng.uniform(0, 2 * np.pi))
    if pose == "lies":
        return yaw @ _about(0, np.pi / 2) @ spin
    if pose == "upside":
        return yaw @ _about(0, np.pi)
    if pose == "tips":
        return yaw @ _about(0, rng.uniform(0.2, 1.2)) @ spin
    if pose == "rolls":
        return yaw @ _about(0, rng.uniform(0, np.pi)) @ spin
    return yaw


def _about(axis: int, angle: float) -> Floats:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _surface(rng: Generator, color: str, patterns: int) -> Surface:
    base = np.array(COLORS[color][0] if color else rng.normal(135, 20) + rng.normal(0, 14, 3))
    red, green, blue = np.clip(base + rng.normal(0, 11, 3), 4, 252) / 255
    glossy = rng.random() < 0.5
    return Surface(
        (float(red), float(green), float(blue)),
        specular=float(rng.uniform(0.2, 1.0)) if glossy else float(rng.uniform(0, 0.15)),
        shininess=float(rng.uniform(0.1, 0.9)),
        pattern=int(rng.integers(patterns)) if rng.random() < 0.25 else None,
    )


def _lamps(rng: Generator) -> tuple[Lamp, ...]:
    lamps = []
    for number in range(int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))):
        around, down = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.5)
        away = np.array(
            [np.cos(down) * np.cos(around), np.cos(down) * np.sin(around), np.sin(down)]
        )
        position = 2.2 * away
        level = float(rng.uniform(0.35, 0.75)) / (1 + 0.8 * number)
        tint = np.clip(rng.normal(1, 0.06, 3), 0.8, 1.2) * level
        lamps.append(
            Lamp(
                _vector(position),
                _vector(-away),
                _vector(tint),
                casts_shadow=number == 0 and bool(rng.random() < 0.85),
            )
        )
    return tuple(lamps)


def _background_box(rng: Generator, distance: float) -> tuple[Vector, Vector, Vector]:
    """Sample position, half sizes and color of furniture far behind the things."""
    around = rng.uniform(0, 2 * np.pi)
    size = rng.uniform(0.05, 0.3, 3)
    away = distance * rng.uniform(0.75, 1.0) + 0.35
    base = list(COLORS.values())[int(rng.integers(len(COLORS)))][0]
    color = np.array(base) / 255 if rng.random() < 0.5 else np.full(3, rng.uniform(0.2, 0.8))
    return (
        (float(away * np.cos(around)), float(away * np.sin(around)), float(size[2])),
        _vector(size),
        _vector(color),
    )


def _arm(rng: Generator) -> Arm:
    around = rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(around), np.sin(around), 0.0])
    tip = np.array([*rng.uniform(-0.15, 0.15, 2), rng.uniform(0.08, 0.25)])
    base = 0.7 * away
    elbow = (base + tip) / 2 + np.array([0, 0, rng.uniform(0.25, 0.5)])
    wrist = tip + np.array([0, 0, rng.uniform(0.08, 0.15)])
    shoulder = base + np.array([0, 0, rng.uniform(0.15, 0.3)])
    shade = rng.choice([0.12, 0.5, 0.85])
    rgb = np.clip(shade + rng.normal(0, 0.05, 3), 0.03, 0.97)
    if rng.random() < 0.25:
        rgb = np.array(list(COLORS.values())[int(rng.integers(len(COLORS)))][0]) / 255
    return Arm(
        np.array([base, shoulder, elbow, wrist, tip]),
        float(rng.uniform(0.018, 0.045)),
        _vector(rgb),
    )


def _exposure(rng: Generator) -> Exposure:
    tint = np.clip(rng.normal(1, 0.05, 3), 0.86, 1.14)
    return Exposure(
        gain=float(np.exp(rng.normal(0, 0.18))),
        tint=_vector(tint),
        gamma=float(np.exp(rng.normal(0, 0.12))),
        noise=float(rng.uniform(0, 7)),
        blur=float(rng.uniform(0.001, 0.005)) if rng.random() < 0.2 else 0.0,
        motion=(
            (float(rng.uniform(0.006, 0.02)), float(rng.uniform(0, np.pi)))
            if rng.random() < 0.15
            else (0.0, 0.0)
        ),
        quality=int(rng.integers(50, 96)) if rng.random() < 0.5 else None,
    )


def _vector(values: Floats) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
