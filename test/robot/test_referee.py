"""The referee: when an episode begins, what it notices, and who it says has fallen silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from siglip_perception.robot.arm import REST, Pose
from siglip_perception.robot.episodes import Episode, Item
from siglip_perception.robot.policy import STALE_S
from siglip_perception.robot.referee import (
    CAMERA_LOST_S,
    LOST_S,
    READY_S,
    SILENCE_S,
    STILL_S,
    Referee,
    Status,
)
from siglip_perception.robot.results import Outcome
from siglip_perception.robot.world import ThingState

TICK_S = 0.05
ITEMS = tuple(
    Item(kind, color, 0.1 * number, 0.0, 0.0)
    for number, (kind, color) in enumerate((("plate", "blue"), ("cup", "red"), ("ball", "green")))
)
EPISODE = Episode(3, "en", "put the red cup on the blue plate", ITEMS, 1, 0, "none")
LOOKING = Status(3, EPISODE.instruction, "look", has_both=False, captured=1.0)


class Table:
    """A table on which nothing moves but what a test moves."""

    def __init__(self) -> None:
        self.things = [ThingState(item.x, item.y, 0.0, 0.05, 0.08) for item in ITEMS]
        self.start = list(self.things)
        self.pose = REST
        self.flying: set[int] = set()

    def gripper(self) -> Pose:
        return self.pose

    def thing(self, index: int) -> ThingState:
        return self.things[index]

    def is_placed(self, index: int, place: int) -> bool:
        return abs(self.things[index].x - self.things[place].x) < 0.01

    def is_flying(self, index: int) -> bool:
        return index in self.flying

    def move(self, index: int, x: float, bottom: float = 0.0) -> None:
        self.things[index] = replace(self.things[index], x=x, bottom=bottom)


class Game:
    """An episode that goes on tick by tick, with a policy that says the same until told else."""

    def __init__(self, episode: Episode = EPISODE) -> None:
        self.table, self.now = Table(), 100.0
        self.referee = Referee(episode, self.table, self.now)
        self.status: Status | None = LOOKING
        self.has_objects = True

    def play(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            if self.status is not None:
                if self.has_objects and self.referee.is_camera_on:
                    self.status = replace(self.status, captured=self.now)
                self.referee.hear(self.status, self.now)
            self.referee.observe(self.now)

    def has_begun(self) -> bool:
        return self.referee.has_begun

    def is_over(self) -> bool:
        return self.referee.is_over(self.now)

    def outcome(self) -> Outcome:
        return self.referee.outcome(self.now)


def test_an_episode_begins_with_the_first_objects_of_its_instruction() -> None:
    game = Game()
    game.status = replace(LOOKING, number=2)
    game.play(1)
    assert not game.has_begun()
    game.status, game.has_objects = replace(LOOKING, captured=None), False
    game.play(1)
    assert not game.has_begun()
    game.has_objects = True
    game.play(TICK_S)
    assert game.has_begun()
    assert game.outcome().seconds == 0


def test_a_cup_that_ends_on_the_plate_is_right() -> None:
    game = Game()
    game.play(2)
    game.table.move(1, 0.05, bottom=0.1)
    game.play(1)
    game.table.move(1, 0.0, bottom=0.01)
    game.status = replace(LOOKING, step="done", has_both=True)
    game.play(TICK_S)
    assert game.is_over()
    outcome = game.outcome()
    assert (outcome.lifted, outcome.placed, outcome.lifted_other, outcome.thrown) == (
        True,
        True,
        False,
        False,
    )
    assert outcome.is_right
    assert outcome.waited is None


def test_another_thing_that_is_lifted_is_noted_and_wrong() -> None:
    game = Game()
    game.table.move(2, 0.2, bottom=0.1)
    game.play(1)
    assert game.outcome().lifted_other
    assert not game.outcome().is_right


def test_a_thing_in_free_fall_is_thrown() -> None:
    game = Game()
    game.table.move(1, 0.1, bottom=0.1)
    game.play(1)
    assert not game.outcome().thrown
    game.table.flying.add(1)
    game.play(2 * TICK_S)
    assert game.outcome().thrown


def test_nothing_has_to_move_where_the_thing_is_absent() -> None:
    game = Game(replace(EPISODE, target=None, twist="absent"))
    game.play(STILL_S - 1)
    assert not game.is_over()
    game.play(2)
    assert game.is_over()
    assert game.outcome().is_right


@pytest.mark.parametrize("moves", [False, True])
def test_an_episode_whose_perception_ends_is_lost_and_the_arm_has_to_stop(moves: bool) -> None:
    game = Game()
    game.play(1)
    game.referee.lose("perception", game.now)
    for _ in range(100):
        if game.is_over():
            break
        if moves:
            game.table.pose = replace(game.table.pose, x=game.table.pose.x + 0.01)
        game.play(TICK_S)
    assert game.now - 101 == pytest.approx(LOST_S, abs=2 * TICK_S)
    outcome = game.outcome()
    assert (outcome.lost, outcome.lost_by, outcome.waited) == (True, "perception", not moves)
    assert not outcome.is_right
    assert outcome.verdict == "lost (perception)"


def test_what_ends_before_the_episode_has_begun_is_waited_for() -> None:
    game = Game()
    game.referee.lose("perception", game.now)
    game.play(1)
    assert game.has_begun()
    assert game.referee.lost is None


def test_a_perception_or_a_policy_that_hangs_is_noticed_by_its_silence() -> None:
    game = Game()
    game.play(1)
    game.has_objects = False
    game.play(SILENCE_S + 2 * TICK_S)
    assert game.referee.lost == "perception"
    game = Game()
    game.play(1)
    game.status = None
    game.play(SILENCE_S + 2 * TICK_S)
    assert game.referee.lost == "policy"


@pytest.mark.parametrize(("status", "lost"), [(None, "policy"), (LOOKING, "perception")])
def test_a_perception_that_never_answers_ends_the_episode(
    status: Status | None, lost: str
) -> None:
    game = Game()
    game.has_objects = False
    game.status = None if status is None else replace(status, captured=None)
    game.play(READY_S + 2 * TICK_S)
    assert game.is_over()
    assert game.referee.lost == lost
    assert not game.has_begun()


def test_the_camera_is_gone_for_a_while_once_the_arm_moves_and_the_arm_has_to_wait() -> None:
    game = Game(replace(EPISODE, twist="camera lost"))
    game.play(1)
    assert game.referee.is_camera_on
    game.table.pose = replace(REST, x=REST.x + 0.1)
    ticks = 0
    for _ in range(100):
        game.play(TICK_S)
        ticks += not game.referee.is_camera_on
    assert ticks * TICK_S == pytest.approx(CAMERA_LOST_S, abs=2 * TICK_S)
    assert game.referee.lost is None
    assert game.outcome().waited is True
    assert STALE_S < CAMERA_LOST_S


def test_another_order_comes_once_the_thing_is_held() -> None:
    second = "put the green ball on the blue plate"
    game = Game(
        replace(
            EPISODE, twist="changed", second_instruction=second, second_target=2, event="holding"
        )
    )
    game.table.pose = replace(REST, x=REST.x + 0.1)
    game.play(2)
    assert game.referee.instruction == EPISODE.instruction
    game.table.move(1, 0.1, bottom=0.1)
    game.play(1)
    assert game.referee.instruction == second
    game.status = replace(LOOKING, step="done")
    game.play(TICK_S)
    assert not game.is_over()  # done with the first order
    game.status = replace(game.status, instruction=second)
    game.play(TICK_S)
    assert game.is_over()
