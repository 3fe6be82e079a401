"""`siglip-perception evaluate --ade20k, --lvis, --refcoco`: public benchmarks, beside others'."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from siglip_perception.commands.arguments import check_model, selection_of
from siglip_perception.errors import PerceptionError

if TYPE_CHECKING:
    from siglip_perception.evaluation.benchmarks.published import PublishedResult
    from siglip_perception.pipeline import Pipeline

BENCHMARKS = ("ade20k", "lvis", "refcoco")
_RANKED = 0.01
"""Default threshold where a ranked list of detections is judged, not what a robot acts on."""


def chosen_benchmark(args: argparse.Namespace) -> str:
    """The benchmark that a command line names; empty for none.

    Raises PerceptionError for two, or together with an option that has no effect on it.
    """
    names = [name for name in BENCHMARKS if getattr(args, name) is not None]
    if not names:
        return ""
    others = [*names[1:], *(n for n in ("coco", "ablation", "failures") if getattr(args, n))]
    others += [name for name in ("crops", "rendered") if getattr(args, name)]
    others += ["images"] if args.images is not None and names[0] != "refcoco" else []
    if others:
        raise PerceptionError(f"--{others[0]} has no effect with --{names[0]}: leave it out.")
    return names[0]


def run_benchmark(args: argparse.Namespace, name: str) -> int:
    """Measure a model on a benchmark; print and write the figures beside published ones."""
    from siglip_perception.datasets.skips import SkipReport
    from siglip_perception.evaluation.benchmarks import published
    from siglip_perception.evaluation.benchmarks.ade20k import Ade20k
    from siglip_perception.evaluation.benchmarks.lvis import Lvis
    from siglip_perception.evaluation.benchmarks.refcoco import RefCoco
    from siglip_perception.evaluation.metrics import nan_to_null

    report = SkipReport(args.strict)
    folder = getattr(args, name)
    data: Any
    rivals: Sequence[PublishedResult]
    if name == "ade20k":
        data, rivals = Ade20k(folder, report), published.ADE20K
    elif name == "lvis":
        data, rivals = Lvis(folder, report), published.LVIS
    else:
        data = RefCoco(folder, args.images, report)
        rivals = published.REFCOCO.get(data.name, ())
    check_model(args)
    from siglip_perception.evaluation.benchmarks import run
    from siglip_perception.util.files import write_atomically

    pipeline = _load(args, _RANKED if name == "lvis" else None)
    measure: Any = {
        "ade20k": run.segment_ade20k,
        "lvis": run.detect_lvis,
        "refcoco": run.refer_refcoco,
    }[name]
    figures: dict[str, float] = measure(pipeline, data)
    title = f"{args.model} on {pipeline.backend}: {data.name if name == 'refcoco' else name}"
    print(f"{title}, {len(data)} images of {folder}")
    print(_table(figures, args.model, rivals))
    if args.json is not None:
        content = {
            "model": args.model,
            "benchmark": name,
            "folder": str(folder),
            "figures": nan_to_null(figures),
            "published": [
                {"method": rival.method, "source": rival.source, "figures": dict(rival.figures)}
                for rival in rivals
            ],
            "left_out": report.as_json(),
        }
        write_atomically(args.json, (json.dumps(content, indent=2) + "\n").encode())
    for line in report.lines():
        print(line)
    return 0


def _load(args: argparse.Namespace, threshold: float | None) -> Pipeline:
    from siglip_perception.pipeline import Pipeline, PipelineOptions

    return Pipeline.load(
        selection_of(args),
        PipelineOptions(
            threshold=threshold if args.threshold is None else args.threshold,
            windows=args.windows,
        ),
    )


def _table(figures: dict[str, float], model: str, rivals: Sequence[PublishedResult]) -> str:
    """Our figures in the first row, published ones below; in percent."""
    rows = [["", *figures, ""]]
    rows.append([model, *(f"{value:.1%}" if value == value else "" for value in figures.values())])
    rows[-1].append("measured here")
    for rival in rivals:
        values = [rival.figures.get(name) for name in figures]
        cells = ["" if value is None else f"{value:.1%}" for value in values]
        rows.append([rival.method, *cells, rival.source])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
