"""`siglip-perception evaluate`: grounding metrics on unseen scenes or on your own images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from siglip_perception.commands.arguments import (
    add_windows_argument,
    check_model,
    input_file,
    input_folder,
    input_path,
    number,
    output_file,
    output_picture,
)
from siglip_perception.commands.benchmarks import chosen_benchmark, run_benchmark
from siglip_perception.config import Settings
from siglip_perception.errors import PerceptionError
from siglip_perception.types import BACKENDS, PRECISIONS
from siglip_perception.util import requirements

if TYPE_CHECKING:
    from siglip_perception.evaluation.metrics import Metrics
    from siglip_perception.evaluation.samples import Sample

_SEED = 5_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception evaluate`."""
    parser.add_argument("--model", default=Settings.model, help="name or folder of the model")
    parser.add_argument("--contract", default="", help="token contract (default: the model's own)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--backend", default="auto", choices=("auto", *BACKENDS))
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS))
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
    if args.classes is not None:
        raise PerceptionError("--classes has an effect only with --probe DIR.")
    benchmark = chosen_benchmark(args)
    if benchmark:
        return run_benchmark(args, benchmark)
    min_objects, max_objects = args.objects
    if args.scenes < 1 or not 1 <= min_objects <= max_objects <= 8:
        raise PerceptionError("Evaluation needs --scenes of 1 or more and 1 to 8 --objects.")
    if args.seed < 0:
        raise PerceptionError(f"--seed has to be 0 or more, not {args.seed}.")
    if args.coco is not None and args.rendered:
        raise PerceptionError("--rendered has an effect only without --coco.")
    if args.rendered:
        requirements.require("--rendered", "mujoco")
    if args.coco is None and (args.images is not None or args.strict):
        option = "--strict" if args.images is None else "--images"
        raise PerceptionError(f"{option} has an effect only with --coco JSON.")
    from siglip_perception.datasets.skips import SkipReport
    from siglip_perception.evaluation import metrics
    from siglip_perception.evaluation.average_precision import Detections
    from siglip_perception.evaluation.coco import CocoFolder
    from siglip_perception.evaluation.samples import rendered_samples, scene_samples
    from siglip_perception.images.files import MAX_FILE_PIXELS

    samples: Iterable[Sample]
    report = SkipReport(args.strict)
    detections: Detections | None = None
    if args.coco is not None:
        folder = CocoFolder(args.coco, args.images, args.seed, MAX_FILE_PIXELS, report)
        samples, total = folder, len(folder)
        detections = Detections(folder.phrases)
    else:
        generate = rendered_samples if args.rendered else scene_samples
        samples = generate(args.scenes, min_objects, max_objects, args.seed)
        total = args.scenes
    check_model(args)
    # These import PyTorch: only once the data are known to be usable.
    from siglip_perception.commands.run import write_picture
    from siglip_perception.evaluation import baselines
    from siglip_perception.evaluation.contact_sheet import sheet
    from siglip_perception.evaluation.measure import measure
    from siglip_perception.pipeline import Pipeline, PipelineOptions
    from siglip_perception.util.files import write_atomically

    pipeline = Pipeline.load(
        PipelineOptions(
            model=args.model,
            contract=args.contract,
            backend=args.backend,
            device=args.device,
            precision=args.precision,
            threshold=args.threshold,
            max_objects=255,
            windows=args.windows,
        )
    )
    methods: dict[str, baselines.Method] = {}
    if pipeline.grounding_model is not None:
        methods |= baselines.baselines(pipeline.grounding_model)
        if args.ablation is not None:
            methods |= baselines.ablation(pipeline.grounding_model)
    result = measure(
        pipeline, samples, total, methods, detections=detections, with_crops=args.crops
    )
    if args.coco is not None:
        subject = f"{result.samples} images of {args.coco}"
    else:
        kind = "rendered scenes" if args.rendered else "scenes"
        subject = f"{total} {kind} of {min_objects} to {max_objects} objects, seed {args.seed}"
    parts = {name: metrics.breakdown(answers) for name, answers in result.answers.items()}
    threshold = pipeline.common_threshold
    title = f"{args.model} on {pipeline.backend}: {subject}, threshold {_describe(threshold)}"
    if args.windows > 1:
        title += f", {args.windows} x {args.windows} windows"
    switches = (
        set(baselines.ablation(pipeline.grounding_model))
        if pipeline.grounding_model and args.ablation
        else set()
    )
    print(title)
    ours = next(iter(parts))
    for group, rows in parts[ours].items():
        print(_table(group if group != "all" else ours, rows))
    print(_table("compared", {n: p["all"]["all"] for n, p in parts.items() if n not in switches}))
    average = detections.metrics() if detections is not None else {}
    if average:
        values = ", ".join(f"{name.replace('_', ' ')} {v:.3f}" for name, v in average.items())
        print(f"COCO's {values} (of the objects at the threshold)")
    if args.json is not None:
        content: dict[str, Any] = {
            "model": args.model,
            "measured_on": subject,
            "threshold": threshold,
            "windows": args.windows,
        }
        content["methods"] = {name: metrics.as_json(rows) for name, rows in parts.items()}
        if detections is not None:
            content["coco"] = metrics.nan_to_null(average)
            content["left_out"] = report.as_json()
        write_atomically(args.json, (json.dumps(content, indent=2) + "\n").encode())
    if args.failures is not None:
        write_picture(args.failures, sheet(result.failures))
    if args.ablation is not None:
        rows = {name: parts[name]["all"]["all"] for name in parts if name in switches}
        text = f"Measurement with {title}.\n\n{_markdown(rows)}\n"
        write_atomically(args.ablation, text.encode())
        print(_table("switches", rows))
    for line in report.lines():
        print(line)
    return 0


def _probe(args: argparse.Namespace) -> int:
    """Fit a linear classifier to a folder of features, and print how often it is right."""
    from siglip_perception import features
    from siglip_perception.evaluation.retrieval import read_classes
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
