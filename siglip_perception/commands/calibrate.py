"""siglip-perception calibrate: make scores probabilities, on twenty annotated pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siglip_perception.commands.arguments import (
    add_model_arguments,
    check_model,
    input_folder,
    input_path,
    output_picture,
    selection_of,
)
from siglip_perception.config import Settings
from siglip_perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception calibrate`."""
    parser.add_argument(
        "--coco",
        type=input_path,
        required=True,
        metavar="JSON",
        help="your pictures' boxes, as COCO's, or a folder with one such file",
    )
    parser.add_argument(
        "--images",
        type=input_folder,
        metavar="DIR",
        help="the folder of those pictures (default: beside)",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--picture",
        type=output_picture,
        default=Path("calibration.png"),
        metavar="PNG",
        help="the reliability before and after (default: %(default)s)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image or annotation that cannot be used",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write the calibration and its picture, and print what changed."""
    from siglip_perception.datasets.skips import SkipReport
    from siglip_perception.evaluation.coco import CocoFolder

    report = SkipReport(args.strict)
    annotations = _annotations(args.coco)
    folder = CocoFolder(annotations, args.images, 0, Settings.max_pixels, report)
    check_model(args)
    from siglip_perception.checkpoints.calibration_file import CalibrationFile, write_calibration
    from siglip_perception.commands.run import write_picture
    from siglip_perception.errors import BackendError
    from siglip_perception.evaluation.calibration import measure_calibration
    from siglip_perception.evaluation.reliability import Panel, reliability_picture
    from siglip_perception.pipeline import Pipeline
    from siglip_perception.util.progress import progress

    pipeline = Pipeline.load(selection_of(args))
    model = pipeline.grounding_model
    if model is None:
        raise BackendError(pipeline.grounding_status)
    bar = progress(sys.stderr)
    measured = measure_calibration(pipeline, folder, lambda count: bar(count, len(folder)))
    panels = []
    for language, entry in measured.languages.items():
        truths = [bool(truth) for truth in entry.truths]
        panels.append(Panel(f"{language}, before", entry.before.tolist(), truths))
        panels.append(Panel(f"{language}, after", entry.after.tolist(), truths))
    write_picture(args.picture, reliability_picture(panels))
    path = write_calibration(
        model.folder,
        model.grounding_digest,
        CalibrationFile(measured.lines, pipeline.grounder.head.with_mlp, measured.measured_on),
        pictures=measured.samples,
        model=str(args.model),
    )
    for language, entry in measured.languages.items():
        before, after = entry.ece
        line = entry.line
        print(
            f"{language}: scale {line.scale:.3f}, bias {line.bias:.3f}, best threshold"
            f" {line.threshold:.2f}, presence by the whole image {line.image_share:.0%};"
            f" calibration error {before:.3f} -> {after:.3f} on {entry.present} present and"
            f" {entry.absent} absent phrases"
        )
    for remark in measured.remarks:
        print(f"left out, {remark}")
    for text in report.lines():
        print(text)
    print(f"wrote {path} and {args.picture}")
    return 0


def _annotations(path: Path) -> Path:
    """The annotations' file: the one given, or the only JSON of a folder."""
    if not path.is_dir():
        return path
    files = sorted(file for file in path.glob("*.json") if file.is_file())
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files) or "none"
    raise PerceptionError(
        f"--coco {path} is a folder and has to have one JSON of annotations in it, but has"
        f" {names}: name the file."
    )
