"""Which of several: the objects that an instruction means, by how they lie to one another.

Relations choose among the objects of one phrase and never take the last one away: from where a
camera stands "left of" may be "behind", so a single red cup stays the red cup. Directions are
those of the picture: left is the picture's left, and what stands in front is lower in it, or
nearer where there is depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from siglip_perception.types import GroundedObject, Mention, Relation, Role, Where, stronger

# How far past its landmark an object has to lie, as a share of the picture's smaller side.
_MARGIN = 0.01
_Point = tuple[float, float]


@dataclass(frozen=True)
class Meaning:
    """What an instruction wants of one object, and the indices of the mentions that mean it."""

    role: Role
    mentions: tuple[int, ...] = ()

    def joined(self, number: int, role: Role) -> Meaning:
        """Meant by one more mention; what is acted on is a target, whatever else it is."""
        return Meaning(stronger(self.role, role), (*self.mentions, number))


_NOTHING_YET = Meaning(Role.UNKNOWN)


def assign(
    objects: Sequence[GroundedObject],
    phrases: Sequence[str],
    mentions: Sequence[Mention],
    width: int,
    height: int,
) -> dict[int, Meaning]:
    """The objects that are meant: index -> meaning; without a mention all of a phrase are meant.

    width, height: the picture's, in pixels. A mention with relations takes the best object that
    keeps them, or each (`many`); one without takes all that the others have left.
    """
    of_phrase = [[i for i, o in enumerate(objects) if o.phrase == phrase] for phrase in phrases]
    picker = _Picker(objects, of_phrase, mentions, min(width, height))
    meant: dict[int, Meaning] = {}
    mentioned: set[int] = set()
    for number, mention in enumerate(mentions):
        mentioned.add(mention.phrase)
        if mention.relations:
            for index in picker.pick(number):
                before = meant.get(index, _NOTHING_YET)
                meant[index] = before.joined(number, mention.role)
    chosen = {index for index, meaning in meant.items() if meaning.role}
    for number, mention in enumerate(mentions):
        if not mention.relations:
            for index in of_phrase[mention.phrase]:
                if index not in chosen:
                    before = meant.get(index, _NOTHING_YET)
                    meant[index] = before.joined(number, mention.role)
    for phrase, indices in enumerate(of_phrase):
        if phrase not in mentioned:
            meant |= {index: Meaning(objects[index].role) for index in indices}
    return meant


def with_roles(
    objects: Sequence[GroundedObject], meant: Mapping[int, Meaning]
) -> list[GroundedObject]:
    """The objects that are meant, in their order, each with its role and mentions."""
    return [
        replace(objects[index], role=meant[index].role, mentions=meant[index].mentions)
        for index in sorted(meant)
    ]


class _Picker:
    """What each mention means; landmarks first."""

    def __init__(
        self,
        objects: Sequence[GroundedObject],
        of_phrase: Sequence[Sequence[int]],
        mentions: Sequence[Mention],
        side: int,
    ) -> None:
        self._objects = objects
        self._of_phrase = of_phrase
        self._mentions = mentions
        self.margin = _MARGIN * side
        self._picked: dict[int, list[int]] = {}

    def pick(self, number: int) -> list[int]:
        """Indices of the objects that mention `number` means."""
        if number in self._picked:
            return self._picked[number]
        mention = self._mentions[number]
        candidates = list(self._of_phrase[mention.phrase])
        self._picked[number] = candidates  # what a circle of landmarks comes back to
        for position, relation in enumerate(mention.relations):
            one = not mention.many and position + 1 == len(mention.relations)
            candidates = self._narrow(candidates, relation, one)
        self._picked[number] = candidates
        return candidates

    def _narrow(self, candidates: list[int], relation: Relation, one: bool) -> list[int]:
        """The candidates that keep a relation, best first; all of them where none does."""
        if len(candidates) < 2:
            return candidates
        if not relation.landmarks:
            ordered = sorted(
                candidates, key=lambda i: (self._extreme(i, relation.where, candidates), i)
            )
            at = min(relation.rank, len(ordered)) - 1
            return ordered[at : at + 1] if one else self._half(ordered)
        landmarks = [self._landmark(n, candidates) for n in relation.landmarks]
        known = [index for index in landmarks if index is not None]
        if not known:
            return candidates  # the landmark is not in view: nothing is known of the relation
        cost = _costs(relation.where, self, known)
        free = [i for i in candidates if i not in known] or candidates
        ordered = sorted(free, key=lambda i: (cost(i), i))
        kept = [i for i in ordered if cost(i) < math.inf]
        return (kept[:1] if one else kept) or candidates

    @staticmethod
    def _half(ordered: list[int]) -> list[int]:
        """ "the left cups": the half that lies there."""
        return ordered[: (len(ordered) + 1) // 2]

    def _landmark(self, number: int, candidates: Sequence[int]) -> int | None:
        """The landmark's best object, another than the only candidate."""
        found = [i for i in self.pick(number) if [i] != list(candidates)]
        return max(found, key=lambda i: (self._objects[i].score, -i), default=None)

    def center(self, index: int) -> _Point:
        box = self._objects[index].box
        return box.x + box.width / 2, box.y + box.height / 2

    def bottom(self, index: int) -> float:
        box = self._objects[index].box
        return float(box.y + box.height)

    def size(self, index: int) -> float:
        box = self._objects[index].box
        return math.sqrt(box.width * box.height)

    def depth(self, index: int) -> float:
        """Meters from the camera; NaN where that is not known."""
        return self._objects[index].position[2]

    def gap(self, first: int, second: int) -> float:
        """Pixels between two boxes' edges, and a little for their centers: a tie is none."""
        a, b = self._objects[first].box, self._objects[second].box
        across = max(a.x - (b.x + b.width), b.x - (a.x + a.width), 0)
        down = max(a.y - (b.y + b.height), b.y - (a.y + a.height), 0)
        return math.hypot(across, down) + 0.05 * _distance(self.center(first), self.center(second))

    def outside(self, point: _Point, index: int) -> float:
        """Pixels from a box to a point outside it, and a little for its center."""
        box = self._objects[index].box
        across = max(box.x - point[0], point[0] - (box.x + box.width), 0)
        down = max(box.y - point[1], point[1] - (box.y + box.height), 0)
        return math.hypot(across, down) + 0.05 * _distance(point, self.center(index))

    def _extreme(self, index: int, where: Where, among: Sequence[int]) -> float:
        """Lowest for the leftmost, the nearest and so on."""
        x, y = self.center(index)
        if where in (Where.FRONT, Where.NEAR, Where.BEHIND, Where.FAR):
            depths = [self.depth(i) for i in among]
            known = all(math.isfinite(depth) for depth in depths)
            away = self.depth(index) if known else -self.bottom(index)
            return away if where in (Where.FRONT, Where.NEAR) else -away
        if where in (Where.MIDDLE, Where.BETWEEN, Where.IN):
            centers = [self.center(i) for i in among]
            middle = tuple(sum(values) / len(centers) for values in zip(*centers, strict=True))
            return _distance((x, y), (middle[0], middle[1]))
        area = self.size(index)
        return {
            Where.LEFT: x,
            Where.RIGHT: -x,
            Where.ABOVE: y,
            Where.ON: y,
            Where.BELOW: -y,
            Where.LARGEST: -area,
            Where.SMALLEST: area,
        }[where]


def _costs(where: Where, picker: _Picker, landmarks: Sequence[int]) -> Callable[[int], float]:
    """How badly an object keeps the relation; infinite where it does not."""
    first, last = landmarks[0], landmarks[-1]
    x, y = picker.center(first)

    def beyond(step: Callable[[int], float]) -> Callable[[int], float]:
        """Keeps it where `step`, pixels in the direction asked for, passes the margin.

        Straight there is best: way off the direction counts twice.
        """

        def cost(index: int) -> float:
            along = step(index)
            if along <= picker.margin:
                return math.inf
            aside = math.sqrt(max(_distance(picker.center(index), (x, y)) ** 2 - along**2, 0.0))
            return picker.gap(index, first) + 2 * max(aside - along, 0.0)

        return cost

    def away(index: int) -> float:
        mine, its = picker.depth(index), picker.depth(first)
        if math.isfinite(mine) and math.isfinite(its):
            return (mine - its) * 1e3  # a margin of pixels is then one of millimeters
        return picker.bottom(first) - picker.bottom(index)

    if where is Where.LEFT:
        return beyond(lambda i: x - picker.center(i)[0])
    if where is Where.RIGHT:
        return beyond(lambda i: picker.center(i)[0] - x)
    if where is Where.ON:
        return lambda i: picker.outside((picker.center(i)[0], picker.bottom(i)), first)
    if where is Where.IN:
        return lambda i: picker.outside(picker.center(i), first)
    if where is Where.ABOVE:
        return beyond(lambda i: y - picker.center(i)[1])
    if where is Where.BELOW:
        return beyond(lambda i: picker.center(i)[1] - y)
    if where is Where.BEHIND:
        return lambda i: picker.gap(i, first) if away(i) > picker.margin else math.inf
    if where is Where.FRONT:
        return lambda i: picker.gap(i, first) if -away(i) > picker.margin else math.inf
    if where is Where.FAR:
        return lambda i: -picker.gap(i, first)
    if where is Where.BETWEEN and first != last:
        whole = _distance(picker.center(first), picker.center(last))
        return lambda i: (
            _distance(picker.center(i), picker.center(first))
            + _distance(picker.center(i), picker.center(last))
            - whole
        )
    return lambda i: picker.gap(i, first)  # near, in the middle of


def _distance(first: _Point, second: _Point) -> float:
    return math.hypot(first[0] - second[0], first[1] - second[1])
