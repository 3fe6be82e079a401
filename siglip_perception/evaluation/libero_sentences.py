"""Measure whether LIBERO's sentences lead to the things that their goals mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from siglip_perception.evaluation.libero import Scene
from siglip_perception.language.instruction import parse
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Box, Frame, GroundedObject, Role

_IOU = 0.5


@dataclass(frozen=True)
class SentenceReport:
    """Numbers of tasks. sentences: all. targets, places: those whose goal's thing is in view.

    targets_read, places_read: those in which the sentence was read to name a thing to act on, and
    a place. targets_right, places_right: those whose best published box, of that role, has an IoU
    of 0.5 or more with the goal's thing.
    """

    sentences: int
    targets: int
    targets_read: int
    targets_right: int
    places: int
    places_read: int
    places_right: int

    def line(self) -> str:
        """Say it in a line."""
        return (
            f"{self.sentences} sentences: the thing to act on is named in {self.targets_read} and"
            f" its box right in {self.targets_right} of {self.targets} where it is in view; the"
            f" place is named in {self.places_read} and right in {self.places_right} of"
            f" {self.places}"
        )

    def as_json(self) -> dict[str, int]:
        """Convert to JSON."""
        return asdict(self)


def measure_sentences(pipeline: Pipeline, scenes: Sequence[Scene]) -> SentenceReport:
    """Ground each task's sentence in its picture, as the node would."""
    counts = dict.fromkeys(
        ("targets", "targets_read", "targets_right", "places", "places_read", "places_right"), 0
    )
    for scene in scenes:
        query = pipeline.query(parse(scene.task.sentence))
        grounding = pipeline.process(Frame(scene.sample.image), query).grounding
        objects = grounding.objects if grounding is not None else ()
        for group, names, role in (
            ("targets", scene.task.targets, Role.TARGET),
            ("places", scene.task.places, Role.PLACE),
        ):
            boxes = [scene.boxes[name] for name in names if name in scene.boxes]
            if not boxes:
                continue
            counts[group] += 1
            counts[f"{group}_read"] += role in query.roles
            counts[f"{group}_right"] += _is_right(objects, role, boxes)
    return SentenceReport(sentences=len(scenes), **counts)


def _is_right(objects: Sequence[GroundedObject], role: Role, boxes: Sequence[Box]) -> bool:
    candidates = [item for item in objects if item.role == role]
    if not candidates:
        return False
    best = max(candidates, key=lambda item: item.score)
    return any(best.box.iou(box) >= _IOU for box in boxes)
