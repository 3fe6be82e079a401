"""The scripted policy: what it acts on, what it waits for, and what it never does."""

from __future__ import annotations

import itertools
from dataclasses import replace

from siglip_perception.robot.arm import OPEN_M, REST
from siglip_perception.robot.episodes import GRASPED_KINDS, PLACES
from siglip_perception.robot.policy import (
    MAX_TRIES,
    STALE_S,
    Command,
    PickAndPlace,
    Sighting,
    Step,
    View,
)
from siglip_perception.scenes.vocabulary import KINDS

CUP = Sighting("red cup", False, 0.9, 0.1, 0.1, 0.08, 0.06, 0.3)
PLATE = Sighting("plate", True, 0.8, -0.1, -0.1, 0.02, 0.2, 0.0)


class Run:
    """A policy with an arm that is at once where it was sent."""

    def __init__(self) -> None:
        self.policy = PickAndPlace()
        self.now = 0.0
        self.pose = REST
        self.gap: float | None = None
        self.commands: list[Command] = []

    def step(self) -> Step:
        return self.policy.step

    def is_waiting(self) -> bool:
        return self.policy.is_waiting

    def show(self, *sightings: Sighting, instruction: int = 1, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.2
            view = View(instruction, self.now, sightings)
            self.send(view)

    def send(self, view: View | None) -> None:
        command = self.policy.act(self.now, view, self.pose, self.gap)
        self.commands.append(command)
        self.pose = command.pose


def test_it_rests_until_it_was_told_something() -> None:
    run = Run()
    run.send(None)
    assert run.commands == [Command(REST, OPEN_M)]


def test_it_takes_the_thing_and_puts_it_on_the_place() -> None:
    run = Run()
    run.show(CUP, PLATE, times=60)
    assert run.step() is Step.DONE
    closed = [command for command in run.commands if command.opening == 0.0]
    assert closed[0].pose.x == CUP.x
    assert closed[0].pose.z < CUP.height / 2
    assert (closed[-1].pose.x, closed[-1].pose.y) == (PLATE.x, PLATE.y)
    # Let go above the plate, not in it.
    assert closed[-1].pose.z > closed[0].pose.z + PLATE.height
    assert run.commands[-1] == Command(REST, OPEN_M)


def test_nothing_moves_while_the_thing_or_the_place_is_not_seen() -> None:
    for sightings in ((), (CUP,), (PLATE,)):
        run = Run()
        run.show(*sightings, times=40)
        assert {command.pose for command in run.commands} == {REST}


def test_one_frame_is_not_enough() -> None:
    run = Run()
    run.show(CUP, PLATE, times=3)
    run.show(replace(CUP, x=-0.1), PLATE)
    run.show(CUP, PLATE)
    assert run.step() is Step.LOOK


def test_it_takes_the_surest_of_several() -> None:
    run = Run()
    run.show(CUP, replace(CUP, x=-0.2, score=0.95), PLATE, times=8)
    assert run.pose.x == -0.2


def test_it_waits_where_it_is_while_what_it_sees_is_old_and_goes_on_after() -> None:
    run = Run()
    run.show(CUP, PLATE, times=6)
    old = View(1, run.now, (CUP, PLATE))
    before = run.pose
    run.now += STALE_S + 0.1
    for _ in range(10):
        run.now += 0.2
        run.send(old)
    assert run.is_waiting()
    assert run.pose == before
    run.show(CUP, PLATE, times=60)
    assert not run.is_waiting()
    assert run.step() is Step.DONE


def test_what_slipped_away_is_looked_for_and_taken_where_it_is_now() -> None:
    run = Run()
    while run.step() is not Step.CLOSE:
        run.show(CUP, PLATE)
    run.gap = 0.0
    before = len(run.commands)
    pushed = replace(CUP, x=CUP.x - 0.05)
    while run.step() is not Step.ABOVE:
        run.show(pushed, PLATE)
    opened = [c for c in run.commands[before:] if c.opening == OPEN_M]
    assert opened[0].pose.z > CUP.height  # up, before it goes anywhere
    assert any(command.pose == REST for command in opened)
    run.gap = 0.05
    run.show(pushed, PLATE, times=60)
    assert run.step() is Step.DONE
    assert any(c.pose.x == pushed.x and c.opening == 0.0 for c in run.commands)
    assert (run.commands[-3].pose.x, run.commands[-3].pose.y) != (CUP.x, CUP.y)


def test_it_rests_after_three_grasps_of_nothing() -> None:
    run = Run()
    run.gap = 0.0
    run.show(CUP, PLATE, times=200)
    assert run.step() is Step.DONE
    assert run.commands[-1] == Command(REST, OPEN_M)
    closed = [c.opening == 0.0 for c in run.commands]
    assert sum(now and not then for then, now in itertools.pairwise(closed)) == MAX_TRIES
    # Nothing is carried to the plate.
    assert all((c.pose.x, c.pose.y) != (PLATE.x, PLATE.y) for c in run.commands)


def test_a_new_instruction_is_followed_at_once() -> None:
    run = Run()
    run.show(CUP, PLATE, times=6)
    assert run.step() is not Step.LOOK
    ball = replace(CUP, phrase="ball", x=-0.15)
    run.show(ball, PLATE, instruction=2)
    assert run.step() is Step.LOOK
    assert run.commands[-1].opening == OPEN_M
    run.show(ball, PLATE, instruction=2, times=60)
    assert run.step() is Step.DONE
    assert any(c.pose.x == ball.x and c.opening == 0.0 for c in run.commands)


def test_what_is_held_is_put_back_before_a_new_instruction_is_followed() -> None:
    run = Run()
    while run.step() is not Step.CARRY:
        run.show(CUP, PLATE)
    before = len(run.commands)
    ball = replace(CUP, phrase="ball", x=-0.15)
    run.show(ball, PLATE, instruction=2, times=80)
    opens = next(c for c in run.commands[before:] if c.opening == OPEN_M)
    assert (opens.pose.x, opens.pose.y) == (CUP.x, CUP.y)
    assert opens.pose.z < CUP.height / 2
    assert run.step() is Step.DONE
    assert any(c.pose.x == ball.x and c.opening == 0.0 for c in run.commands)


def test_orders_name_kinds_that_have_words() -> None:
    assert {*GRASPED_KINDS, *PLACES} <= set(KINDS)
