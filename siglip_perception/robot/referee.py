"""Watch one episode: when it begins, what happens in it, when it is over and how it went.

Only the simulator has a referee: it knows where things are, and judges the policy by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from siglip_perception.robot.arm import REST, Pose
from siglip_perception.robot.episodes import Episode
from siglip_perception.robot.policy import STALE_S, Step
from siglip_perception.robot.results import Loss, Outcome
from siglip_perception.robot.world import ThingState

READY_S = 120.0
"""How long the first objects of an episode may take to come."""
ACT_S, STILL_S = 32.0, 8.0
"""How long an episode may take, and how long nothing has to move where the thing is absent."""
EVENT_AFTER_S = 0.6
"""From the arm's first motion, or from the lift, to the twist of the episode."""
CAMERA_LOST_S = 2.0
SILENCE_S = 5.0
"""Silence of perception or policy in mid-episode after which the episode is lost."""
STOP_S = 0.6
"""How long the arm may take to come to rest after what it acts on is too old."""
LOST_S = STALE_S + STOP_S + 1.2
"""How long a lost episode goes on, to see that the arm stands still."""
_LIFT_M = 0.04
_MOVED_M = 0.03
_STILL_M = 0.02
_FALL_M = 0.03
_FALL_TICKS = 2
"""A thing that touches nothing, that far above the table, so many looks in a row, is thrown."""


class Table(Protocol):
    """Questions that a referee has to a World."""

    start: list[ThingState]

    def gripper(self) -> Pose: ...
    def thing(self, index: int) -> ThingState: ...
    def is_placed(self, index: int, place: int) -> bool: ...
    def is_flying(self, index: int) -> bool: ...


@dataclass(frozen=True)
class Status:
    """Words of the policy, some tens of times a second.

    number, instruction: what it works on. step: a Step's value. has_both: thing and place were
    seen. captured: when the newest objects' image was captured, seconds; None: none came yet.
    latency_ms: of objects that came since the last status, image to objects.
    """

    number: int
    instruction: str
    step: str
    has_both: bool
    captured: float | None
    latency_ms: float | None = None

    @staticmethod
    def from_json(content: dict[str, Any]) -> Status:
        """Read what dataclasses.asdict() wrote."""
        return Status(**content)


class Referee:
    """Times are simulated seconds; `now` never goes back."""

    def __init__(self, episode: Episode, table: Table, now: float) -> None:
        self.episode = episode
        self.instruction = episode.instruction
        self.latencies_ms: list[float] = []
        """Image to objects, while the arm acted."""
        self.is_camera_on = True
        self._table = table
        self._started = now
        self._status: Status | None = None
        self._status_at = now
        self._objects_at: float | None = None
        self._camera_back_at = now
        self._begun_at: float | None = None
        self._moving_at: float | None = None
        self._lifted_at: float | None = None
        self._event_at: float | None = None
        self._lost: Loss | None = None
        self._lost_at = now
        self._lifted: set[int] = set()
        self._moved: set[int] = set()
        self._flights: dict[int, int] = {}
        self._is_thrown = False
        self._has_both = False
        self._waiting_poses: list[Pose] = []

    @property
    def has_begun(self) -> bool:
        """Tell whether objects of this episode's instruction have come."""
        return self._begun_at is not None

    @property
    def lost(self) -> Loss | None:
        """Who ended in mid-episode; None: nobody."""
        return self._lost

    def hear(self, status: Status, now: float) -> None:
        """Take a status of the policy; those of another episode count for nothing."""
        if status.number != self.episode.number:
            return
        self._status_at = now
        if status.latency_ms is not None and status.step not in (Step.LOOK.value, Step.DONE.value):
            self.latencies_ms.append(status.latency_ms)
        before = self._status.captured if self._status is not None else None
        if status.captured is not None and status.captured != before:
            self._objects_at = now
            if self._begun_at is None:
                self._begun_at = now
        self._has_both |= status.has_both
        self._status = status

    def lose(self, loss: Loss, now: float) -> None:
        """Count the episode as lost, once it has begun; before, it just waits on."""
        if self._begun_at is not None and self._lost is None:
            self._lost, self._lost_at = loss, now

    def observe(self, now: float) -> None:
        """Look at the table, after each step of physics."""
        pose = self._table.gripper()
        if self._moving_at is None and np.hypot(pose.x - REST.x, pose.y - REST.y) > 0.04:
            self._moving_at = now
        for index, before in enumerate(self._table.start):
            thing = self._table.thing(index)
            if thing.bottom > _LIFT_M:
                self._lifted.add(index)
                self._lifted_at = self._lifted_at or now
            is_falling = thing.bottom > _FALL_M and self._table.is_flying(index)
            self._flights[index] = self._flights.get(index, 0) + 1 if is_falling else 0
            self._is_thrown |= self._flights[index] >= _FALL_TICKS
            if np.hypot(thing.x - before.x, thing.y - before.y) > _MOVED_M:
                self._moved.add(index)
        self._twist(now, pose)
        self._listen(now)
        if self._lost is not None and now - self._lost_at > STALE_S + STOP_S:
            self._waiting_poses.append(pose)

    def _twist(self, now: float, pose: Pose) -> None:
        """Make happen what happens in mid-motion."""
        cause = self._lifted_at if self.episode.event == "holding" else self._moving_at
        if cause is None or now - cause < EVENT_AFTER_S:
            return
        if self._event_at is None:
            self._event_at = now
            self.instruction = self.episode.second_instruction or self.instruction
        if self.episode.twist != "camera lost":
            return
        since = now - self._event_at
        was_on, self.is_camera_on = self.is_camera_on, since > CAMERA_LOST_S
        if self.is_camera_on and not was_on:
            self._camera_back_at = now
        # What was already on its way still counts as seen, and then the arm comes to a stop.
        if STALE_S + STOP_S < since < CAMERA_LOST_S and self._lost is None:
            self._waiting_poses.append(pose)

    def _listen(self, now: float) -> None:
        """Notice who has become silent without a word."""
        if self._begun_at is None or self._lost is not None:
            return
        if now - self._status_at > SILENCE_S:
            self.lose("policy", now)
        newest = max(self._objects_at or 0.0, self._camera_back_at)
        if self.is_camera_on and now - newest > SILENCE_S:
            self.lose("perception", now)

    def is_over(self, now: float) -> bool:
        """Tell whether the episode is at its end."""
        if self._lost is not None:
            return self._begun_at is None or now - self._lost_at > LOST_S
        if self._begun_at is None:
            if now - self._started > READY_S:
                self._lost, self._lost_at = "policy" if self._status is None else "perception", now
            return self._lost is not None
        limit = ACT_S if self.episode.expected == "act" else STILL_S
        if now - self._begun_at > limit:
            return True
        if self._status is None or self._status.step != Step.DONE.value:
            return False
        if self.episode.expected == "still":
            return False
        if self.episode.second_instruction:
            return self._status.instruction == self.episode.second_instruction
        return now - self._begun_at > 1.0

    def outcome(self, now: float) -> Outcome:
        """Judge the episode by where things are now."""
        episode = self.episode
        target, place = episode.final_target, episode.place
        others = set(range(len(episode.items))) - {target}
        # A changed order may leave what was taken first somewhere else.
        if episode.second_target is not None:
            others.discard(episode.target or 0)
        is_placed = target is not None and place is not None
        return Outcome(
            number=episode.number,
            instruction=episode.instruction,
            language=episode.language,
            twist=episode.twist,
            expected=episode.expected,
            found=self._has_both,
            lifted=target in self._lifted,
            placed=is_placed and self._table.is_placed(target or 0, place or 0),
            lifted_other=bool(others & self._lifted),
            disturbed=bool(others & (self._moved | self._lifted)),
            thrown=self._is_thrown,
            waited=_is_still(self._waiting_poses) if self._waiting_poses else None,
            lost=self._lost is not None,
            lost_by=self._lost or "",
            seconds=round(now - (self._begun_at or self._started), 2),
        )


def _is_still(poses: Sequence[Pose]) -> bool:
    first = poses[0]
    return all(
        np.linalg.norm([p.x - first.x, p.y - first.y, p.z - first.z]) < _STILL_M for p in poses
    )
