"""A five-joint arm with a parallel gripper, of primitives, and its inverse kinematics.

Joints: base yaw, shoulder, elbow and wrist pitch, wrist yaw. The gripper always points down, so a
grasp is a point, a height and a yaw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BASE = (-0.52, 0.0)
"""Where the arm stands on the table, (x, y) in meters."""
SHOULDER_HEIGHT = 0.28
UPPER, FOREARM, HAND = 0.42, 0.42, 0.19
"""Lengths in meters: shoulder to elbow, elbow to wrist, wrist to fingertips."""
OPEN_M = 0.104
"""Largest distance between the fingers in meters."""
JOINTS = ("base", "shoulder", "elbow", "wrist", "roll")
FINGERS = ("finger_left", "finger_right")
_GRIP_N = 18.0
_DARK, _LIGHT, _PAD = (0.16, 0.17, 0.19, 1), (0.86, 0.86, 0.84, 1), (0.08, 0.08, 0.08, 1)


@dataclass(frozen=True)
class Pose:
    """Of the point between the fingertips: x, y, z in meters, yaw in radians about z.

    The fingers open along the direction (-sin(yaw), cos(yaw)).
    """

    x: float
    y: float
    z: float
    yaw: float = 0.0


REST = Pose(-0.28, 0.0, 0.42)
"""Out of the camera's way."""


def inverse_kinematics(pose: Pose) -> np.ndarray | None:
    """Joint angles in radians [5], elbow up; None where the arm does not reach."""
    dx, dy = pose.x - BASE[0], pose.y - BASE[1]
    reach, height = float(np.hypot(dx, dy)), pose.z + HAND - SHOULDER_HEIGHT
    distance = float(np.hypot(reach, height))
    if not abs(UPPER - FOREARM) + 0.02 < distance < UPPER + FOREARM - 0.002:
        return None
    base = float(np.arctan2(dy, dx))
    bend = np.pi - np.arccos((UPPER**2 + FOREARM**2 - distance**2) / (2 * UPPER * FOREARM))
    lift = np.arctan2(height, reach) + np.arccos(
        (UPPER**2 + distance**2 - FOREARM**2) / (2 * UPPER * distance)
    )
    # Pitch grows downwards. Both links lie along x at zero, and so does the hand.
    shoulder, elbow = -float(lift), float(bend)
    wrist = np.pi / 2 - shoulder - elbow
    # The hand points down: a turn about its own axis is one about -z.
    roll = -_half_turn(pose.yaw - base)
    return np.array([base, shoulder, elbow, wrist, roll])


def _half_turn(angle: float) -> float:
    """Map to (-90, 90] degrees: a gripper turned by 180 degrees is the same gripper."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def add_arm(spec: Any, mujoco: Any) -> None:
    """Add the arm's bodies, joints and actuators to an MjSpec."""
    geom = mujoco.mjtGeom
    base = spec.worldbody.add_body(name="arm", pos=[*BASE, 0])
    base.add_geom(type=geom.mjGEOM_CYLINDER, size=[0.07, 0.02, 0], pos=[0, 0, 0.02], rgba=_DARK)
    turret = base.add_body(name="turret", gravcomp=1)
    turret.add_joint(name="base", axis=[0, 0, 1], damping=4, armature=0.1)
    turret.add_geom(
        type=geom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0.05, 0, 0, SHOULDER_HEIGHT],
        size=[0.045, 0, 0],
        rgba=_LIGHT,
        mass=1.0,
        contype=0,
        conaffinity=0,
    )
    upper = turret.add_body(name="upper", pos=[0, 0, SHOULDER_HEIGHT], gravcomp=1)
    upper.add_joint(name="shoulder", axis=[0, 1, 0], damping=4, armature=0.1)
    _link(upper, geom, UPPER, 0.036, _LIGHT)
    forearm = upper.add_body(name="forearm", pos=[UPPER, 0, 0], gravcomp=1)
    forearm.add_joint(name="elbow", axis=[0, 1, 0], damping=4, armature=0.1)
    _link(forearm, geom, FOREARM, 0.03, _LIGHT)
    wrist = forearm.add_body(name="wrist_link", pos=[FOREARM, 0, 0], gravcomp=1)
    wrist.add_joint(name="wrist", axis=[0, 1, 0], damping=2, armature=0.05)
    wrist.add_geom(
        type=geom.mjGEOM_SPHERE, size=[0.032, 0, 0], rgba=_DARK, mass=0.2, contype=0, conaffinity=0
    )
    hand = wrist.add_body(name="hand", gravcomp=1)
    hand.add_joint(name="roll", axis=[1, 0, 0], damping=1, armature=0.02)
    hand.add_geom(
        type=geom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0, HAND - 0.1, 0, 0],
        size=[0.024, 0, 0],
        rgba=_DARK,
        mass=0.3,
        contype=0,
        conaffinity=0,
    )
    hand.add_geom(
        type=geom.mjGEOM_BOX,
        pos=[HAND - 0.09, 0, 0],
        size=[0.012, 0.064, 0.016],
        rgba=_DARK,
        mass=0.1,
        contype=0,
        conaffinity=0,
    )
    hand.add_site(name="tip", pos=[HAND, 0, 0])
    for name, side in zip(FINGERS, (1.0, -1.0), strict=True):
        finger = hand.add_body(name=name, pos=[HAND - 0.04, 0, 0], gravcomp=1)
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, side, 0],
            damping=12,
            armature=0.02,
            range=[0.0, OPEN_M / 2],
            limited=True,
        )
        finger.add_geom(
            name=f"{name}_pad",
            type=geom.mjGEOM_BOX,
            pos=[0, side * 0.006, 0],
            size=[0.04, 0.006, 0.011],
            rgba=_PAD,
            mass=0.05,
            condim=4,
            friction=[1.6, 0.03, 0.001],
            solref=[0.01, 1.0],
        )
    for name, gain in zip(JOINTS, (900, 1200, 900, 400, 150), strict=True):
        _servo(spec, mujoco, name, gain)
    for name in FINGERS:
        _servo(spec, mujoco, name, 900, force=_GRIP_N)


def _link(body: Any, geom: Any, length: float, radius: float, color: tuple[float, ...]) -> None:
    body.add_geom(
        type=geom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0, length, 0, 0],
        size=[radius, 0, 0],
        rgba=color,
        mass=0.6,
        contype=0,
        conaffinity=0,
    )


def _servo(spec: Any, mujoco: Any, joint: str, gain: float, force: float = 0.0) -> None:
    actuator = spec.add_actuator(name=joint, target=joint)
    actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
    actuator.set_to_position(kp=gain, dampratio=1.0)
    if force:
        actuator.forcelimited = True
        actuator.forcerange = [-force, force]
