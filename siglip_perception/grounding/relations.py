"""Choose which of several objects an instruction means, by their spatial relations.

Relations choose among the objects of one phrase and never remove the last one: what is "left of"
something for the speaker may be "behind" it for the camera, so a single red cup stays the red cup.
Directions are the image's: left is the image's left, and what stands in front is lower in it, or
nearer where there is depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import GroundedObject, Mention, Relation, Role, Where, stronger

_Point = tuple[float, float]


@dataclass(frozen=True)
class Meaning:
    """Role that an instruction gives one object, and the indices of the mentions that mean it."""

    role: Role
    mentions: tuple[int, ...] = ()

    def joined(self, mention_index: int, role: Role) -> Meaning:
        """Return this with one more mention; a target stays a target, whatever else it is."""
        return Meaning(stronger(self.role, role), (*self.mentions, mention_index))


_NO_MEANING = Meaning(Role.UNKNOWN)


def assign(
    objects: Sequence[GroundedObject],
    phrases: Sequence[str],
    mentions: Sequence[Mention],
    width: int,
    height: int,
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> dict[int, Meaning]:
    """Choose the objects that the instruction means: index -> meaning.

    width, height: the image's, in pixels.

    A mention with relations takes the best object that satisfies them, or every such object
    (`many`); one without relations takes what the others have left. Of a phrase that no mention
    names, every object is meant and keeps its role.
    """
    of_phrase = [[i for i, o in enumerate(objects) if o.phrase == phrase] for phrase in phrases]
    margin = options.relation_margin * min(width, height)
    chooser = _RelationChooser(objects, of_phrase, mentions, margin)
    meanings: dict[int, Meaning] = {}
    mentioned_phrases: set[int] = set()
    for mention_index, mention in enumerate(mentions):
        mentioned_phrases.add(mention.phrase)
        if mention.relations:
            for index in chooser.choose(mention_index):
                meaning = meanings.get(index, _NO_MEANING)
                meanings[index] = meaning.joined(mention_index, mention.role)
    with_role = {index for index, meaning in meanings.items() if meaning.role}
    for mention_index, mention in enumerate(mentions):
        if not mention.relations:
            for index in of_phrase[mention.phrase]:
                if index not in with_role:
                    meaning = meanings.get(index, _NO_MEANING)
                    meanings[index] = meaning.joined(mention_index, mention.role)
    for phrase_index, indices in enumerate(of_phrase):
        if phrase_index not in mentioned_phrases:
            meanings |= {index: Meaning(objects[index].role) for index in indices}
    return meanings


def with_roles(
    objects: Sequence[GroundedObject], meanings: Mapping[int, Meaning]
) -> list[GroundedObject]:
    """Return the objects that are meant, in their order, each with its role and mentions."""
    return [
        replace(objects[index], role=meanings[index].role, mentions=meanings[index].mentions)
        for index in sorted(meanings)
    ]


class _RelationChooser:
    """Resolves mentions to objects, landmarks first.

    margin: how far past its landmark an object has to lie, in pixels.
    """

    def __init__(
        self,
        objects: Sequence[GroundedObject],
        of_phrase: Sequence[Sequence[int]],
        mentions: Sequence[Mention],
        margin: float,
    ) -> None:
        self._objects = objects
        self._of_phrase = of_phrase
        self._mentions = mentions
        self.margin = margin
        self._choices: dict[int, list[int]] = {}

    def choose(self, mention_index: int) -> list[int]:
        """Return the indices of the objects that a mention means."""
        if mention_index in self._choices:
            return self._choices[mention_index]
        mention = self._mentions[mention_index]
        candidates = list(self._of_phrase[mention.phrase])
        self._choices[mention_index] = candidates  # ends a cycle of landmarks
        for step, relation in enumerate(mention.relations):
            single = not mention.many and step + 1 == len(mention.relations)
            candidates = self._narrow(candidates, relation, single)
        self._choices[mention_index] = candidates
        return candidates

    def _narrow(self, candidates: list[int], relation: Relation, single: bool) -> list[int]:
        """Return the candidates that satisfy a relation, best first; all of them if none does."""
        if len(candidates) < 2:
            return candidates
        if not relation.landmarks:
            ranked = sorted(
                candidates, key=lambda i: (self._extreme(i, relation.where, candidates), i)
            )
            start = min(relation.rank, len(ranked)) - 1
            return ranked[start : start + 1] if single else self._half(ranked)
        landmarks = [self._landmark_object(n, candidates) for n in relation.landmarks]
        landmark_indices = [index for index in landmarks if index is not None]
        if not landmark_indices:
            return candidates  # no landmark is in view, so the relation says nothing
        cost = _costs(relation.where, self, landmark_indices)
        non_landmarks = [i for i in candidates if i not in landmark_indices] or candidates
        ranked = sorted(non_landmarks, key=lambda i: (cost(i), i))
        matching = [i for i in ranked if cost(i) < math.inf]
        return (matching[:1] if single else matching) or candidates

    @staticmethod
    def _half(ranked: list[int]) -> list[int]:
        """Return the first half, rounded up: "the left cups" of a row of cups."""
        return ranked[: (len(ranked) + 1) // 2]

    def _landmark_object(self, mention_index: int, candidates: Sequence[int]) -> int | None:
        """Return the landmark's best object, unless it is the only candidate itself."""
        eligible = [i for i in self.choose(mention_index) if [i] != list(candidates)]
        return max(eligible, key=lambda i: (self._objects[i].score, -i), default=None)

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
        """Distance from the camera in meters; NaN if unknown."""
        return self._objects[index].position[2]

    def gap(self, first: int, second: int) -> float:
        """Pixels between the edges of two boxes, plus 5 % between centers to break ties."""
        a, b = self._objects[first].box, self._objects[second].box
        gap_x = max(a.x - (b.x + b.width), b.x - (a.x + a.width), 0)
        gap_y = max(a.y - (b.y + b.height), b.y - (a.y + a.height), 0)
        return math.hypot(gap_x, gap_y) + 0.05 * _distance(self.center(first), self.center(second))

    def outside(self, point: _Point, index: int) -> float:
        """Pixels from a box to a point outside it, plus 5 % of the distance to its center."""
        box = self._objects[index].box
        gap_x = max(box.x - point[0], point[0] - (box.x + box.width), 0)
        gap_y = max(box.y - point[1], point[1] - (box.y + box.height), 0)
        return math.hypot(gap_x, gap_y) + 0.05 * _distance(point, self.center(index))

    def _extreme(self, index: int, relation: Where, candidates: Sequence[int]) -> float:
        """Sort key of a superlative: lowest for the leftmost, the nearest and so on."""
        x, y = self.center(index)
        if relation in (Where.FRONT, Where.NEAR, Where.BEHIND, Where.FAR):
            depths = [self.depth(i) for i in candidates]
            has_depth = all(math.isfinite(depth) for depth in depths)
            distance = self.depth(index) if has_depth else -self.bottom(index)
            return distance if relation in (Where.FRONT, Where.NEAR) else -distance
        if relation in (Where.MIDDLE, Where.BETWEEN, Where.IN):
            centers = [self.center(i) for i in candidates]
            mean_center = tuple(
                sum(values) / len(centers) for values in zip(*centers, strict=True)
            )
            return _distance((x, y), (mean_center[0], mean_center[1]))
        area = self.size(index)
        return {
            Where.LEFT: x,
            Where.RIGHT: -x,
            Where.ABOVE: y,
            Where.ON: y,
            Where.BELOW: -y,
            Where.LARGEST: -area,
            Where.SMALLEST: area,
        }[relation]


def _costs(
    relation: Where, chooser: _RelationChooser, landmarks: Sequence[int]
) -> Callable[[int], float]:
    """Build the cost of a relation to the landmarks: infinite for an object that violates it."""
    first_landmark, last_landmark = landmarks[0], landmarks[-1]
    x, y = chooser.center(first_landmark)

    def beyond(direction: Callable[[int], float]) -> Callable[[int], float]:
        """Cost of a relation that holds where `direction`, in pixels, exceeds the margin.

        Straight in that direction is best: every pixel to the side counts twice.
        """

        def cost(index: int) -> float:
            advance = direction(index)
            if advance <= chooser.margin:
                return math.inf
            sideways = math.sqrt(
                max(_distance(chooser.center(index), (x, y)) ** 2 - advance**2, 0.0)
            )
            return chooser.gap(index, first_landmark) + 2 * max(sideways - advance, 0.0)

        return cost

    def distance_behind(index: int) -> float:
        depth, landmark_depth = chooser.depth(index), chooser.depth(first_landmark)
        if math.isfinite(depth) and math.isfinite(landmark_depth):
            return (depth - landmark_depth) * 1e3  # the margin in pixels then counts millimeters
        return chooser.bottom(first_landmark) - chooser.bottom(index)

    if relation is Where.LEFT:
        return beyond(lambda i: x - chooser.center(i)[0])
    if relation is Where.RIGHT:
        return beyond(lambda i: chooser.center(i)[0] - x)
    if relation is Where.ON:
        return lambda i: chooser.outside((chooser.center(i)[0], chooser.bottom(i)), first_landmark)
    if relation is Where.IN:
        return lambda i: chooser.outside(chooser.center(i), first_landmark)
    if relation is Where.ABOVE:
        return beyond(lambda i: y - chooser.center(i)[1])
    if relation is Where.BELOW:
        return beyond(lambda i: chooser.center(i)[1] - y)
    if relation is Where.BEHIND:
        return lambda i: (
            chooser.gap(i, first_landmark) if distance_behind(i) > chooser.margin else math.inf
        )
    if relation is Where.FRONT:
        return lambda i: (
            chooser.gap(i, first_landmark) if -distance_behind(i) > chooser.margin else math.inf
        )
    if relation is Where.FAR:
        return lambda i: -chooser.gap(i, first_landmark)
    if relation is Where.BETWEEN and first_landmark != last_landmark:
        landmark_distance = _distance(
            chooser.center(first_landmark), chooser.center(last_landmark)
        )
        return lambda i: (
            _distance(chooser.center(i), chooser.center(first_landmark))
            + _distance(chooser.center(i), chooser.center(last_landmark))
            - landmark_distance
        )
    return lambda i: chooser.gap(i, first_landmark)  # NEAR, MIDDLE


def _distance(first: _Point, second: _Point) -> float:
    return math.hypot(first[0] - second[0], first[1] - second[1])
