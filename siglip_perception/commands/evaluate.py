"""`siglip-perception evaluate`: grounding metrics on unseen scenes or on your own images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siglip_perception.commands.arguments import (
    add_model_arguments,
    add_windows_argument,
    check_model,
    input_file,
    input_folder,
    input_path,
    number,
    output_file,
    output_folder,
    output_picture,
    selection_of,
)
from siglip_perception.commands.benchmarks import chosen_benchmark, run_benchmark
from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements

if TYPE_CHECKING:
    # Some import PyTorch: only once the data are known to be usable.
    from siglip_perception.datasets.skips import SkipReport
    from siglip_perception.evaluation.average_precision import Detections
    from siglip_perception.evaluation.libero import Scene
    from siglip_perception.evaluation.libero_sentences import SentenceReport
    from siglip_perception.evaluation.measure import Failure
    from siglip_perception.evaluation.metrics import Metrics
    from siglip_perception.evaluation.samples import Sample

_SEED = 5_000_000
_LIBERO_FRAMES = Path("out", "libero")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception evaluate`."""
    add_model_arguments(parser)
    parser.add_argument("--scenes", type=int, default=500, help="generated scenes (default: 500)")
    parser.add_argument(
        "--rendered",
        action="store_true",
        help="render the scenes in three dimensions, by MuJoCo, instead of drawing them",
    )
    parser.add_argument(
        "--objects",
        type=int,
        nargs=2,
        default=(2, 6),
        metavar=("LEAST", "MOST"),
        help="objects in a scene (default: 2 6)",
    )
    parser.add_argument("--seed", type=int, default=_SEED, help="default: %(default)s")
    parser.add_argument(
        "--threshold",
        type=number(float, 0, 1),
        help="least score of an object (default: each language's calibrated one, 0.5 without)",
    )
    add_windows_argument(parser)
    parser.add_argument(
        "--coco", type=input_path, metavar="JSON", help="your images' boxes, in COCO's format"
    )
    parser.add_argument(
        "--images",
        type=input_folder,
        metavar="DIR",
        help="the folder of those images (default: that of the JSON file)",
    )
    for name, layout in (
        ("ade20k", "ADE20K's scene parsing benchmark, ADEChallengeData2016: mean IoU"),
        ("lvis", "LVIS v1, lvis_v1_val.json with COCO's val2017/ and train2017/: AP"),
        ("refcoco", "refcoco, refcoco+ or refcocog as the repository refer has them: accuracy"),
    ):
        parser.add_argument(
            f"--{name}", type=input_folder, metavar="DIR", help=f"the folder of {layout}"
        )
    parser.add_argument(
        "--libero",
        type=input_folder,
        metavar="DIR",
        help="LIBERO's scenes and sentences, from its folder with bddl_files (and assets)",
    )
    parser.add_argument(
        "--libero-python",
        type=input_file,
        metavar="PYTHON",
        help="the Python of the environment that has LIBERO (default: this one)",
    )
    parser.add_argument(
        "--libero-frames",
        type=output_folder,
        metavar="DIR",
        help=f"where LIBERO's pictures are kept once drawn (default: {_LIBERO_FRAMES})",
    )
    parser.add_argument(
        "--probe",
        type=input_folder,
        metavar="DIR",
        help="a linear probe instead, on what `features` has written",
    )
    parser.add_argument(
        "--classes",
        type=input_file,
        metavar="FILE",
        help="the probe's classes, one per line, that texts name (default: each text is one)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image or annotation that cannot be used",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--failures", type=output_picture, metavar="PNG", help="write a sheet of the worst answers"
    )
    parser.add_argument(
        "--crops",
        action="store_true",
        help="answer by crops of the regions, too: what the weights can tell at best; slow",
    )
    parser.add_argument(
        "--ablation",
        type=output_file,
        metavar="MD",
        help="measure with each switch turned off, write the table there",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print tables, and write the requested files."""
    if args.probe is not None:
        return _probe(args)
    benchmark = chosen_benchmark(args)
    if benchmark:
        return run_benchmark(args, benchmark)
    _check_options(args)
    data = _open_data(args)
    check_model(args)
    evaluation = _evaluate(args, data)
    _print_tables(evaluation)
    _write_files(args, data, evaluation)
    for line in data.report.lines():
        print(line)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise PerceptionError for numbers out of range, and options that exclude each other."""
    if args.classes is not None:
        raise PerceptionError("--classes has an effect only with --probe DIR.")
    min_objects, max_objects = args.objects
    if args.scenes < 1 or not 1 <= min_objects <= max_objects <= 8:
        raise PerceptionError("Evaluation needs --scenes of 1 or more and 1 to 8 --objects.")
    if args.seed < 0:
        raise PerceptionError(f"--seed has to be 0 or more, not {args.seed}.")
    sources = {"--coco": args.coco, "--libero": args.libero, "--rendered": args.rendered or None}
    sources_here = [name for name, value in sources.items() if value is not None]
    if len(sources_here) > 1:
        raise PerceptionError(f"{sources_here[0]} and {sources_here[1]} exclude each other.")
    if args.libero is None and (args.libero_python or args.libero_frames):
        raise PerceptionError("--libero-python and --libero-frames need --libero DIR.")
    if args.rendered:
        requirements.require("--rendered", "mujoco")
    if args.coco is None and args.images is not None:
        raise PerceptionError("--images has an effect only with --coco JSON.")
    if args.coco is None and args.libero is None and args.strict:
        raise PerceptionError("--strict has an effect only with --coco JSON or --libero DIR.")


@dataclass(frozen=True)
class _Data:
    """Samples to measure on.

    total: how many they are at most. report: what of the user's own images is left out.
    detections: collects what is published, for COCO's metrics; None for generated scenes.
    libero: LIBERO's scenes, whose sentences are measured, too.
    """

    samples: Iterable[Sample]
    total: int
    report: SkipReport
    detections: Detections | None = None
    libero: Sequence[Scene] = ()


def _open_data(args: argparse.Namespace) -> _Data:
    """Open the user's own images, or generate scenes; does not import PyTorch."""
    from siglip_perception.datasets.skips import SkipReport
    from siglip_perception.evaluation import libero
    from siglip_perception.evaluation.average_precision import Detections
    from siglip_perception.evaluation.coco import CocoFolder
    from siglip_perception.evaluation.samples import rendered_samples, scene_samples
    from siglip_perception.images.files import MAX_FILE_PIXELS

    report = SkipReport(args.strict)
    if args.coco is not None:
        folder = CocoFolder(args.coco, args.images, args.seed, MAX_FILE_PIXELS, report)
        return _Data(folder, len(folder), report, Detections(folder.phrases))
    if args.libero is not None:
        tasks = libero.find_tasks(args.libero, args.scenes)
        python = args.libero_python or Path(sys.executable)
        frames = args.libero_frames or _LIBERO_FRAMES
        scenes = libero.draw(tasks, frames, python, args.seed, report)
        return _Data([scene.sample for scene in scenes], len(scenes), report, None, scenes)
    generate = rendered_samples if args.rendered else scene_samples
    min_objects, max_objects = args.objects
    samples = generate(args.scenes, min_objects, max_objects, args.seed)
    return _Data(samples, args.scenes, report)


@dataclass(frozen=True)
class _Evaluation:
    """Result of a measurement.

    title: the model, the data and the threshold in one line; subject: the data in it.
    threshold: of all languages, or of each.
    groups: method -> group of questions -> row of the group; the pipeline's method comes first.
    switches: names of the methods with one switch turned off.
    average: COCO's metrics by name; empty for generated scenes. sentences: LIBERO's.
    """

    title: str
    subject: str
    threshold: float | Mapping[str, float]
    groups: Mapping[str, dict[str, dict[str, Metrics]]]
    switches: Collection[str]
    average: Mapping[str, float]
    failures: Sequence[Failure]
    sentences: SentenceReport | None = None

    def totals(self, *, of_switches: bool) -> dict[str, Metrics]:
        """Metrics over all questions, by method: of the switches, or of the other methods."""
        return {
            name: groups["all"]["all"]
            for name, groups in self.groups.items()
            if (name in self.switches) is of_switches
        }


def _evaluate(args: argparse.Namespace, data: _Data) -> _Evaluation:
    """Load the model and answer all questions by it and by the methods to compare with."""
    from siglip_perception.evaluation import baselines, metrics
    from siglip_perception.evaluation.libero_sentences import measure_sentences
    from siglip_perception.evaluation.measure import measure
    from siglip_perception.pipeline import Pipeline, PipelineOptions

    pipeline = Pipeline.load(
        selection_of(args),
        PipelineOptions(threshold=args.threshold, max_objects=255, windows=args.windows),
    )
    methods: Mapping[str, baselines.Method] = {}
    switches: Mapping[str, baselines.Method] = {}
    if pipeline.grounding_model is not None:
        methods = baselines.baselines(pipeline.grounding_model)
        if args.ablation is not None:
            switches = baselines.ablation(pipeline.grounding_model)
    result = measure(
        pipeline,
        data.samples,
        data.total,
        {**methods, **switches},
        detections=data.detections,
        with_crops=args.crops,
    )
    subject = _subject(args, result.samples)
    sentences = measure_sentences(pipeline, data.libero) if data.libero else None
    windows = f", {args.windows} x {args.windows} windows" if args.windows > 1 else ""
    return _Evaluation(
        f"{args.model} on {pipeline.backend}: {subject}, threshold"
        f" {_describe(pipeline.common_threshold)}{windows}",
        subject,
        pipeline.common_threshold,
        {name: metrics.breakdown(answers) for name, answers in result.answers.items()},
        switches.keys(),
        {} if data.detections is None else data.detections.metrics(),
        result.failures,
        sentences,
    )


def _subject(args: argparse.Namespace, samples: int) -> str:
    """Describe what was measured on, of which `samples` were used."""
    if args.coco is not None:
        return f"{samples} images of {args.coco}"
    if args.libero is not None:
        return f"{samples} tasks of LIBERO, agentview, seed {args.seed}"
    kind = "rendered scenes" if args.rendered else "scenes"
    min_objects, max_objects = args.objects
    return f"{args.scenes} {kind} of {min_objects} to {max_objects} objects, seed {args.seed}"


def _print_tables(evaluation: _Evaluation) -> None:
    """Print the pipeline's own groups, the methods side by side, and COCO's averages."""
    print(evaluation.title)
    name, groups = next(iter(evaluation.groups.items()))
    for group, rows in groups.items():
        print(_table(name if group == "all" else group, rows))
    print(_table("compared", evaluation.totals(of_switches=False)))
    if evaluation.average:
        values = ", ".join(
            f"{metric.replace('_', ' ')} {value:.3f}"
            for metric, value in evaluation.average.items()
        )
        print(f"COCO's {values} (of the objects at the threshold)")
    if evaluation.sentences is not None:
        print(evaluation.sentences.line())


def _write_files(args: argparse.Namespace, data: _Data, evaluation: _Evaluation) -> None:
    """Write the figures, the worst answers and the table of switches, each if requested."""
    from siglip_perception.commands.run import write_picture
    from siglip_perception.evaluation.contact_sheet import sheet
    from siglip_perception.util.files import write_atomically

    if args.json is not None:
        content = _as_json(args, data, evaluation)
        write_atomically(args.json, (json.dumps(content, indent=2) + "\n").encode())
    if args.failures is not None:
        write_picture(args.failures, sheet(evaluation.failures))
    if args.ablation is not None:
        rows = evaluation.totals(of_switches=True)
        text = f"Measurement with {evaluation.title}.\n\n{_markdown(rows)}\n"
        write_atomically(args.ablation, text.encode())
        print(_table("switches", rows))


def _as_json(args: argparse.Namespace, data: _Data, evaluation: _Evaluation) -> dict[str, Any]:
    from siglip_perception.evaluation import metrics

    content: dict[str, Any] = {
        "model": args.model,
        "measured_on": evaluation.subject,
        "threshold": evaluation.threshold,
        "windows": args.windows,
        "methods": {name: metrics.as_json(rows) for name, rows in evaluation.groups.items()},
    }
    if data.detections is not None:
        content["coco"] = metrics.nan_to_null(evaluation.average)
    if evaluation.sentences is not None:
        content["sentences"] = evaluation.sentences.as_json()
    if data.detections is not None or data.libero:
        content["left_out"] = data.report.as_json()
    return content


def _probe(args: argparse.Namespace) -> int:
    """Fit a linear classifier to a folder of features, and print how often it is right."""
    from siglip_perception import features
    from siglip_perception.datasets.class_names import read_classes
    from siglip_perception.features.probe import probe
    from siglip_perception.util.files import write_atomically

    folder = features.open(args.probe)
    result = probe(folder, read_classes(args.classes) if args.classes else ())
    print(
        f"{args.probe}: {result.classes} classes, {result.train} frames to fit, {result.test} of"
        f" other episodes to test; the most frequent class is {result.majority:.1%} of these"
    )
    for name, accuracy in result.accuracy.items():
        print(f"  {name:<24}{accuracy:6.1%}")
    if result.unlabeled:
        print(f"left out: {result.unlabeled} frames without a class")
    if args.json is not None:
        write_atomically(args.json, (json.dumps(asdict(result), indent=2) + "\n").encode())
    return 0


def _describe(threshold: float | Mapping[str, float]) -> str:
    """Say a threshold, or that of each language."""
    if not isinstance(threshold, Mapping):
        return f"{threshold:g}"
    return ", ".join(f"{language} {value:.2f}" for language, value in threshold.items())


_COLUMNS = (
    ("top-1", "top1"),
    ("recall", "recall"),
    ("precision", "precision"),
    ("mask IoU", "mask_iou"),
    ("AUROC", "auroc"),
    ("absent found", "false"),
    ("ECE", "ece"),
    ("score ECE", "score_ece"),
)


def _cells(row: Metrics) -> list[str]:
    cells = []
    for _, key in _COLUMNS:
        value: Any = getattr(row, key)
        percent = key in ("top1", "recall", "precision", "false")
        cells.append("" if value != value else f"{value:.1%}" if percent else f"{value:.3f}")
    return [*cells, str(row.present), str(row.absent)]


def _table(title: str, rows: dict[str, Metrics]) -> str:
    heads = [title, *(head for head, _ in _COLUMNS), "present", "absent"]
    lines = [heads, *([name, *_cells(row)] for name, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _markdown(rows: dict[str, Metrics]) -> str:
    heads = ["", *(head for head, _ in _COLUMNS)]
    lines = [heads, ["---"] * len(heads)]
    lines += [[name, *_cells(row)[: len(_COLUMNS)]] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
