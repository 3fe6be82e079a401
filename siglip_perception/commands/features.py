"""siglip-perception features: a whole corpus through the encoders, into a folder, resumable."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception.commands.arguments import (
    add_model_arguments,
    check_model,
    number,
    output_folder,
    selection_of,
)
from siglip_perception.config import ModelSelection
from siglip_perception.errors import DatasetError, PerceptionError
from siglip_perception.features.plan import DTYPES, OUTPUTS, Output
from siglip_perception.util import requirements
from siglip_perception.util.progress import progress
from siglip_perception.util.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from siglip_perception.features.run import Estimate, Finished, Run

# Work beyond these is begun only after a yes: bytes, seconds.
_LARGE, _LONG = 10 * 10**9, 3600
_EPILOG = """\
SOURCE is a bag (MCAP or sqlite3), a LeRobot dataset (v2.0, v2.1, v3.0), a .tar shard of
WebDataset, a picture, a video, a folder of such, or a .txt file that lists them, one a line.
Wildcards and braces may be quoted. A bag, a video, a folder of pictures and a shard are an
episode each.

DIR gets features.json, rows/part-*.parquet, tokens/part-*.safetensors and report.json. The same
command again goes on where it was killed; another contract, other weights or frames are refused.

Exit code 0: every frame is there; 1: some were left out, and report.json names them; 2: it could
not be done, or not to the end. docs/features.md says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception features`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="where the frames are")
    parser.add_argument(
        "-o", "--output", type=output_folder, required=True, metavar="DIR", help="folder to write"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--outputs",
        type=_outputs,
        default=("tokens", "pooled"),
        metavar="LIST",
        help="of tokens, pooled and objects, with commas (default: tokens,pooled)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="bf16",
        help="of the stored tokens; int8 has a scale for each token (default: %(default)s)",
    )
    parser.add_argument(
        "--phrases",
        nargs="+",
        default=[],
        metavar="PHRASE",
        help="what the output objects looks for (default: each frame's own task or caption)",
    )
    parser.add_argument(
        "--every",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="take one of every N frames (default: %(default)s)",
    )
    parser.add_argument(
        "--cameras",
        nargs="+",
        default=[],
        metavar="NAME",
        help="cameras to take, by name, topic or LeRobot's key (default: all)",
    )
    parser.add_argument(
        "--episodes",
        type=_episodes,
        metavar="LIST",
        help="episodes to take, such as 0,3,7-9 (default: all)",
    )
    parser.add_argument(
        "--batch",
        type=number(int, 1, 4096),
        default=0,
        metavar="N",
        help="frames that run together (default: 8 on a CPU, 32 on a GPU)",
    )
    parser.add_argument(
        "--shard-frames",
        type=number(int, 1),
        default=0,
        metavar="N",
        help="frames in a shard, which is what a kill costs (default: 256 MiB of them)",
    )
    parser.add_argument(
        "--grounding-model",
        default=ModelSelection.grounding_model,
        metavar="FOLDER",
        help="SigLIP of the pooled vectors and objects, where the tokens' own is a policy's",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it takes, and write nothing"
    )
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before hours of work, or 10 GB"
    )
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="a Ray cluster's address, or local: workers there share the shards",
    )


def run(args: argparse.Namespace) -> int:
    """Look, tell, encode, report."""
    if "://" in str(args.output) or re.match(r"\w+:/\w", str(args.output)):
        raise DatasetError(
            f"{args.output} is not on a disk: name a local or mounted folder with --output."
        )
    if args.phrases and "objects" not in args.outputs:
        raise PerceptionError("--phrases has an effect only with --outputs objects.")
    requirements.require("The command features", "pyarrow")
    if args.ray:
        requirements.require("--ray", "ray")
    # PyTorch is not needed to look at the sources, which says at once what is wrong with them.
    from siglip_perception.features import run as features_run
    from siglip_perception.features.request import Request

    request = Request(
        tuple(args.source),
        args.output,
        selection_of(args),
        args.outputs,
        args.dtype,
        args.every,
        tuple(args.cameras),
        args.episodes,
        _phrases(args.phrases),
        args.batch,
        args.shard_frames,
        shlex.join(["siglip-perception", *sys.argv[1:]]),
    )
    check_model(args)
    corpus, report = features_run.look(request)
    print(features_run.describe(corpus), flush=True)
    for line in report.lines():
        print(line)
    from siglip_perception.pipeline import Pipeline

    pipeline = Pipeline.load(request.selection)
    job = features_run.Run(request, corpus, report, pipeline)
    estimate = job.estimate()
    for line in _plan_lines(job, estimate):
        print(line, flush=True)
    if args.dry_run:
        job.check_disk(estimate)
        print("nothing was written (--dry-run)")
        return 0
    job.check_disk(estimate)
    _confirm(args, estimate)
    finished = job.encode(_progress(job), args.ray)
    for line in _end_lines(args.output, finished):
        print(line)
    return 1 if finished.left_out or finished.report.total else 0


def _plan_lines(job: Run, estimate: Estimate) -> list[str]:
    from siglip_perception.features.run import size_text, time_text

    size, facts = job.row_size, job.job
    outputs = []
    if size.tokens:
        outputs.append(
            f"{size.tokens} tokens of {size.dim} channels in {size.dtype},"
            f" {size_text(size.token_bytes)} a frame"
        )
    if size.pooled:
        outputs.append(f"a pooled vector of {size.pooled} channels")
    if size.with_objects:
        outputs.append("objects")
    lines = [f"contract {facts.contract}: {'; '.join(outputs)}"]
    if job.done:
        done = sum(shard.planned for shard in job.done.values())
        lines.append(f"{done} of {job.frames} frames are there from before")
    lines.append(
        f"to do: {estimate.frames} frames in {len(job.todo)} shards,"
        f" {size_text(estimate.bytes)} of the {size_text(estimate.free)} that the disk has free"
        + (f", about {time_text(estimate.seconds)} on {facts.arithmetic}" * bool(estimate.seconds))
    )
    return lines


def _confirm(args: argparse.Namespace, estimate: Estimate) -> None:
    """Ask before work that is large; without a terminal, ask for --yes."""
    from siglip_perception.features.run import size_text, time_text

    if args.yes or (estimate.bytes < _LARGE and estimate.seconds < _LONG):
        return
    what = f"{size_text(estimate.bytes)} and about {time_text(estimate.seconds)}"
    if not sys.stdin.isatty():
        raise PerceptionError(f"This takes {what}: give --yes to begin.")
    print(f"This takes {what}. Begin? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PerceptionError("Nothing was begun, as you did not say yes.")


def _progress(job: Run) -> Callable[[int, int, int], None]:
    from siglip_perception.features.run import time_text

    done = sum(shard.planned for shard in job.done.values())
    draw = progress(sys.stderr, "frame", done)
    start = time.monotonic()
    is_terminal = sys.stderr.isatty()

    def step(count: int, total: int, left_out: int) -> None:
        notes = []
        seconds = time.monotonic() - start
        if not is_terminal and count > done and seconds > 0:
            rate = (count - done) / seconds
            notes.append(f"{rate:.1f} frames/s, {time_text((total - count) / rate)} left")
        if left_out:
            notes.append(f"{left_out} left out")
        draw(count, total, ", ".join(notes))

    return step


def _end_lines(folder: Path, finished: Finished) -> list[str]:
    from siglip_perception.features.run import size_text, time_text

    lines = [
        f"{folder}: {finished.written} of {finished.planned} frames, {size_text(finished.bytes)}"
    ]
    if finished.encoded and finished.seconds:
        rate = finished.encoded / finished.seconds
        lines[0] += f"; {rate:.1f} frames/s over {time_text(finished.seconds)}"
    report = finished.report.lines()
    return [*lines, *report, *([f"all of them: {folder / 'report.json'}"] if report else [])]


def _outputs(text: str) -> tuple[Output, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in OUTPUTS:
            raise argparse.ArgumentTypeError(
                f"has to be of {', '.join(OUTPUTS)}, not {name!r}{did_you_mean(name, OUTPUTS)}"
            )
    if not names:
        raise argparse.ArgumentTypeError(f"has to name one of {', '.join(OUTPUTS)}")
    return tuple(output for output in OUTPUTS if output in names)


def _episodes(text: str) -> frozenset[int]:
    """Parse 0,3,7-9."""
    numbers: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise argparse.ArgumentTypeError(f"has to be numbers such as 0,3,7-9, not {text!r}")
        numbers.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return frozenset(numbers)


def _phrases(texts: list[str]) -> tuple[str, ...]:
    """Phrases, each given by itself or as a list with full stops."""
    phrases = [part.strip() for text in texts for part in text.split(".")]
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase))
