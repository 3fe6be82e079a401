"""Simulator process of `siglip-perception robot`: a camera and an arm, as their drivers would be.

    python -m siglip_perception.node.robot_simulator OUT --episodes 12 --seed 1

Publishes image, depth and camera_info, robot/camera_pose, robot/gripper and joint_states, and the
order of each episode on robot/episode; obeys robot/goal and robot/opening, and stops where it is
when these fall silent. It alone knows where things are, and judges what the policy does by that;
robot/truth is for a perception that is to be perfect. Goes on with the OUT/results.json of a run
that was broken off; writes that file and OUT/clips after each episode.

SIGUSR1 says that the perception has ended, SIGUSR2 that the policy has: the episode is lost.

It also publishes /clock, which the other processes follow (use_sim_time): on a slow machine the
simulation gets slow, and the robot does not go blind.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
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
from siglip_perception.node.ros_process import ros_running
from siglip_perception.robot.arm import FINGERS, JOINTS, OPEN_M, REST, Pose
from siglip_perception.robot.episodes import Episode, Order, sample_episode
from siglip_perception.robot.film import FRAME_RATE_HZ, Clip, clip_path
from siglip_perception.robot.orders import read_order
from siglip_perception.robot.referee import READY_S, Referee, Status
from siglip_perception.robot.results import Loss, Plan, read_results, write_results
from siglip_perception.robot.world import World, optical_frame

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 0.05
CAMERA_HZ = 10
COMMAND_TIMEOUT_S = 0.5
"""Age of the newest goal after which the arm stops, as an arm's driver does."""
NO_EPISODE = -1
"""Number on robot/episode that calls the order back."""
_LOSSES: dict[int, Loss] = {signal.SIGUSR1: "perception", signal.SIGUSR2: "policy"}


class Simulator(Node):  # type: ignore[misc]
    """Runs episodes one after another, in real time."""

    def __init__(self, out: Path, plan: Plan) -> None:
        super().__init__("robot_simulator")
        self._out, self._plan = out, plan
        self._goal: tuple[Pose, float] = REST, OPEN_M
        self._goal_at = 0.0
        self._referee: Referee | None = None
        self._overlay: np.ndarray | None = None
        # Beyond the clock of a simulator before this one: time that runs backwards empties what
        # the others remember.
        self._now = time.time()
        self._clock = self.create_publisher(Clock, "/clock", 10)
        self._images = self.create_publisher(Image, "image", 2)
        self._depths = self.create_publisher(Image, "depth", 2)
        self._infos = self.create_publisher(CameraInfo, "camera_info", 2)
        self._episodes = self.create_publisher(String, "robot/episode", LATCHED)
        self._grippers = self.create_publisher(PoseStamped, "robot/gripper", 1)
        self._joints = self.create_publisher(JointState, "joint_states", 1)
        self._truth = self.create_publisher(String, "robot/truth", 2)
        self._camera_pose = self.create_publisher(TransformStamped, "robot/camera_pose", LATCHED)
        self.create_subscription(PoseStamped, "robot/goal", self._on_goal, 1)
        self.create_subscription(Float64, "robot/opening", self._on_opening, 1)
        self.create_subscription(String, "robot/status", self._on_status, 10)
        self.create_subscription(
            CompressedImage, "siglip_perception/overlay/compressed", self._on_overlay, 1
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        for number in _LOSSES:
            signal.signal(number, lambda number, _: self._lose(_LOSSES[number]))

    def _on_goal(self, message: PoseStamped) -> None:
        self._goal = pose_from_message(message.pose), self._goal[1]
        self._goal_at = self._now

    def _on_opening(self, message: Float64) -> None:
        self._goal = self._goal[0], message.data

    def _on_status(self, message: String) -> None:
        if self._referee is not None:
            self._referee.hear(Status.from_json(json.loads(message.data)), self._now)

    def _on_overlay(self, message: CompressedImage) -> None:
        self._overlay = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)

    def _lose(self, loss: Loss) -> None:
        """Tell the referee that a process has ended."""
        if self._referee is not None:
            self._referee.lose(loss, self._now)

    def run(self, count: int, orders: Sequence[Order]) -> None:
        """Run those of `count` episodes that the results lack; write the results after each."""
        outcomes, latencies = read_results(self._out, self._plan)
        before = {outcome.number for outcome in outcomes}
        has_begun = False
        self._publish_camera_pose()
        for number in range(count):
            if number in before:
                continue
            episode = sample_episode(number, self._plan.seed, orders)
            with (
                World(episode, self._plan.seed) as world,
                Clip(clip_path(self._out, number)) as clip,
            ):
                referee = self._run(episode, world, clip)
                has_begun |= referee.has_begun
                if not has_begun:
                    raise PerceptionError(
                        f"After {READY_S:.0f} s the {referee.lost} does not answer; its log says"
                        " more."
                    )
                outcome = referee.outcome(self._now)
            outcomes = sorted([*outcomes, outcome], key=lambda item: item.number)
            latencies += referee.latencies_ms
            write_results(self._out, self._plan, outcomes, latencies)
            print(f"end {number} {outcome.verdict}", flush=True)

    def _run(self, episode: Episode, world: World, clip: Clip) -> Referee:
        self._goal, self._goal_at, self._overlay = (REST, OPEN_M), self._now, None
        referee = self._referee = Referee(episode, world, self._now)
        instruction = episode.instruction
        self._order(episode.number, instruction)
        next_tick, tick, has_begun = time.monotonic(), 0, False
        while not referee.is_over(self._now):
            if referee.has_begun and not has_begun:
                has_begun = True
                print(f"begin {episode.number} {instruction}", flush=True)
            self._now += TICK_S
            self._clock.publish(Clock(clock=self._stamp()))
            self._step(world, referee, tick)
            if tick % round(1 / (TICK_S * FRAME_RATE_HZ)) == 0 and has_begun:
                clip.write(world.render("scene"), self._overlay)
            if referee.instruction != instruction:
                instruction = referee.instruction
                self._order(episode.number, instruction)
            tick += 1
            next_tick = max(next_tick + TICK_S, time.monotonic() - TICK_S)
            while (wait := next_tick - time.monotonic()) > 0:
                self._executor.spin_once(timeout_sec=wait)
            self._executor.spin_once(timeout_sec=0)
        self._referee = None
        self._order(NO_EPISODE, "")
        # Let things come to rest, with the fingers open.
        world.command(world.gripper(), OPEN_M)
        world.step(0.8)
        return referee

    def _step(self, world: World, referee: Referee, tick: int) -> None:
        pose, opening = self._goal
        if self._now - self._goal_at > COMMAND_TIMEOUT_S:
            pose = world.gripper()
            self._goal, self._goal_at = (pose, opening), self._now
        world.command(pose, opening)
        world.step(TICK_S)
        referee.observe(self._now)
        stamp = self._stamp()
        self._grippers.publish(pose_message(world.gripper(), stamp))
        joints = JointState(name=[*JOINTS, *FINGERS], position=world.joint_angles())
        joints.header.stamp = stamp
        self._joints.publish(joints)
        if tick % round(1 / (TICK_S * CAMERA_HZ)) == 0 and referee.is_camera_on:
            self._publish_images(world)

    def _order(self, number: int, instruction: str) -> None:
        self._episodes.publish(
            String(data=json.dumps({"number": number, "instruction": instruction}))
        )

    def _stamp(self) -> Time:
        nanoseconds = round(self._now * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

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
        self._publish_truth(world, stamp)
        messages = [
            (self._infos, info),
            (self._depths, _image(view.depth, "32FC1")),
            (self._images, _image(view.rgb, "rgb8")),
        ]
        for publisher, message in messages:
            message.header.stamp, message.header.frame_id = stamp, CAMERA_FRAME
            publisher.publish(message)

    def _publish_truth(self, world: World, stamp: Time) -> None:
        """Tell where each thing is, for the perception that is to be perfect."""
        if self._truth.get_subscription_count() == 0:
            return
        things = []
        for index, item in enumerate(world.episode.items):
            thing = world.thing(index)
            center = [thing.x, thing.y, thing.bottom + thing.height / 2]
            outline = world.outline(index).tolist()
            things.append(
                {"color": item.color, "kind": item.kind, "center": center, "outline": outline}
            )
        content = {"stamp": [stamp.sec, stamp.nanosec], "things": things}
        self._truth.publish(String(data=json.dumps(content)))


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
    parser.add_argument("--model", default="tabletop", help="noted in the results")
    parser.add_argument("--perception", default="node", help="noted in the results")
    parser.add_argument("--threshold", type=float, help="noted in the results")
    parser.add_argument("--instruction", action="append", default=[], metavar="TEXT")
    arguments = parser.parse_args()
    texts = tuple(arguments.instruction)
    plan = Plan(arguments.seed, arguments.model, arguments.perception, texts, arguments.threshold)
    try:
        orders = [read_order(text) for text in texts]
        with ros_running():
            Simulator(arguments.out, plan).run(arguments.episodes, orders)
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Cannot write to {arguments.out} ({error.strerror}).", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
