"""A scripted pick-and-place policy: what a robot engineer would write around the node's objects.

It sees nothing but published objects and the arm's own pose, and never acts on what is stale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from siglip_perception.robot.arm import OPEN_M, REST, Pose

HOVER_M = 0.14
"""Height above the table at which the gripper travels, of the fingertips."""
SETTLED_FRAMES = 3
"""Frames in a row that have to show both things before the arm moves."""
STALE_S = 0.6
"""Age of the newest objects in seconds after which the arm waits where it is."""
_NEAR_M, _NEAR_Z = 0.012, 0.012
_AGREE_M = 0.03
_GIVE_UP_S = 5.0
_CLOSE_S = 0.7
_CLEARANCE_M = 0.006
"""Least height of the fingertips above the table."""
_PAD_M = 0.06
"""Length of the fingers that lies beside the thing."""
_DROP_M = 0.012
"""Height from which the thing is let go."""
MAX_TRIES = 3
"""Grasps of one order: what has slipped away so often is not where it seems to be."""
_EMPTY_M = 0.006
"""Distance between closed fingers below which nothing is between them."""


@dataclass(frozen=True)
class Sighting:
    """One published object in the arm's frame: meters; yaw: of its long axis, radians about z.

    width: across the long axis; height: above the table.
    """

    phrase: str
    is_place: bool
    score: float
    x: float
    y: float
    height: float
    width: float
    yaw: float


@dataclass(frozen=True)
class View:
    """The newest objects: of which instruction, and when they were captured, seconds."""

    instruction_id: int
    stamp: float
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True)
class Command:
    """Where the fingertips go, and how far the fingers open, in meters."""

    pose: Pose
    opening: float


class Step(Enum):
    """Steps of a pick and place, in order; BACK only where a new order came in mid-motion."""

    BACK = "put back"
    LOOK = "look"
    ABOVE = "move above"
    DOWN = "move down"
    CLOSE = "close"
    LIFT = "lift"
    CARRY = "carry"
    LOWER = "lower"
    OPEN = "open"
    RETREAT = "retreat"
    DONE = "done"


class PickAndPlace:
    """Decide the next command, some tens of times a second; one instruction at a time."""

    def __init__(self) -> None:
        self.step = Step.LOOK
        self.is_waiting = False
        self._instruction = -1
        self._started = 0.0
        self._since = 0.0
        self._seen: list[tuple[Sighting, Sighting]] = []
        self._target: Sighting | None = None
        self._place: Sighting | None = None
        self._way_back: list[Command] = []
        self._tries = 0
        self._command = Command(REST, OPEN_M)

    def act(self, now: float, view: View | None, pose: Pose, gap: float | None = None) -> Command:
        """Return the next command; the same as before where there is nothing new to trust.

        now: seconds, of the same clock as the view's stamp. pose: the gripper's own. gap: between
        the fingers, meters; None where nobody measures it: then a grasp is taken to have worked.
        """
        if view is None:
            return self._command
        if view.instruction_id != self._instruction:
            self._restart(view.instruction_id, now)
        self.is_waiting = now - view.stamp > STALE_S
        if self.is_waiting:
            # Hold still: what was seen may have moved.
            self._command = replace(self._command, pose=pose)
            self._since = now
            return self._command
        self._advance(now, view, pose, gap)
        return self._command

    def _restart(self, instruction_id: int, now: float) -> None:
        """Begin anew; what is held is first put back where it was taken, where there is room."""
        self._instruction, self._started, self._since = instruction_id, now, now
        self._tries = 0
        self._seen.clear()
        self._way_back = self._retrace()
        self.step = Step.BACK if self._way_back else Step.LOOK
        self._command = self._way_back[0] if self._way_back else Command(REST, OPEN_M)

    def _retrace(self) -> list[Command]:
        """Commands that leave nothing in the hand, and the hand above what stands around it."""
        if self.step is Step.BACK:
            return self._way_back
        if self._target is None or self._place is None:
            return []
        goals = _goals(self._target, self._place)
        rise = replace(goals[Step.ABOVE], opening=OPEN_M)
        if self.step in (Step.CLOSE, Step.LIFT, Step.CARRY, Step.LOWER):
            down = replace(goals[Step.CLOSE], opening=OPEN_M)
            return [goals[Step.LIFT], goals[Step.CLOSE], down, rise]
        if self.step is Step.DOWN:
            return [rise]
        return [goals[Step.RETREAT]] if self.step in (Step.OPEN, Step.RETREAT) else []

    def _try_again(self, rise: Command) -> None:
        """Rise with an open hand and get out of the camera's sight, to look where the thing is."""
        self._tries += 1
        self._seen.clear()
        if self._tries == MAX_TRIES:
            self.step, self._command = Step.DONE, Command(REST, OPEN_M)
            return
        self.step, self._way_back = Step.BACK, [rise, Command(REST, OPEN_M)]
        self._command = rise

    def _advance(self, now: float, view: View, pose: Pose, gap: float | None) -> None:
        if self.step is Step.LOOK:
            self._look(now, view)
            return
        if self.step is Step.DONE or self._target is None or self._place is None:
            return
        if self.step is Step.BACK:
            self._command = self._way_back[0]
        else:
            self._command = _goals(self._target, self._place)[self.step]
        if not self._has_arrived(now, pose):
            return
        self._since = now
        holds = self.step in (Step.CLOSE, Step.LIFT, Step.CARRY)
        if holds and gap is not None and gap < _EMPTY_M:
            self._try_again(replace(self._command, pose=replace(pose, z=HOVER_M), opening=OPEN_M))
            return
        if self.step is Step.BACK:
            self._way_back = self._way_back[1:]
            if self._way_back:
                return
        order = list(Step)
        self.step = order[order.index(self.step) + 1]
        if self.step in (Step.LOOK, Step.DONE):
            self._command = Command(REST, OPEN_M)

    def _has_arrived(self, now: float, pose: Pose) -> bool:
        waited = now - self._since
        if self.step in (Step.CLOSE, Step.OPEN):
            return waited > _CLOSE_S
        # The fingers take as long on the way back; the other ways back are longer anyway.
        if self.step is Step.BACK and waited <= _CLOSE_S:
            return False
        return _is_near(pose, self._command.pose) or waited > _GIVE_UP_S

    def _look(self, now: float, view: View) -> None:
        targets = [s for s in view.sightings if not s.is_place]
        places = [s for s in view.sightings if s.is_place]
        if not targets or not places or now - self._started < 0.3:
            self._seen.clear()
            return
        pair = max(targets, key=lambda s: s.score), max(places, key=lambda s: s.score)
        if self._seen and not all(
            np.hypot(new.x - old.x, new.y - old.y) < _AGREE_M
            for new, old in zip(pair, self._seen[-1], strict=True)
        ):
            self._seen.clear()
        self._seen.append(pair)
        if len(self._seen) >= SETTLED_FRAMES:
            self._target, self._place = pair
            self.step, self._since = Step.ABOVE, now


def _goals(target: Sighting, place: Sighting) -> dict[Step, Command]:
    """Where each step leads: the fingers close across the target's long axis."""
    grasp_z = max(_CLEARANCE_M, 0.5 * target.height - _PAD_M / 2)
    release_z = grasp_z + place.height + _DROP_M
    over_target = Pose(target.x, target.y, target.height + HOVER_M, target.yaw)
    at_target = replace(over_target, z=grasp_z)
    over_place = Pose(place.x, place.y, release_z + HOVER_M, target.yaw)
    at_place = replace(over_place, z=release_z)
    return {
        Step.ABOVE: Command(over_target, OPEN_M),
        Step.DOWN: Command(at_target, OPEN_M),
        Step.CLOSE: Command(at_target, 0.0),
        Step.LIFT: Command(over_target, 0.0),
        Step.CARRY: Command(over_place, 0.0),
        Step.LOWER: Command(at_place, 0.0),
        Step.OPEN: Command(at_place, OPEN_M),
        Step.RETREAT: Command(over_place, OPEN_M),
    }


def _is_near(pose: Pose, goal: Pose) -> bool:
    return (
        float(np.hypot(pose.x - goal.x, pose.y - goal.y)) < _NEAR_M
        and abs(pose.z - goal.z) < _NEAR_Z
    )
