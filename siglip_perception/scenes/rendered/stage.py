"""A stage: one MuJoCo model with a stock of things, which draws any layout of them.

Compiling a model takes about a second and creating a renderer a third of one, so a stage keeps
both and changes only what is in view. Needs MuJoCo (extra `robot`) and EGL or OSMesa for drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from siglip_perception.scenes.rendered.kinds import CLUTTER, SHAPES, Part
from siglip_perception.scenes.rendered.layout import Exposure, Layout, Placed, Thing
from siglip_perception.scenes.rendered.meshes import Floats
from siglip_perception.scenes.rendered.mujoco_import import import_mujoco, new_renderer
from siglip_perception.scenes.rendered.textures import ground, thing_pattern
from siglip_perception.types import Box, UInt8Array

_HIDDEN, _VISIBLE = 5, 0
"""Groups of geoms: MuJoCo draws groups 0 to 2 by default."""
_SHAPES_A_KIND = 5
_CLUTTER_A_KIND = 2
_PATTERNS, _GROUNDS = 14, 8
_LAMPS, _BOXES, _ARM_LINKS, _WALLS = 3, 3, 4, 4
_MIN_VISIBLE = 0.35
"""Least visible share of a named thing's outline; less is taken out of the scene."""
_MIN_AREA = 0.0012
"""Least share of the picture for a named thing."""


@dataclass(frozen=True)
class Picture:
    """A drawn layout.

    image: uint8 [height, width, 3] RGB. instances: uint8 [height, width]; 0 is background, n is
    things[n - 1]. things: objects in view, then clutter. occlusion: share of each thing's outline
    that is hidden or outside the picture, 0..1. depth: float32 [height, width] in meters.
    """

    image: UInt8Array
    instances: UInt8Array
    things: tuple[Placed, ...]
    kinds: tuple[str, ...]
    objects: int
    occlusion: tuple[float, ...]
    depth: np.ndarray | None = None

    def box(self, index: int) -> Box | None:
        """Bounding box of a thing's visible part, None if it has none."""
        rows, columns = np.nonzero(self.instances == index + 1)
        if not len(rows):
            return None
        left, top = int(columns.min()), int(rows.min())
        return Box(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)


class Stage:
    """A stock of things and the renderer that draws them; close it, or use it in a `with`."""

    def __init__(self, seed: tuple[int, ...], width: int, height: int) -> None:
        self._mujoco = import_mujoco()
        rng = np.random.default_rng(seed)
        self.stock = tuple(
            Thing(kind, named, make(rng))
            for named, shapes, copies in (
                (True, SHAPES, _SHAPES_A_KIND),
                (False, CLUTTER, _CLUTTER_A_KIND),
            )
            for kind, make in shapes.items()
            for _ in range(copies)
        )
        self.grounds, self.patterns = _GROUNDS, _PATTERNS
        self._width, self._height = width, height
        self._spec = self._mujoco.MjSpec()
        self._build(rng)
        self._model = self._spec.compile()
        self._data = self._mujoco.MjData(self._model)
        self._index()
        self._renderer = new_renderer(self._mujoco, self._model, height, width)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the renderer's context."""
        self._renderer.close()

    # Building the model

    def _build(self, rng: np.random.Generator) -> None:
        mujoco, spec = self._mujoco, self._spec
        spec.visual.global_.offwidth, spec.visual.global_.offheight = self._width, self._height
        spec.visual.quality.shadowsize = 1024
        spec.visual.quality.offsamples = 0
        spec.visual.map.znear, spec.visual.map.zfar = 0.02, 12.0
        spec.stat.extent = 1.0
        spec.stat.center = np.zeros(3)
        for number in range(_PATTERNS):
            self._texture(f"pattern{number}", thing_pattern(rng), cube=True)
        for number in range(_GROUNDS):
            self._texture(f"ground{number}", ground(rng), cube=False)
        world = spec.worldbody
        for name in ("ground", *(f"wall{n}" for n in range(_WALLS))):
            material = spec.add_material(name=name)
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "ground0"
            material.texuniform = True
            body = world.add_body(name=name, mocap=True)
            body.add_geom(
                name=name,
                type=mujoco.mjtGeom.mjGEOM_PLANE,
                size=[4, 4, 0.1],
                material=name,
                contype=0,
                conaffinity=0,
            )
        for name in (
            *(f"box{n}" for n in range(_BOXES)),
            *(f"link{n}" for n in range(_ARM_LINKS)),
        ):
            body = world.add_body(name=name, mocap=True)
            kind = mujoco.mjtGeom.mjGEOM_BOX if name[0] == "b" else mujoco.mjtGeom.mjGEOM_CAPSULE
            body.add_geom(
                name=name, type=kind, size=[0.1, 0.1, 0.1], contype=0, conaffinity=0, group=_HIDDEN
            )
        for number in range(_LAMPS):
            world.add_light(
                name=f"lamp{number}", type=mujoco.mjtLightType.mjLIGHT_SPOT, cutoff=70, exponent=1
            )
        world.add_camera(name="camera")
        for index, thing in enumerate(self.stock):
            body = world.add_body(name=f"thing{index}", mocap=True)
            for number, part in enumerate(thing.shape.parts):
                self._part(body, f"thing{index}part{number}", part)

    def _texture(self, name: str, image: UInt8Array, *, cube: bool) -> None:
        mujoco = self._mujoco
        texture = self._spec.add_texture(name=name)
        size = image.shape[0]
        texture.type = mujoco.mjtTexture.mjTEXTURE_CUBE if cube else mujoco.mjtTexture.mjTEXTURE_2D
        texture.width, texture.height, texture.nchannel = size, size * (6 if cube else 1), 3
        texture.data = np.concatenate([image] * 6).tobytes() if cube else image.tobytes()

    def _part(self, body: Any, name: str, part: Part) -> None:
        mujoco = self._mujoco
        mesh = self._spec.add_mesh(name=name)
        mesh.uservert = part.mesh.vertices.astype(np.float32).ravel().tolist()
        mesh.userface = part.mesh.faces.ravel().tolist()
        # Open surfaces have no volume.
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        self._spec.add_material(name=name)
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            material=name,
            contype=0,
            conaffinity=0,
            group=_HIDDEN,
        )

    def _index(self) -> None:
        """Look up ids once: looking up names costs more than drawing."""
        model = self._model
        self._thing_mocap = [
            int(model.body(f"thing{i}").mocapid[0]) for i in range(len(self.stock))
        ]
        self._thing_geoms = [
            [int(model.geom(f"thing{i}part{n}").id) for n in range(len(thing.shape.parts))]
            for i, thing in enumerate(self.stock)
        ]
        self._geom_thing = np.full(model.ngeom + 1, -1)
        for index, geoms in enumerate(self._thing_geoms):
            self._geom_thing[geoms] = index
        self._patterns = [int(model.texture(f"pattern{i}").id) for i in range(_PATTERNS)]
        self._grounds = [int(model.texture(f"ground{i}").id) for i in range(_GROUNDS)]

    # Drawing

    def draw(self, layout: Layout, *, depth: bool = False) -> Picture:
        """Draw a layout, without the things that would hardly be in view."""
        objects, clutter = list(layout.objects), list(layout.clutter)
        self._set_surroundings(layout)
        while True:
            things = [*objects, *clutter]
            self._show(things)
            self._mujoco.mj_forward(self._model, self._data)
            instances = self._instances(things)
            areas = np.bincount(instances.ravel(), minlength=len(things) + 1)[1:]
            outlines = [self._outline_area(layout, item) for item in things]
            occlusion = [
                min(max(1 - area / max(outline, 1), 0.0), 1.0)
                for area, outline in zip(areas, outlines, strict=True)
            ]
            least = _MIN_AREA * instances.size
            keep = [
                areas[i] >= least and occlusion[i] <= 1 - _MIN_VISIBLE for i in range(len(objects))
            ]
            if all(keep):
                break
            objects = [item for item, stays in zip(objects, keep, strict=True) if stays]
        self._renderer.update_scene(self._data, "camera")
        image = expose(self._renderer.render(), layout.exposure, layout.noise_seed)
        distance = None
        if depth:
            self._renderer.enable_depth_rendering()
            self._renderer.update_scene(self._data, "camera")
            distance = self._renderer.render().copy()
            self._renderer.disable_depth_rendering()
        return Picture(
            image,
            instances,
            tuple(things),
            tuple(self.stock[item.thing].kind for item in things),
            len(objects),
            tuple(occlusion),
            distance,
        )

    def _set_surroundings(self, layout: Layout) -> None:
        model = self._model
        rgb_role = int(self._mujoco.mjtTextureRole.mjTEXROLE_RGB)
        surfaces = [
            ("ground", layout.ground),
            *((f"wall{n}", t) for n, (_, t) in enumerate(layout.walls)),
        ]
        for name, texture in surfaces:
            material = model.material(name).id
            model.mat_texid[material, rgb_role] = self._grounds[texture]
            model.mat_texrepeat[material] = layout.ground_repeat if name == "ground" else 1.0
            model.mat_reflectance[material] = layout.ground_shine if name == "ground" else 0.0
            model.mat_specular[material] = 0.1
        for number, (distance, _) in enumerate(layout.walls):
            turn = number * np.pi / 2
            inward = np.array([-np.cos(turn), -np.sin(turn), 0.0])
            rotation = np.column_stack([[0, 0, 1.0], np.cross(inward, [0, 0, 1.0]), inward])
            self._pose(f"wall{number}", -inward * (0.6 + distance), rotation)
        for number in range(_BOXES):
            geom = model.geom(f"box{number}")
            visible = number < len(layout.boxes)
            model.geom_group[geom.id] = _VISIBLE if visible else _HIDDEN
            if visible:
                position, size, rgb = layout.boxes[number]
                model.geom_size[geom.id] = size
                model.geom_rgba[geom.id] = (*rgb, 1)
                self._pose(f"box{number}", np.array(position), np.eye(3))
        for number in range(_ARM_LINKS):
            geom = model.geom(f"link{number}")
            model.geom_group[geom.id] = _VISIBLE if layout.arm else _HIDDEN
            if layout.arm:
                low, high = layout.arm.joints[number], layout.arm.joints[number + 1]
                along = (high - low) / np.linalg.norm(high - low)
                side = np.cross(along, [1.0, 0.3, 0.2])
                side /= np.linalg.norm(side)
                model.geom_size[geom.id] = (
                    layout.arm.radius,
                    float(np.linalg.norm(high - low)) / 2,
                    0,
                )
                model.geom_rgba[geom.id] = (*layout.arm.rgb, 1)
                rotation = np.column_stack([side, np.cross(along, side), along])
                self._pose(f"link{number}", (low + high) / 2, rotation)
        camera = model.camera("camera").id
        model.cam_pos[camera] = layout.camera.position
        model.cam_quat[camera] = _quaternion(layout.camera.rotation)
        model.cam_fovy[camera] = layout.camera.fovy
        for number in range(_LAMPS):
            light = model.light(f"lamp{number}").id
            model.light_active[light] = number < len(layout.lamps)
            if number < len(layout.lamps):
                lamp = layout.lamps[number]
                model.light_pos[light], model.light_dir[light] = lamp.position, lamp.direction
                model.light_diffuse[light] = lamp.diffuse
                model.light_specular[light] = np.array(lamp.diffuse) * 0.6
                model.light_castshadow[light] = lamp.casts_shadow
        model.vis.headlight.ambient[:] = layout.ambient
        model.vis.headlight.diffuse[:] = 0.15
        model.vis.headlight.specular[:] = 0.0

    def _pose(self, body: str, position: Floats, rotation: Floats) -> None:
        mocap = int(self._model.body(body).mocapid[0])
        self._data.mocap_pos[mocap] = position
        self._data.mocap_quat[mocap] = _quaternion(rotation)

    def _show(self, things: list[Placed]) -> None:
        model = self._model
        rgb_role = int(self._mujoco.mjtTextureRole.mjTEXROLE_RGB)
        for geoms in self._thing_geoms:
            model.geom_group[geoms] = _HIDDEN
        for item in things:
            mocap = self._thing_mocap[item.thing]
            self._data.mocap_pos[mocap] = item.position
            self._data.mocap_quat[mocap] = _quaternion(item.rotation)
            surface = item.surface
            for geom, part in zip(
                self._thing_geoms[item.thing], self.stock[item.thing].shape.parts, strict=True
            ):
                model.geom_group[geom] = _VISIBLE
                material = model.geom_matid[geom]
                own = not isinstance(part.shade, tuple)
                rgb = (
                    np.clip(np.array(surface.rgb) * part.shade, 0, 1)
                    if not isinstance(part.shade, tuple)
                    else np.array(part.shade)
                )
                model.mat_rgba[material] = (*rgb, 1)
                model.mat_specular[material] = surface.specular
                model.mat_shininess[material] = surface.shininess
                model.mat_texid[material, rgb_role] = (
                    self._patterns[surface.pattern] if own and surface.pattern is not None else -1
                )

    def _instances(self, things: list[Placed]) -> UInt8Array:
        renderer = self._renderer
        renderer.enable_segmentation_rendering()
        renderer.update_scene(self._data, "camera")
        ids = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        number_of = np.zeros(len(self.stock) + 1, dtype=np.uint8)
        for number, item in enumerate(things):
            number_of[item.thing] = number + 1
        output: UInt8Array = number_of[self._geom_thing[ids]]
        return output

    def _outline_area(self, layout: Layout, item: Placed) -> int:
        """Count the pixels of a thing's whole outline, inside and outside the picture.

        The outline is the union of its parts' convex hulls, so what a handle encloses counts.
        """
        margin = self._height // 2
        canvas = np.zeros((self._height + 2 * margin, self._width + 2 * margin), np.uint8)
        for part in self.stock[item.thing].shape.parts:
            points = part.mesh.vertices @ item.rotation.T + np.array(item.position)
            pixels, depth = layout.camera.project(points, self._width, self._height)
            if depth.min() < 0.02:
                continue
            hull = cv2.convexHull(np.round(pixels + margin).astype(np.int32))
            cv2.fillConvexPoly(canvas, hull, 1)
        return int(np.count_nonzero(canvas))


def expose(image: UInt8Array, exposure: Exposure, seed: int) -> UInt8Array:
    """Turn a rendered picture, uint8 [height, width, 3] RGB, into what a camera delivers."""
    rng = np.random.default_rng(seed)
    values: Any = image.astype(np.float32) / 255
    values = np.clip(values * exposure.gain * np.array(exposure.tint, np.float32), 0, 1)
    values = values ** np.float32(exposure.gamma)
    height = image.shape[0]
    if exposure.blur * height > 0.3:
        values = cv2.GaussianBlur(values, (0, 0), exposure.blur * height)
    length, direction = exposure.motion
    if length * height > 1:
        size = int(np.ceil(length * height)) | 1
        kernel = np.zeros((size, size), np.float32)
        middle = size // 2
        reach = np.array([np.cos(direction), np.sin(direction)]) * middle
        start, stop = np.round(middle - reach).astype(int), np.round(middle + reach).astype(int)
        cv2.line(kernel, tuple(map(int, start)), tuple(map(int, stop)), 1.0)
        values = cv2.filter2D(values, -1, kernel / kernel.sum())
    values = values * 255 + rng.normal(0, max(exposure.noise, 1e-3), values.shape).astype(
        np.float32
    )
    output: UInt8Array = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return output


def _quaternion(rotation: Floats) -> Floats:
    """Convert a rotation matrix to MuJoCo's (w, x, y, z)."""
    quaternion = np.empty(4)
    import_mujoco().mju_mat2Quat(quaternion, np.ascontiguousarray(rotation, float).ravel())
    return quaternion
