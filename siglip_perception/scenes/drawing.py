"""Render scenes with exact masks; the same scene at the same size gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.scenes.shapes import MAT, SHAPES, Points
from siglip_perception.scenes.vocabulary import Language, PhraseClass
from siglip_perception.types import Box, FloatArray, UInt8Array

Material = Literal["matte", "glossy", "metallic", "wood", "rough"]
MATERIALS: tuple[Material, ...] = ("matte", "glossy", "metallic", "wood", "rough")
Pattern = Literal["plain", "stripes", "dots", "checks"]
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "dots", "checks")
Cover = Literal["blotches", "planks", "cloth", "stone"]
COVERS: tuple[Cover, ...] = ("blotches", "planks", "cloth", "stone")

_SUBPIXEL_BITS = 4
_LEAST_BLUR = 0.3
"""Minimum sigma in pixels: a narrower Gaussian changes nothing."""


@dataclass(frozen=True)
class SceneObject:
    """One thing: center (x, y) and size in units of the image height, angle in radians.

    color: a key of COLORS, or "" for a muted color that no phrase names. phase: of its grain,
    pattern and reflections, in [0, 1).
    """

    kind: str
    color: str
    rgb: tuple[int, int, int]
    x: float
    y: float
    size: float
    angle: float
    aspect: float
    material: Material = "matte"
    pattern: Pattern = "plain"
    phase: float = 0.0

    def phrase(self, language: Language) -> str:
        """Name the object plainly: "red cup" or "빨간 컵"."""
        return PhraseClass(self.color, self.kind).forms(language)[0]


@dataclass(frozen=True)
class Light:
    """Lighting of a scene.

    level, tint: brightness factors, overall and per channel. slope: change of the level from left
    to right and from top to bottom. shadow: offset of a thing's shadow in units of its size;
    depth: darkening in the shadow; softness: blur of its edge in units of the image height.
    band: darkening of a strip shadowed from outside the image, 0 for none; band_at, band_angle:
    its offset from the center in units of the image height, and its angle in radians.
    """

    level: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    slope: tuple[float, float] = (0.0, 0.0)
    shadow: tuple[float, float] = (0.06, 0.07)
    depth: float = 0.3
    softness: float = 0.01
    band: float = 0.0
    band_at: float = 0.0
    band_angle: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, clutter, background and camera.

    clutter: things that no phrase names by kind, among the objects; lower in the image is nearer.
    horizon: share of the image above the table's edge. noise: standard deviation of the sensor
    noise in gray levels. motion: length (in image heights) and angle of the motion blur.
    defocus: standard deviation of the lens blur in image heights. seed: of texture and noise.
    """

    objects: tuple[SceneObject, ...]
    table: tuple[int, int, int]
    wall: tuple[int, int, int]
    horizon: float
    light: Light
    noise: float
    seed: int
    clutter: tuple[SceneObject, ...] = ()
    cover: Cover = "blotches"
    motion: tuple[float, float] = (0.0, 0.0)
    defocus: float = 0.0
    aspect: float = 4 / 3


@dataclass(frozen=True)
class Rendering:
    """A rendered image with ground truth.

    image: uint8 [H, W, 3] RGB. instances: uint8 [H, W], 0 background, i + 1 object i; clutter
    follows the objects in number. hidden: for each object and then each piece of clutter, the
    share of its outline, in [0, 1], that lies behind others or outside the picture.
    """

    image: UInt8Array
    instances: UInt8Array
    occlusion: tuple[float, ...] = ()

    def box(self, index: int) -> Box | None:
        """Bounding box of the visible part in pixels; None if the object is fully hidden."""
        x, y, across, down = cv2.boundingRect((self.instances == index + 1).astype(np.uint8))
        return Box(x, y, across, down) if across else None


def painting_order(scene: Scene) -> list[tuple[int, SceneObject]]:
    """List everything from back to front, with its number in `Rendering.instances`."""
    things = list(enumerate((*scene.objects, *scene.clutter), start=1))
    return sorted(things, key=lambda thing: thing[1].y - 10.0 * (thing[1].kind == MAT))


def outlines(item: SceneObject, height: int) -> list[npt.NDArray[np.int32]]:
    """Transform the layers from the unit frame to pixels, [n, 2] each, in cv2's fixed point."""
    points, cuts = _points(item.kind)
    cos, sin = np.cos(item.angle), np.sin(item.angle)
    turn = np.array([[item.aspect * cos, item.aspect * sin], [-sin, cos]]) * item.size
    pixels = (points @ turn + [item.x, item.y]) * (height << _SUBPIXEL_BITS)
    return np.split(np.rint(pixels).astype(np.int32), cuts)


@cache
def _points(kind: str) -> tuple[Points, list[int]]:
    """Concatenate the points of a shape; also return the start of each layer after the first."""
    layers = [points for points, _ in SHAPES[kind]]
    return np.concatenate(layers), np.cumsum([len(points) for points in layers])[:-1].tolist()


def fill(image: UInt8Array, points: npt.NDArray[np.int32], value: object, line: int) -> None:
    """Fill one polygon in fixed point with cv2.fillPoly."""
    cv2.fillPoly(image, [points], value, line, _SUBPIXEL_BITS)  # type: ignore[call-overload]


@cache
def _grid(width: int, height: int) -> tuple[FloatArray, FloatArray]:
    """Pixel coordinates in image heights, [1, W] and [H, 1]."""
    x, y = (((np.arange(count) + 0.5) / height).astype(np.float32) for count in (width, height))
    return x[None, :], y[:, None]


def _texture(rng: np.random.Generator, cover: Cover, width: int, height: int) -> FloatArray:
    """Generate the table's texture, roughly in [-1, 1]."""
    size = (width, height)
    coarse = cv2.resize(
        rng.standard_normal((6, 8), dtype=np.float32), size, interpolation=cv2.INTER_CUBIC
    )
    x, y = _grid(width, height)
    rate, phase = rng.uniform(5, 12), rng.uniform(0, 6.28)
    if cover == "planks":
        lines = np.abs(np.sin(rate * 0.6 * y + phase)) < 0.06
        grain = np.sin(60 * y + 3 * coarse + phase)
        field = 0.4 * coarse + 0.3 * grain - 1.6 * lines
    elif cover == "cloth":
        field = 0.3 * coarse + 0.9 * (np.sin(rate * 2 * x + phase) * np.sin(rate * 2 * y) > 0)
    else:
        cells = (
            (40, 54) if cover == "stone" else (int(rng.integers(8, 24)), int(rng.integers(8, 24)))
        )
        fine = cv2.resize(
            rng.standard_normal(cells, dtype=np.float32), size, interpolation=cv2.INTER_LINEAR
        )
        field = 0.5 * coarse + 0.5 * fine
    result: FloatArray = field.astype(np.float32)
    return result


def _surface(item: SceneObject, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute factor and addend on the paint, [h, w] each, in the object's frame.

    x: float32 [1, w]; y: float32 [h, 1], relative to the center, in image heights.
    """
    cos, sin = np.cos(item.angle, dtype=np.float32), np.sin(item.angle, dtype=np.float32)
    u = (x * cos + y * sin) / np.float32(item.size * item.aspect)
    v = (y * cos - x * sin) / np.float32(item.size)
    turn = np.float32(2 * np.pi)
    phase = np.float32(item.phase)
    factor = 1 - np.float32(0.16) * (u + v) * np.float32(np.cos(turn * phase))
    addend = np.zeros_like(factor)
    if item.material == "glossy":
        spot = np.exp(-12 * (np.square(u + 0.18) + np.square(v + 0.14 - 0.1 * phase)))
        addend += 110 * spot
    elif item.material == "metallic":
        bands = np.sin(turn * (1.5 * u + 0.35 * v + phase))
        factor *= 1 + np.float32(0.26) * bands
        addend += 60 * np.maximum(bands - 0.8, 0) * 5
    elif item.material == "wood":
        factor *= 1 + np.float32(0.14) * np.sin(
            turn * (6 * u + 0.5 * np.sin(4 * v + turn * phase))
        )
    elif item.material == "rough":
        factor *= 1 + np.float32(0.12) * np.sin(37 * u + 11 * v) * np.sin(29 * v - 17 * u)
    if item.pattern != "plain":
        across, down = np.sin(turn * (3 * u + phase)), np.sin(turn * 3 * v)
        marks = {"stripes": across, "dots": across * down - 0.45, "checks": across * down}
        # Light marks on dark things and dark ones on light things keep the color's name true.
        if sum(item.rgb) > 330:
            factor *= 1 - np.float32(0.28) * (marks[item.pattern] > 0)
        else:
            addend += 38 * (marks[item.pattern] > 0)
    return factor, addend


def _draw(planes: FloatArray, instances: UInt8Array, number: int, item: SceneObject) -> int:
    """Paint one thing onto the image [3, H, W]; return the area of its outline in pixels."""
    _, height, width = planes.shape
    layers = outlines(item, height)
    all_points = np.concatenate(layers)
    x0, y0 = (all_points.min(axis=0) >> _SUBPIXEL_BITS) - 1
    x1, y1 = (all_points.max(axis=0) >> _SUBPIXEL_BITS) + 3
    corner = np.array([x0, y0], dtype=np.int32) << _SUBPIXEL_BITS
    paint = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
    paint[:] = item.rgb
    alpha, mask = np.zeros((2, *paint.shape[:2]), dtype=np.uint8)
    for points, (_, shade) in zip(layers, SHAPES[item.kind], strict=True):
        tone = (
            shade
            if isinstance(shade, tuple)
            else tuple(min(c * shade + max(shade - 1, 0) * 40, 255) for c in item.rgb)
        )
        fill(paint, points - corner, tone, cv2.LINE_AA)
        fill(alpha, points - corner, 255, cv2.LINE_AA)
        fill(mask, points - corner, 1, cv2.LINE_8)
    x_min, y_min, x_max, y_max = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if x_min < x_max and y_min < y_max:
        crop = np.s_[y_min - y0 : y_max - y0, x_min - x0 : x_max - x0]
        window = np.s_[y_min:y_max, x_min:x_max]
        x, y = _grid(width, height)
        factor, addend = _surface(
            item, x[:, x_min:x_max] - np.float32(item.x), y[y_min:y_max] - np.float32(item.y)
        )
        pixels = paint[crop].transpose(2, 0, 1).astype(np.float32) * factor + addend
        share = alpha[crop] * np.float32(1 / 255)
        background = planes[:, y_min:y_max, x_min:x_max]
        background += (np.clip(pixels, 0, 255) - background) * share
        instances[window][mask[crop] > 0] = number
    return int(np.count_nonzero(mask))


def _lighting(light: Light, shadows: UInt8Array, width: int, height: int) -> FloatArray:
    """Compute the light on every pixel, float32 [H, W]: level, slope, shadows and band."""
    x, y = _grid(width, height)
    middle = x - np.float32(width / height / 2)
    field = light.level * (
        1 + np.float32(light.slope[0]) * middle + np.float32(light.slope[1]) * (y - 0.5)
    )
    field *= 1 - np.float32(light.depth / 255) * shadows
    if light.band:
        across = middle * np.cos(light.band_angle) + (y - 0.5) * np.sin(light.band_angle)
        edge = np.clip((0.16 - np.abs(across - light.band_at)) / 0.04, 0, 1)
        field *= 1 - np.float32(light.band) * edge
    result: FloatArray = field.astype(np.float32)
    return result


def _blur(image: npt.NDArray[Any], sigma: float) -> FloatArray:
    """Blur by a Gaussian of `sigma` pixels, float32; skips a negligible sigma."""
    output = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > _LEAST_BLUR else image
    return np.asarray(output, dtype=np.float32)


def _motion_kernel(pixels: float, angle: float) -> FloatArray:
    reach = int(np.ceil(pixels / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    for t in np.linspace(-0.5, 0.5, 4 * reach):
        x, y = reach + t * pixels * np.cos(angle), reach + t * pixels * np.sin(angle)
        kernel[round(y), round(x)] += 1
    result: FloatArray = kernel / kernel.sum()
    return result


def render(scene: Scene, width: int = 640, height: int = 480) -> Rendering:
    """Draw the scene: table, shadows, things from back to front, light, blur, noise."""
    rng = np.random.default_rng(scene.seed)
    texture = _texture(rng, scene.cover, width, height) * 9
    planes = np.empty((3, height, width), dtype=np.float32)
    edge = round(scene.horizon * height)
    for plane, wall, table in zip(planes, scene.wall, scene.table, strict=True):
        np.add(texture[:edge], wall, out=plane[:edge])
        np.add(texture[edge:], table, out=plane[edge:])
    things = painting_order(scene)
    shadows, instances = np.zeros((2, height, width), dtype=np.uint8)
    outline_areas = [0] * len(things)
    for number, item in things:
        reach = item.size * (height << _SUBPIXEL_BITS) * (0.15 if item.kind == MAT else 1)
        shift = np.rint(np.array(scene.light.shadow) * reach).astype(np.int32)
        for points in outlines(item, height):
            fill(shadows, points + shift, 255, cv2.LINE_8)
        outline_areas[number - 1] = _draw(planes, instances, number, item)
    # Shadows fall on the table only, not on other things.
    table_shadows = _blur(shadows, scene.light.softness * height) * (instances == 0)
    field = _lighting(scene.light, table_shadows, width, height)
    noise = rng.standard_normal((height, width), dtype=np.float32) * scene.noise
    has_blur = scene.defocus * height > _LEAST_BLUR or scene.motion[0] * height > 1
    kernel = _motion_kernel(scene.motion[0] * height, scene.motion[1])
    image = np.empty((height, width, 3), dtype=np.uint8)
    for channel, plane in enumerate(planes):
        plane *= field * np.float32(scene.light.tint[channel])
        if has_blur:
            plane = _blur(np.clip(plane, 0, 255), scene.defocus * height)
            plane = np.asarray(cv2.filter2D(plane, -1, kernel), dtype=np.float32)
        plane += noise
        image[..., channel] = np.clip(plane, 0, 255)
    visible_areas = np.bincount(instances.ravel(), minlength=len(things) + 1)[1:]
    occlusion = tuple(
        1 - float(visible_area) / max(area, 1)
        for visible_area, area in zip(visible_areas, outline_areas, strict=True)
    )
    return Rendering(image, instances, occlusion)
