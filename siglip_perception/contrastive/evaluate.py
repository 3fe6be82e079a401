"""How well a model grounds, on generated scenes that training never saw."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from siglip_perception.contrastive.data import through_jpeg
from siglip_perception.contrastive.scenes import Rendered, Scene, render, sample_scene
from siglip_perception.contrastive.vocabulary import (
    COLORS,
    KINDS,
    LANGUAGES,
    Language,
    PhraseClass,
)
from siglip_perception.errors import PerceptionError
from siglip_perception.files import write_atomically
from siglip_perception.instruction import from_phrases
from siglip_perception.overlay import draw
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Box, Frame, GroundedObject, Grounding, UInt8Array

EVALUATION_SEED = 5_000_000
"""Far from the seeds of training and of its validation batch."""


@dataclass(frozen=True)
class Figures:
    """What was measured, all of them shares in [0, 1].

    top1: named objects whose best published box has an IoU of 0.5 or more with the true one.
    published: named objects for which anything was published at all.
    mean_iou: of the best published box with the true one, 0 where nothing was published.
    false_found: phrases of absent things for which something was published.
    presence_auroc: probability that a phrase in view has a higher presence than an absent one.
    """

    scenes: int
    objects: int
    top1: float
    published: float
    mean_iou: float
    false_found: float
    presence_auroc: float


@dataclass(frozen=True)
class _Case:
    """One question to one scene; `truth` is None where the thing is not in view."""

    iou: float
    published: bool
    presence: float
    truth: Box | None


@dataclass(frozen=True)
class _Scene:
    """What one scene gave: its failures are kept to be looked at."""

    cases: tuple[_Case, ...]
    picture: UInt8Array
    grounding: Grounding


def area_under_roc(positives: list[float], negatives: list[float]) -> float:
    """P(positive > negative), ties half, by ranks (Mann-Whitney); NaN where a side is empty."""
    if not positives or not negatives:
        return float("nan")
    values = np.array(positives + negatives)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[: len(positives)].sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))


def _absent(scene: Scene, rng: np.random.Generator, count: int) -> list[PhraseClass]:
    shown = {(item.color, item.kind) for item in scene.objects}
    missing = [
        PhraseClass(color, kind)
        for color in COLORS
        for kind in KINDS
        if (color, kind) not in shown
    ]
    return [missing[i] for i in rng.choice(len(missing), count, replace=False)]


def _run_scene(
    pipeline: Pipeline,
    scene: Scene,
    rendered: Rendered,
    language: Language,
    rng: np.random.Generator,
) -> _Scene:
    named = [item.phrase(language) for item in scene.objects]
    absent = [c.forms(language)[0] for c in _absent(scene, rng, len(named))]
    instruction = from_phrases(named + absent)
    if list(instruction.phrases) != named + absent:
        raise RuntimeError(f"the phrases of a scene are not unique: {named + absent}")
    grounding = pipeline.process(
        Frame(rendered.image), pipeline.query(instruction), with_tokens=False, with_mask=True
    ).grounding
    assert grounding is not None
    cases = []
    for number, phrase in enumerate(grounding.phrases):
        found: list[GroundedObject] = [o for o in grounding.objects if o.phrase == phrase]
        truth = rendered.box(number) if number < len(named) else None
        iou = found[0].box.iou(truth) if found and truth else 0.0
        cases.append(_Case(iou, bool(found), grounding.presence[number], truth))
    return _Scene(tuple(cases), rendered.image, grounding)


def _figures(runs: list[_Scene]) -> Figures:
    present = [case for run in runs for case in run.cases if case.truth is not None]
    absent = [case for run in runs for case in run.cases if case.truth is None]
    return Figures(
        scenes=len(runs),
        objects=len(present),
        top1=float(np.mean([case.iou >= 0.5 for case in present])),
        published=float(np.mean([case.published for case in present])),
        mean_iou=float(np.mean([case.iou for case in present])),
        false_found=float(np.mean([case.published for case in absent])),
        presence_auroc=area_under_roc(
            [case.presence for case in present], [case.presence for case in absent]
        ),
    )


def evaluate(
    pipeline: Pipeline, scenes: int, objects: int, seed: int = EVALUATION_SEED
) -> tuple[dict[Language, Figures], list[_Scene]]:
    """Ask every scene for each of its objects and for as many absent things, in both languages.

    The scenes' pictures go through the camera's own form, a JPEG of quality 90 at 640x480.
    """
    figures: dict[Language, Figures] = {}
    failed: list[_Scene] = []
    bar = tqdm(total=scenes * len(LANGUAGES), unit="scene", disable=not sys.stderr.isatty())
    for language in LANGUAGES:
        runs = []
        for number in range(scenes):
            rng = np.random.default_rng((seed, number))
            scene = sample_scene(rng, objects)
            rendered = render(scene)
            seen = Rendered(through_jpeg(rendered.image, 90), rendered.instances)
            runs.append(_run_scene(pipeline, scene, seen, language, rng))
            bar.update()
        figures[language] = _figures(runs)
        failed += [r for r in runs if any(c.truth and c.iou < 0.5 for c in r.cases)]
    bar.close()
    return figures, failed


def _write_failures(failed: list[_Scene], path: Path) -> None:
    """A contact sheet of up to 12 scenes in which an object was missed."""
    tiles = [cv2.resize(draw(run.picture, run.grounding), (640, 480)) for run in failed[:12]]
    blank = np.full((480, 640, 3), 255, dtype=np.uint8)
    while len(tiles) % 3 or not tiles:
        tiles.append(blank)
    rows = [np.concatenate(tiles[i : i + 3], axis=1) for i in range(0, len(tiles), 3)]
    sheet = cv2.cvtColor(np.concatenate(rows, axis=0), cv2.COLOR_RGB2BGR)
    write_atomically(path, cv2.imencode(".png", sheet)[1].tobytes())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception evaluate`."""
    parser.add_argument("--model", default="tabletop", help="name or folder of the model")
    parser.add_argument("--contract", default="", help="token contract (default: the model's own)")
    parser.add_argument("--scenes", type=int, default=200, help="scenes in each language")
    parser.add_argument("--objects", type=int, default=3, help="objects in a scene")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--failures", type=Path, metavar="PNG", help="write the misses as a sheet")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write what was asked for."""
    if args.scenes < 1 or not 1 <= args.objects <= 8:
        raise PerceptionError("Evaluation needs --scenes of 1 or more and 1 to 8 --objects.")
    pipeline = Pipeline.load(
        PipelineOptions(model=args.model, contract=args.contract, threshold=args.threshold)
    )
    figures, failed = evaluate(pipeline, args.scenes, args.objects, args.seed)
    print(f"{args.model}: {args.scenes} scenes of {args.objects} objects, seed {args.seed}")
    print("language  top-1  published  mean IoU  absent found  presence AUROC")
    for language, row in figures.items():
        print(
            f"{language:<8}  {row.top1:5.1%}  {row.published:9.1%}  {row.mean_iou:8.3f}"
            f"  {row.false_found:12.1%}  {row.presence_auroc:14.3f}"
        )
    if args.json:
        content = {"model": args.model, "seed": args.seed, "threshold": args.threshold} | {
            language: asdict(row) for language, row in figures.items()
        }
        write_atomically(args.json, (json.dumps(content, indent=2) + "\n").encode())
    if args.failures:
        _write_failures(failed, args.failures)
    return 0
