"""`siglip-perception scenes`: render training scenes ahead of time, in shards that resume."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from siglip_perception.commands.arguments import number, output_folder
from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements
from siglip_perception.util.progress import progress

_SEED = 19_000_001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception scenes`."""
    parser.add_argument(
        "-o", "--output", type=output_folder, required=True, metavar="DIR", help="folder of shards"
    )
    parser.add_argument(
        "--count",
        type=number(int, 1),
        default=1024,
        metavar="N",
        help="scenes, rounded up to whole shards of 128 (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=number(int, 0), default=_SEED, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--workers",
        type=number(int, 1),
        default=max((os.cpu_count() or 2) - 1, 1),
        metavar="N",
        help="processes that render (default: all cores but one)",
    )


def run(args: argparse.Namespace) -> int:
    """Render the shards that the folder lacks."""
    requirements.require("Rendering scenes", "mujoco")
    from siglip_perception.scenes.rendered.shards import SHARD_SCENES, shard_path, write_shard

    folder: Path = args.output
    folder.mkdir(parents=True, exist_ok=True)
    total = -(-args.count // SHARD_SCENES)
    missing = [s for s in range(total) if not shard_path(folder, args.seed, s).exists()]
    show = progress(sys.stderr, "shard")
    # One thread a process: Mesa's software renderer would take every core in each.
    os.environ["LP_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(
            min(args.workers, max(len(missing), 1)), mp_context=get_context("spawn")
        ) as pool:
            jobs = [pool.submit(write_shard, folder, args.seed, shard) for shard in missing]
            for count, job in enumerate(as_completed(jobs), total - len(missing) + 1):
                job.result()
                show(count, total)
    except OSError as error:
        raise PerceptionError(
            f"{folder} cannot be written ({error.strerror or error}); mend that, and run it again"
            " to go on."
        ) from error
    print(f"{total * SHARD_SCENES} scenes in {folder}")
    return 0
