"""Every sample through a model, its regions scored in every way that is asked for."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from siglip_perception.errors import BackendError
from siglip_perception.evaluation.average_precision import Detections
from siglip_perception.evaluation.baselines import Method
from siglip_perception.evaluation.metrics import Answer, judge
from siglip_perception.evaluation.samples import Question, Sample
from siglip_perception.language.instruction import MAX_PHRASES, from_phrases
from siglip_perception.pipeline import Pipeline, Query
from siglip_perception.types import Frame, GroundedObject, UInt8Array
from siglip_perception.util.progress import progress

OURS = "both, by regions"
_BATCH = 8


@dataclass(frozen=True)
class Failure:
    """A sample in which our method was wrong, with the questions that it got wrong.

    phrases, presence: all that was asked. objects, masks: all that was published.
    """

    sample: Sample
    questions: tuple[Question, ...]
    presence: tuple[float, ...]
    phrases: tuple[str, ...]
    objects: tuple[GroundedObject, ...]
    masks: tuple[UInt8Array, ...]


@dataclass
class Measured:
    """answers: by method. failures: the worst ones of our method, the worst first.

    samples: how many there were.
    """

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    samples: int = 0


def measure(
    pipeline: Pipeline,
    samples: Iterable[Sample],
    total: int,
    methods: Mapping[str, Method],
    keep: int = 12,
    detections: Detections | None = None,
) -> Measured:
    """All samples by our own method and by the others; `keep` failures are kept.

    detections: takes what our own method publishes for each of its phrases on every sample.

    Raises BackendError where the model cannot ground.
    """
    if pipeline.sight is None:
        raise BackendError(pipeline.grounding)
    every: dict[str, Method] = {OURS: pipeline.grounder.score, **methods}
    result = Measured({name: [] for name in every})
    worst: list[tuple[float, int, Failure]] = []
    done = asked = 0
    queries: dict[tuple[str, ...], Query] = {}
    tell = progress(sys.stderr)
    for batch in _batches(samples):
        siglip, dino = pipeline.features([sample.image for sample in batch])
        for place, sample in enumerate(batch):
            for questions in _portions(sample.questions):
                phrases = tuple(question.phrase for question in questions)
                query = _query(pipeline, queries, phrases)
                for name, score in every.items():
                    scores = score(siglip[place], dino[place], query.embeddings)
                    objects, masks = pipeline.meant(Frame(sample.image), query, scores)
                    presence = scores.presence()
                    answers = [
                        judge(question, float(probability), sample.objects, objects, masks)
                        for question, probability in zip(questions, presence, strict=True)
                    ]
                    result.answers[name] += answers
                    if name == OURS:
                        asked += 1
                        wrong = [q for q, a in zip(questions, answers, strict=True) if a.wrong]
                        severity = max(answer.wrong for answer in answers)
                        failure = Failure(
                            sample,
                            tuple(wrong),
                            tuple(float(p) for p in presence),
                            query.phrases,
                            tuple(objects),
                            tuple(masks),
                        )
                        heapq.heappush(worst, (severity, -asked, failure))
                        if len(worst) > keep:
                            heapq.heappop(worst)
            if detections is not None:
                published = [
                    pipeline.meant(
                        Frame(sample.image),
                        query,
                        pipeline.grounder.score(siglip[place], dino[place], query.embeddings),
                    )
                    for query in _vocabulary(pipeline, queries, detections.phrases)
                ]
                detections.add(
                    sample,
                    [answer for objects, _ in published for answer in objects],
                    [mask for _, masks in published for mask in masks],
                )
            done += 1
            tell(done, total)
    if 0 < done < total:  # the others could not be used
        tell(total, total)
    result.samples = done
    ordered = sorted(worst, key=lambda entry: (-entry[0], -entry[1]))
    result.failures = [failure for severity, _, failure in ordered if severity > 0]
    return result


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _portions(questions: tuple[Question, ...]) -> Iterator[tuple[Question, ...]]:
    """Questions of one language, at most as many as one instruction may ask."""
    for language in dict.fromkeys(q.language for q in questions):
        same = tuple(q for q in questions if q.language == language)
        for start in range(0, len(same), MAX_PHRASES):
            yield same[start : start + MAX_PHRASES]


def _vocabulary(
    pipeline: Pipeline, known: dict[tuple[str, ...], Query], phrases: tuple[str, ...]
) -> Iterator[Query]:
    """Queries of all phrases, of as many each as one instruction may ask."""
    for start in range(0, len(phrases), MAX_PHRASES):
        yield _query(pipeline, known, phrases[start : start + MAX_PHRASES])


def _query(
    pipeline: Pipeline, known: dict[tuple[str, ...], Query], phrases: tuple[str, ...]
) -> Query:
    """The query of these phrases, as they are written."""
    if phrases not in known:
        query = pipeline.query(from_phrases(phrases))
        if len(query.phrases) != len(phrases):
            raise RuntimeError(f"the phrases of a sample are not unique: {phrases}")
        known[phrases] = replace(query, phrases=phrases)
    return known[phrases]
