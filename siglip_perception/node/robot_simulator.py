"""Simulator process of `siglip-perception robot`: a camera and an arm, as their drivers would be.

    python -m siglip_perception.node.robot_simulator OUT --episodes 12 --seed 1

Publishes image, depth and camera_info, robot/camera_pose, robot/gripper and joint_states, and the
order of each episode on robot/episode; obeys robot/goal and robot/opening. It alone knows where
things are, and judges what the policy does by that. Writes OUT/results.json and OUT/film.mp4.

It also publishes /clock, which the other processes follow (use_sim_time): on a slow machine the
simulation gets slow, and the robot does not go blind.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64, String

from siglip_perception.errors import PerceptionError
from siglip_perception.node.robot_messages import (
    CAMERA_FRAME,
    FRAME,
    pose_from_message,
    pose_message,
    quaternion_of,
)
from siglip_perception.robot.arm import FINGERS, JOINTS, OPEN_M, REST, Pose
from siglip_perception.robot.episodes import Episode, sample_episode
from siglip_perception.robot.policy import STALE_S, Step
from siglip_perception.robot.results import Outcome, report
from siglip_perception.robot.world import World, optical_frame
from siglip_perception.util.files import write_atomically

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 0.05
CAMERA_HZ = 10
READY_S = 120.0
ACT_S, STILL_S = 32.0, 8.0
"""How long an episode may take, and how long nothing has to move where the thing is absent."""
EVENT_AFTER_S = 0.6
"""From the arm's first motion to the twist of the episode."""
CAMERA_LOST_S = 2.0
_LIFT_M = 0.04
_MOVED_M = 0.03
_FILM_HZ = 5
_FILM_SIZE = (480, 360)


@dataclass
class _Watch:
    """Notes on a running episode. Times are simulated seconds."""

    started: float
    first_motion: float | None = None
    event_at: float | None = None
    lifted: set[int] = field(default_factory=set)
    moved: set[int] = field(default_factory=set)
    waiting_poses: list[Pose] = field(default_factory=list)
    found: bool = False
    acknowledged: float | None = None


class Simulator(Node):  # type: ignore[misc]
    """Runs episodes one after another, in real time."""

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__("robot_simulator")
        self._out, self._seed = out, seed
        self._goal: tuple[Pose, float] = REST, OPEN_M
        self._status: dict[str, Any] = {}
        self._latencies: list[float] = []
        self._overlay: np.ndarray | None = None
        self._film: cv2.VideoWriter | None = None
        self._now = 1.0  # 0 means, to ROS, that no clock has come yet
        self._clock = self.create_publisher(Clock, "/clock", 10)
        self._images = self.create_publisher(Image, "image", 2)
        self._depths = self.create_publisher(Image, "depth", 2)
        self._infos = self.create_publisher(CameraInfo, "camera_info", 2)
        self._episodes = self.create_publisher(String, "robot/episode", LATCHED)
        self._grippers = self.create_publisher(PoseStamped, "robot/gripper", 1)
        self._joints = self.create_publisher(JointState, "joint_states", 1)
        self._camera_pose = self.create_publisher(TransformStamped, "robot/camera_pose", LATCHED)
        self.create_subscription(PoseStamped, "robot/goal", self._on_goal, 1)
        self.create_subscription(Float64, "robot/opening", self._on_opening, 1)
        self.create_subscription(String, "robot/status", self._on_status, 10)
        self.create_subscription(
            CompressedImage, "siglip_perception/overlay/compressed", self._on_overlay, 1
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_goal(self, message: PoseStamped) -> None:
        self._goal = pose_from_message(message.pose), self._goal[1]

    def _on_opening(self, message: Float64) -> None:
        self._goal = self._goal[0], message.data

    def _on_status(self, message: String) -> None:
        self._status = json.loads(message.data)
        if self._status["latency_ms"] is not None:
            self._latencies.append(self._status["latency_ms"])

    def _on_overlay(self, message: CompressedImage) -> None:
        self._overlay = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)

    def run(self, count: int) -> list[Outcome]:
        """Run episodes, English and Korean in turn, and write the results after each."""
        outcomes: list[Outcome] = []
        self._publish_camera_pose()
        for number in range(count):
            episode = sample_episode(number, ("en", "ko")[number % 2], self._seed)
            with World(episode, self._seed) as world:
                if number == 0:
                    self._wait_for_node(world)
                outcomes.append(self._run(episode, world))
            content = json.dumps(report(outcomes, self._latencies), indent=2, ensure_ascii=False)
            write_atomically(self._out / "results.json", content.encode())
            outcome = outcomes[-1]
            verdict = "right" if outcome.is_right else "wrong"
            print(f"{number + 1} of {count}: {verdict}, {episode.instruction}", flush=True)
        if self._film is not None:
            self._film.release()
        return outcomes

    def _wait_for_node(self, world: World) -> None:
        """Send pictures until the node is there to take them and the policy listens to it."""
        deadline = time.monotonic() + READY_S
        while (
            self._images.get_subscription_count() == 0
            or self.count_publishers("siglip_perception/objects") == 0
        ):
            if time.monotonic() > deadline:
                raise PerceptionError(
                    f"After {READY_S:.0f} s the node does not take images; its log says more."
                )
            self._advance_clock()
            self._executor.spin_once(timeout_sec=TICK_S)

    def _advance_clock(self) -> None:
        self._now += TICK_S
        self._clock.publish(Clock(clock=self._stamp()))

    def _stamp(self) -> Time:
        nanoseconds = round(self._now * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def _run(self, episode: Episode, world: World) -> Outcome:
        self._goal, self._status, self._overlay = (REST, OPEN_M), {}, None
        self._order(episode.number, episode.instruction)
        watch = _Watch(self._now)
        limit = ACT_S if episode.expected == "act" else STILL_S
        next_tick, tick = time.monotonic(), 0
        lost = False
        while True:
            now = self._now
            since = now - (watch.acknowledged or watch.started)
            if since > (limit if watch.acknowledged else READY_S):
                lost = watch.acknowledged is None
                break
            if self._is_done(episode, watch, now):
                break
            self._advance_clock()
            self._step(episode, world, watch, tick)
            tick += 1
            next_tick = max(next_tick + TICK_S, time.monotonic() - TICK_S)
            while (wait := next_tick - time.monotonic()) > 0:
                self._executor.spin_once(timeout_sec=wait)
            self._executor.spin_once(timeout_sec=0)
        self._settle(world)
        return self._judge(episode, world, watch, lost)

    def _is_done(self, episode: Episode, watch: _Watch, now: float) -> bool:
        if self._status.get("step") != Step.DONE.value or episode.expected == "still":
            return False
        if episode.second_instruction:
            return bool(self._status["instruction"] == episode.second_instruction)
        return now - watch.started > 1.0

    def _step(self, episode: Episode, world: World, watch: _Watch, tick: int) -> None:
        now = self._now
        if self._status.get("number") == episode.number:
            watch.acknowledged = watch.acknowledged or now
            watch.found |= bool(self._status["found"])
        world.command(*self._goal)
        world.step(TICK_S)
        gripper = world.gripper()
        away = np.hypot(gripper.x - REST.x, gripper.y - REST.y)
        if watch.first_motion is None and away > 0.04:
            watch.first_motion = now
        for index, before in enumerate(world.start):
            thing = world.thing(index)
            if thing.bottom > _LIFT_M:
                watch.lifted.add(index)
            if np.hypot(thing.x - before.x, thing.y - before.y) > _MOVED_M:
                watch.moved.add(index)
        has_camera = self._twist(episode, watch, now, gripper)
        stamp = self._stamp()
        self._grippers.publish(pose_message(gripper, stamp))
        joints = JointState(name=[*JOINTS, *FINGERS], position=world.joint_angles())
        joints.header.stamp = stamp
        self._joints.publish(joints)
        per_image = round(1 / (TICK_S * CAMERA_HZ))
        if tick % per_image == 0 and has_camera:
            self._publish_images(world)
        if tick % round(1 / (TICK_S * _FILM_HZ)) == 0:
            self._write_film(world, episode)

    def _twist(self, episode: Episode, watch: _Watch, now: float, gripper: Pose) -> bool:
        """Make what happens in mid-motion happen; whether the camera delivers."""
        if watch.first_motion is None or now - watch.first_motion < EVENT_AFTER_S:
            return True
        if watch.event_at is None:
            watch.event_at = now
            if episode.second_instruction:
                self._order(episode.number, episode.second_instruction)
        if episode.twist != "camera lost":
            return True
        since = now - watch.event_at
        # What was already on its way still counts as seen, and then the arm comes to a stop.
        if STALE_S + 0.6 < since < CAMERA_LOST_S:
            watch.waiting_poses.append(gripper)
        return since > CAMERA_LOST_S

    def _settle(self, world: World) -> None:
        """Let things come to rest, with the fingers open."""
        world.command(world.gripper(), OPEN_M)
        world.step(0.8)

    def _judge(self, episode: Episode, world: World, watch: _Watch, lost: bool) -> Outcome:
        target, place = episode.final_target, episode.place
        others = set(range(len(episode.items))) - {target}
        # A changed order may leave what was taken first somewhere else.
        if episode.second_target is not None:
            others.discard(episode.target or 0)
        waited = None
        if episode.twist == "camera lost":
            poses = watch.waiting_poses
            waited = bool(poses) and all(
                np.hypot(p.x - poses[0].x, p.y - poses[0].y) < 0.02 for p in poses
            )
        return Outcome(
            number=episode.number,
            instruction=episode.instruction,
            language=episode.language,
            twist=episode.twist,
            expected=episode.expected,
            found=watch.found,
            lifted=target in watch.lifted,
            placed=target is not None and place is not None and world.is_placed(target, place),
            disturbed=bool(others & (watch.moved | watch.lifted)),
            waited=waited,
            lost=lost,
            seconds=round(self._now - (watch.acknowledged or watch.started), 2),
        )

    def _order(self, number: int, instruction: str) -> None:
        self._episodes.publish(
            String(data=json.dumps({"number": number, "instruction": instruction}))
        )

    def _publish_camera_pose(self) -> None:
        rotation, position = optical_frame()
        message = TransformStamped(child_frame_id=CAMERA_FRAME)
        message.header.frame_id = FRAME
        message.header.stamp = self._stamp()
        x, y, z = (float(value) for value in position)
        translation = message.transform.translation
        translation.x, translation.y, translation.z = x, y, z
        message.transform.rotation = quaternion_of(rotation)
        self._camera_pose.publish(message)

    def _publish_images(self, world: World) -> None:
        view = world.look()
        height, width = view.depth.shape
        stamp = self._stamp()
        focal = world.focal_length()
        info = CameraInfo(height=height, width=width, distortion_model="plumb_bob")
        info.d = [0.0] * 5
        # The middle of the picture lies between two pixels' centers.
        cx, cy = width / 2 - 0.5, height / 2 - 0.5
        info.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        messages = [
            (self._infos, info),
            (self._depths, _image(view.depth, "32FC1")),
            (self._images, _image(view.rgb, "rgb8")),
        ]
        for publisher, message in messages:
            message.header.stamp, message.header.frame_id = stamp, CAMERA_FRAME
            publisher.publish(message)

    def _write_film(self, world: World, episode: Episode) -> None:
        scene = cv2.resize(world.render("scene")[..., ::-1], _FILM_SIZE)
        seen = self._overlay
        panel = np.zeros_like(scene) if seen is None else cv2.resize(seen, _FILM_SIZE)
        if self._film is None:
            size = (2 * _FILM_SIZE[0], _FILM_SIZE[1])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._film = cv2.VideoWriter(str(self._out / "film.mp4"), code, _FILM_HZ, size)
        self._film.write(np.concatenate([scene, panel], axis=1))


def _image(pixels: np.ndarray, encoding: str) -> Image:
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=encoding)
    message.step = pixels.strides[0]
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message


def main() -> int:
    """Run the episodes; 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description="Simulate a camera and an arm.")
    parser.add_argument("out", type=Path, help="an existing folder")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        rclpy.init()
        Simulator(arguments.out, arguments.seed).run(arguments.episodes)
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        # On SIGINT rclpy shuts down by itself, sometimes at this very moment.
        with suppress(rclpy_implementation.RCLError):
            rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
