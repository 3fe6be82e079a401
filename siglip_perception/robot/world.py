"""The simulated table: an arm, things with true shapes that can be grasped, and two cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from siglip_perception.robot.arm import (
    FINGERS,
    JOINTS,
    OPEN_M,
    REST,
    Pose,
    add_arm,
    inverse_kinematics,
)
from siglip_perception.robot.episodes import Episode, Item
from siglip_perception.scenes.rendered.kinds import SHAPES, Shape
from siglip_perception.scenes.rendered.meshes import Mesh
from siglip_perception.scenes.rendered.mujoco_import import import_mujoco, new_renderer
from siglip_perception.scenes.rendered.textures import ground
from siglip_perception.scenes.vocabulary import COLORS
from siglip_perception.types import UInt8Array

TIMESTEP_S = 0.002
MASS_KG = 0.09
_MAX_SPEED_M_S = 0.55
_CAMERA = ((0.78, 0.0, 0.66), (0.02, 0.0, 0.0), 42.0)
"""Of the robot's camera: position and target in meters, vertical field of view in degrees."""
_SCENE = ((0.75, 0.9, 0.7), (-0.12, 0.0, 0.14), 45.0)
_GRASP_WIDTH = 0.085
"""Things are scaled so that their smaller side fits the gripper with room to spare."""
_PLACE_HEIGHT = 0.03
_OFF_TABLE_M = 0.002


@dataclass(frozen=True)
class CameraView:
    """rgb: uint8 [height, width, 3]. depth: float32 [height, width] in meters along the axis."""

    rgb: UInt8Array
    depth: np.ndarray


@dataclass(frozen=True)
class ThingState:
    """Center of a thing's bounding box at rest, meters, and its largest horizontal reach."""

    x: float
    y: float
    bottom: float
    reach: float
    height: float


class World:
    """One episode's physics. Close it, or use it in a `with`."""

    def __init__(self, episode: Episode, seed: int, width: int = 640, height: int = 480) -> None:
        self._mujoco = import_mujoco()
        self._width, self._height = width, height
        rng = np.random.default_rng((seed, episode.number, 0xB0))
        self.episode = episode
        self._shapes = [_shape(item, rng) for item in episode.items]
        spec = self._build(rng)
        self._model = spec.compile()
        self._data = self._mujoco.MjData(self._model)
        self._renderers: dict[tuple[int, int], Any] = {}
        self._joints = [self._model.joint(name).qposadr[0] for name in JOINTS]
        self._goal = REST
        self._setpoint = REST
        self._opening = OPEN_M
        self._data.qpos[self._joints] = inverse_kinematics(REST)
        for name in FINGERS:
            self._data.qpos[self._model.joint(name).qposadr[0]] = OPEN_M / 2
        self._apply()
        self.step(0.6)
        self.start = [self.thing(index) for index in range(len(episode.items))]

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the renderers' contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    @property
    def time(self) -> float:
        """Simulated seconds."""
        return float(self._data.time)

    # Building

    def _build(self, rng: np.random.Generator) -> Any:
        mujoco = self._mujoco
        spec = mujoco.MjSpec()
        spec.option.timestep = TIMESTEP_S
        spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        spec.option.impratio = 10
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.visual.global_.offwidth = max(self._width, 640)
        spec.visual.global_.offheight = max(self._height, 480)
        spec.visual.quality.shadowsize = 1024
        spec.visual.map.znear, spec.visual.map.zfar = 0.02, 8.0
        spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
        spec.visual.headlight.diffuse = [0.2, 0.2, 0.2]
        spec.stat.extent = 1.0
        texture = spec.add_texture(name="table")
        image = ground(rng)
        texture.type = mujoco.mjtTexture.mjTEXTURE_2D
        texture.width, texture.height, texture.nchannel = image.shape[1], image.shape[0], 3
        texture.data = image.tobytes()
        material = spec.add_material(name="table", texrepeat=[1.5, 1.5])
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
        world = spec.worldbody
        world.add_geom(
            name="table",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[3, 3, 0.1],
            material="table",
            friction=[0.9, 0.02, 0.001],
        )
        world.add_light(
            pos=[0.5, -0.6, 1.8], dir=[-0.3, 0.35, -1], diffuse=[0.55, 0.55, 0.53], castshadow=True
        )
        world.add_light(
            pos=[-0.4, 0.8, 1.6], dir=[0.3, -0.5, -1], diffuse=[0.25, 0.25, 0.27], castshadow=False
        )
        for name, (position, target, fovy) in (("camera", _CAMERA), ("scene", _SCENE)):
            world.add_camera(name=name, pos=position, quat=_look_at(position, target), fovy=fovy)
        add_arm(spec, mujoco)
        for index, (item, shape) in enumerate(zip(self.episode.items, self._shapes, strict=True)):
            self._add_thing(spec, index, item, shape, rng)
        return spec

    def _add_thing(
        self, spec: Any, index: int, item: Item, shape: Shape, rng: np.random.Generator
    ) -> None:
        mujoco = self._mujoco
        half = item.yaw / 2
        body = spec.worldbody.add_body(
            name=f"thing{index}",
            pos=[item.x, item.y, 0.002],
            quat=[np.cos(half), 0, 0, np.sin(half)],
        )
        body.add_freejoint()
        color = np.clip(np.array(COLORS[item.color][0]) + rng.normal(0, 8, 3), 0, 255) / 255
        for number, part in enumerate(shape.parts):
            name = f"thing{index}part{number}"
            mesh = spec.add_mesh(name=name)
            mesh.uservert = part.mesh.vertices.astype(np.float32).ravel().tolist()
            mesh.userface = part.mesh.faces.ravel().tolist()
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
            own = part.shade
            rgb = own if isinstance(own, tuple) else tuple(np.clip(color * own, 0, 1))
            body.add_geom(
                name=name,
                type=mujoco.mjtGeom.mjGEOM_MESH,
                meshname=name,
                rgba=[*rgb, 1],
                mass=MASS_KG / len(shape.parts),
                condim=6,
                friction=[1.2, 0.02, 0.002],
                solref=[0.01, 1.0],
            )

    # Acting

    def command(self, pose: Pose, opening: float) -> None:
        """Set where the fingertips go, at _MAX_SPEED_M_S, and how far the fingers open."""
        self._goal, self._opening = pose, float(np.clip(opening, 0.0, OPEN_M))

    def step(self, seconds: float) -> None:
        """Advance physics."""
        slice_s = 0.01
        for _ in range(max(round(seconds / slice_s), 1)):
            self._setpoint = _towards(self._setpoint, self._goal, _MAX_SPEED_M_S * slice_s)
            self._apply()
            self._mujoco.mj_step(self._model, self._data, nstep=round(slice_s / TIMESTEP_S))

    def _apply(self) -> None:
        angles = inverse_kinematics(self._setpoint)
        if angles is not None:
            self._data.ctrl[: len(JOINTS)] = angles
        self._data.ctrl[len(JOINTS) :] = self._opening / 2

    def gripper(self) -> Pose:
        """The fingertips' own pose."""
        site = self._data.site("tip")
        across = site.xmat.reshape(3, 3)[:, 1]
        yaw = float(np.arctan2(-across[0], across[1]))
        x, y, z = (float(v) for v in site.xpos)
        return Pose(x, y, z, yaw)

    def joint_angles(self) -> list[float]:
        """Joint positions in radians, then each finger's in meters."""
        names = (*JOINTS, *FINGERS)
        return [float(self._data.qpos[self._model.joint(name).qposadr[0]]) for name in names]

    # Seeing

    def thing(self, index: int) -> ThingState:
        """Where a thing is now."""
        body = self._data.body(f"thing{index}")
        points = self._shapes[index].vertices() @ body.xmat.reshape(3, 3).T + body.xpos
        low, high = points.min(axis=0), points.max(axis=0)
        return ThingState(
            float(low[0] + high[0]) / 2,
            float(low[1] + high[1]) / 2,
            float(low[2]),
            float(max(high[0] - low[0], high[1] - low[1])) / 2,
            float(high[2] - low[2]),
        )

    def is_flying(self, index: int) -> bool:
        """Tell whether nothing holds or carries a thing: it touches nothing."""
        body = self._model.body(f"thing{index}").id
        geoms = self._data.contact.geom
        return not bool((self._model.geom_bodyid[geoms] == body).any())

    def outline(self, index: int) -> np.ndarray:
        """Outline of a thing in the robot's camera, as if nothing hid it: int32 [n, 2], pixels."""
        body = self._data.body(f"thing{index}")
        points = self._shapes[index].vertices() @ body.xmat.reshape(3, 3).T + body.xpos
        rotation, position = optical_frame()
        seen = (points - position) @ rotation
        focal = self.focal_length()
        center = np.array([self._width, self._height]) / 2 - 0.5
        pixels = focal * seen[:, :2] / seen[:, 2:] + center
        hull: np.ndarray = cv2.convexHull(np.rint(pixels).astype(np.int32))[:, 0]
        return hull

    def long_axis(self, index: int) -> tuple[float, float]:
        """Yaw of a thing's long axis in radians, and its width across that axis in meters."""
        body = self._data.body(f"thing{index}")
        extent = np.ptp(self._shapes[index].vertices(), axis=0)
        axis = body.xmat.reshape(3, 3)[:, 0 if extent[0] >= extent[1] else 1]
        return float(np.arctan2(axis[1], axis[0])), float(extent[:2].min())

    def is_placed(self, index: int, place: int) -> bool:
        """Tell whether a thing rests on a place: above its area, and not on the table."""
        thing, support = self.thing(index), self.thing(place)
        off = float(np.hypot(thing.x - support.x, thing.y - support.y))
        return off < support.reach and thing.bottom > _OFF_TABLE_M

    def render(self, camera: str = "camera") -> UInt8Array:
        """Draw RGB, uint8 [height, width, 3], of "camera" or "scene"."""
        renderer = self._renderer(self._width, self._height)
        renderer.update_scene(self._data, camera)
        output: UInt8Array = renderer.render().copy()
        return output

    def look(self) -> CameraView:
        """Draw what the robot's camera sees, with registered depth."""
        rgb = self.render()
        renderer = self._renderer(self._width, self._height)
        renderer.enable_depth_rendering()
        renderer.update_scene(self._data, "camera")
        depth = renderer.render().astype(np.float32)
        renderer.disable_depth_rendering()
        return CameraView(rgb, depth)

    def focal_length(self) -> float:
        """Focal length of the robot's camera in pixels."""
        return self._height / 2 / float(np.tan(np.radians(_CAMERA[2]) / 2))

    def _renderer(self, width: int, height: int) -> Any:
        key = (width, height)
        if key not in self._renderers:
            self._renderers[key] = new_renderer(self._mujoco, self._model, height, width)
        return self._renderers[key]


def optical_frame() -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and position [3] of the camera's optical frame (REP-103) in the arm's world.

    MuJoCo's cameras look along -z with y up; an optical frame looks along z with y down.
    """
    position, target, _ = _CAMERA
    return _axes(position, target) @ np.diag([1.0, -1.0, -1.0]), np.array(position)


def _shape(item: Item, rng: np.random.Generator) -> Shape:
    """Draw a shape of the kind; scale it so that the gripper, or a thing, fits."""
    shape = SHAPES[item.kind](rng)
    extent = np.ptp(shape.vertices(), axis=0)
    if item.kind in ("plate", "book"):
        factor = min(1.0, 0.19 / float(extent[:2].max()))
        flat = min(1.0, _PLACE_HEIGHT / float(extent[2]))
        return _scaled(shape, factor, flat * factor)
    factor = min(1.0, _GRASP_WIDTH / float(extent[:2].min()), 0.16 / float(extent[:2].max()))
    return _scaled(shape, factor, factor)


def _scaled(shape: Shape, across: float, up: float) -> Shape:
    lowest = float(shape.vertices()[:, 2].min())

    def scale(mesh: Mesh) -> Mesh:
        return mesh.moved(z=-lowest).scaled(across, across, up)

    return Shape(
        tuple(type(part)(scale(part.mesh), part.shade) for part in shape.parts), shape.poses
    )


def _towards(pose: Pose, goal: Pose, step: float) -> Pose:
    gap = np.array([goal.x - pose.x, goal.y - pose.y, goal.z - pose.z])
    distance = float(np.linalg.norm(gap))
    share = 1.0 if distance <= step else step / distance
    turn = float((goal.yaw - pose.yaw + np.pi / 2) % np.pi - np.pi / 2)
    turn = float(np.clip(turn, -0.03, 0.03))
    x, y, z = np.array([pose.x, pose.y, pose.z]) + share * gap
    return Pose(float(x), float(y), float(z), pose.yaw + turn)


def _axes(position: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    back = np.array(position) - np.array(target)
    back /= np.linalg.norm(back)
    side = np.cross([0.0, 0.0, 1.0], back)
    side /= np.linalg.norm(side)
    return np.column_stack([side, np.cross(back, side), back])


def _look_at(position: tuple[float, ...], target: tuple[float, ...]) -> list[float]:
    quaternion = np.empty(4)
    import_mujoco().mju_mat2Quat(quaternion, _axes(position, target).ravel())
    return [float(v) for v in quaternion]
