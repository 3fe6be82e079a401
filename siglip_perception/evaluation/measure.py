"""Run a model on all samples and score its regions by every method."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from siglip_perception.errors import BackendError
from siglip_perception.evaluation.average_precision import Detections
from siglip_perception.evaluation.baselines import Crops, Method
from siglip_perception.evaluation.metrics import Answer, judge
from siglip_perception.evaluation.samples import Question, Sample
from siglip_perception.grounding.windows import presence_of
from siglip_perception.language.instruction import MAX_PHRASES, from_phrases
from siglip_perception.pipeline import Pipeline, Query
from siglip_perception.types import Frame, GroundedObject, UInt8Array
from siglip_perception.util.progress import progress

PIPELINE_METHOD = "both, by regions"
CROPS_METHOD = "region crops (ceiling)"
_BATCH = 8


@dataclass(frozen=True)
class Failure:
    """A sample with the questions that the pipeline's own method got wrong.

    phrases, presence: of all questions. objects, masks: everything published.
    """

    sample: Sample
    questions: tuple[Question, ...]
    presence: tuple[float, ...]
    phrases: tuple[str, ...]
    objects: tuple[GroundedObject, ...]
    masks: tuple[UInt8Array, ...]


@dataclass
class Measurement:
    """answers: by method. failures: of the pipeline's own method, the worst first.

    samples: number of samples.
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
    with_crops: bool = False,
) -> Measurement:
    """Answer all questions by the pipeline's method and by `methods`; keep the worst failures.

    keep: maximum number of failures. detections: collects what the pipeline's method publishes
    for its phrases on every sample. with_crops: answer by crops of the regions, too, each through
    the whole encoder. Raises BackendError if the model cannot ground.
    """
    if pipeline.grounding_model is None:
        raise BackendError(pipeline.grounding_status)
    all_methods: dict[str, Method] = {PIPELINE_METHOD: pipeline.grounder.score, **methods}
    names = [*all_methods, CROPS_METHOD] if with_crops else [*all_methods]
    measurement = Measurement({name: [] for name in names})
    worst: list[tuple[float, int, Failure]] = []
    sample_count = question_count = 0
    queries: dict[tuple[str, ...], Query] = {}
    tell = progress(sys.stderr)
    for batch in _batches(samples):
        siglip, dino = pipeline.features([sample.image for sample in batch])
        for place, sample in enumerate(batch):
            for questions in _portions(sample.questions):
                phrases = tuple(question.phrase for question in questions)
                query = _query(pipeline, queries, phrases)
                methods_here = dict(all_methods)
                if with_crops:
                    methods_here[CROPS_METHOD] = Crops(
                        pipeline.grounding_model, sample.image, pipeline.features
                    )
                for name, score in methods_here.items():
                    scores = score(siglip[place], dino[place], query.encoded)
                    is_ours = name == PIPELINE_METHOD
                    windows = pipeline.window_scores(sample.image, query) if is_ours else []
                    objects, masks = pipeline.choose_objects(
                        Frame(sample.image), query, scores, windows
                    )
                    presence = presence_of(scores, windows)
                    answers = [
                        judge(question, float(probability), sample.objects, objects, masks)
                        for question, probability in zip(questions, presence, strict=True)
                    ]
                    measurement.answers[name] += answers
                    if is_ours:
                        question_count += 1
                        wrong_questions = [
                            q for q, a in zip(questions, answers, strict=True) if a.wrong
                        ]
                        severity = max(answer.wrong for answer in answers)
                        failure = Failure(
                            sample,
                            tuple(wrong_questions),
                            tuple(float(p) for p in presence),
                            query.phrases,
                            tuple(objects),
                            tuple(masks),
                        )
                        heapq.heappush(worst, (severity, -question_count, failure))
                        if len(worst) > keep:
                            heapq.heappop(worst)
            if detections is not None:
                results = [
                    pipeline.choose_objects(
                        Frame(sample.image),
                        query,
                        pipeline.grounder.score(siglip[place], dino[place], query.encoded),
                        pipeline.window_scores(sample.image, query),
                    )
                    for query in _vocabulary(pipeline, queries, detections.phrases)
                ]
                detections.add(
                    sample,
                    [answer for objects, _ in results for answer in objects],
                    [mask for _, masks in results for mask in masks],
                )
            sample_count += 1
            tell(sample_count, total)
    if 0 < sample_count < total:  # the rest was skipped: complete the bar
        tell(total, total)
    measurement.samples = sample_count
    failures_by_severity = sorted(worst, key=lambda entry: (-entry[0], -entry[1]))
    measurement.failures = [
        failure for severity, _, failure in failures_by_severity if severity > 0
    ]
    return measurement


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
    """Split into groups of one language, each small enough for one instruction."""
    for language in dict.fromkeys(q.language for q in questions):
        of_language = tuple(q for q in questions if q.language == language)
        for start in range(0, len(of_language), MAX_PHRASES):
            yield of_language[start : start + MAX_PHRASES]


def _vocabulary(
    pipeline: Pipeline, queries: dict[tuple[str, ...], Query], phrases: tuple[str, ...]
) -> Iterator[Query]:
    """Yield queries for all phrases, each small enough for one instruction."""
    for start in range(0, len(phrases), MAX_PHRASES):
        yield _query(pipeline, queries, phrases[start : start + MAX_PHRASES])


def _query(
    pipeline: Pipeline, queries: dict[tuple[str, ...], Query], phrases: tuple[str, ...]
) -> Query:
    """Return the cached query of these phrases, spelled as given."""
    if phrases not in queries:
        query = pipeline.query(from_phrases(phrases))
        if len(query.phrases) != len(phrases):
            raise RuntimeError(f"the phrases of a sample are not unique: {phrases}")
        queries[phrases] = replace(query, phrases=phrases)
    return queries[phrases]
