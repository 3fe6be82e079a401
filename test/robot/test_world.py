"""The simulated arm: where its fingers go, and that a thing whose place is known is moved."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from siglip_perception.errors import PerceptionError
from siglip_perception.robot.arm import OPEN_M, REST, Pose, inverse_kinematics
from siglip_perception.robot.episodes import Episode, sample_episode
from siglip_perception.robot.policy import PickAndPlace, Sighting, Step, View
from siglip_perception.robot.world import World, optical_frame


@pytest.mark.parametrize("pose", [Pose(5, 0, 0), Pose(-0.52, 0, 0.281 - 0.19)])
def test_a_point_out_of_reach_has_no_joint_angles(pose: Pose) -> None:
    assert inverse_kinematics(pose) is None


def test_the_camera_looks_down_at_the_table() -> None:
    rotation, position = optical_frame()
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation[2, 2] < -0.3  # z, forward, leads down
    assert rotation[2, 1] < 0  # y, down in the picture, leads down
    assert position[2] > 0.5


def simulated(episode: Episode) -> World:
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("MuJoCo (extra robot) is not installed")
    return World(episode, 1, 64, 48)


def sightings(world: World, episode: Episode) -> tuple[Sighting, ...]:
    """Objects as a perfect perception would publish them."""
    result = []
    for index, is_place in ((episode.target, False), (episode.place, True)):
        assert index is not None
        state, item = world.start[index], episode.items[index]
        yaw, width = world.long_axis(index)
        result.append(
            Sighting(item.phrase("en"), is_place, 1.0, state.x, state.y, state.height, width, yaw)
        )
    return tuple(result)


@pytest.fixture
def world() -> Iterator[World]:
    with simulated(sample_episode(0, 1)) as made:
        yield made


@pytest.mark.parametrize(
    "goal", [Pose(0.1, 0.2, 0.1, 0.7), Pose(-0.1, -0.25, 0.05, -1.2), Pose(0.15, 0.0, 0.3, 0.0)]
)
def test_the_fingertips_go_where_they_are_sent(world: World, goal: Pose) -> None:
    world.command(goal, OPEN_M)
    world.step(3.0)
    reached = world.gripper()
    assert [reached.x, reached.y, reached.z] == pytest.approx([goal.x, goal.y, goal.z], abs=0.004)
    assert np.cos(2 * (reached.yaw - goal.yaw)) == pytest.approx(1, abs=0.01)


def test_nothing_moves_while_the_arm_rests(world: World) -> None:
    world.command(REST, OPEN_M)
    world.step(1.0)
    for index, before in enumerate(world.start):
        after = world.thing(index)
        assert np.hypot(after.x - before.x, after.y - before.y) < 0.003


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2, 13])
def test_a_thing_whose_place_is_known_is_put_where_it_was_told(number: int) -> None:
    episode = sample_episode(number, 1)
    assert episode.target is not None
    assert episode.place is not None
    with simulated(episode) as world:
        policy, highest = PickAndPlace(), 0.0
        seen = sightings(world, episode)
        while policy.step is not Step.DONE and world.time < 20:
            command = policy.act(world.time, View(1, world.time, seen), world.gripper())
            world.command(command.pose, command.opening)
            world.step(0.05)
            highest = max(highest, world.thing(episode.target).bottom)
        world.step(0.5)
        thing, place = world.thing(episode.target), world.thing(episode.place)
        assert highest > 0.05
        assert np.hypot(thing.x - place.x, thing.y - place.y) < place.reach
        assert world.is_placed(episode.target, episode.place)


def test_things_are_laid_elsewhere_with_the_arm_at_rest(world: World) -> None:
    world.command(Pose(0.1, 0.2, 0.1, 0.7), OPEN_M)
    world.step(1.0)
    items = [replace(item, x=-item.x, y=-item.y) for item in world.episode.items]
    before = [world.thing(index) for index in range(len(items))]
    world.lay(items)
    gripper = world.gripper()
    assert [gripper.x, gripper.y] == pytest.approx([REST.x, REST.y], abs=0.01)
    for index, (old, item) in enumerate(zip(before, items, strict=True)):
        new = world.thing(index)
        assert (new.x, new.y) != pytest.approx((old.x, old.y), abs=0.01)
        assert (new.x, new.y) == pytest.approx((item.x, item.y), abs=0.05)
        assert world.start[index] == new


def test_what_the_cameras_draw(world: World) -> None:
    try:
        view = world.look()
    except PerceptionError as error:
        if "cannot draw here" not in str(error):
            raise
        pytest.skip(f"this machine has no EGL: {error}")
    assert view.rgb.shape == (48, 64, 3)
    assert 0.3 < float(np.median(view.depth)) < 2
