"""`siglip-perception features` beside the bare encoders, and its reader beside encoding anew.

    python bench/features.py [--rounds 20] [--size 640 480] [--model tabletop]
    python bench/features.py --contract openvla-224 --rounds 3 --shard 16   # random weights

Each round times the bare encoders, as `siglip-perception bench` runs them, then a shard of as many
frames from JPEG files to the disk; ratios are medians over the rounds, so that what disturbs the
machine disturbs both. Of processor time the ratio holds on a busy machine, too. Frames are drawn
scenes.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from siglip_perception import contracts, features
from siglip_perception.bags.replay import deterministic
from siglip_perception.commands.bench.child import make
from siglip_perception.config import ModelSelection
from siglip_perception.features.encode import Encoder
from siglip_perception.features.request import Request
from siglip_perception.features.run import Run, look
from siglip_perception.features.shards import prepare_folder
from siglip_perception.parity.random_weights import write_random
from siglip_perception.pipeline import Pipeline
from siglip_perception.scenes.scenes import render, sample_scene

BATCH = 4  # the most that bench runs


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Draw scenes as JPEG files of (width, height)."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        image = render(sample_scene(rng, 3), *size).image
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shard", type=int, default=32, help="frames of a round")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480))
    parser.add_argument("--model", default="tabletop")
    parser.add_argument("--contract", default="", help="random weights of a policy's size instead")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--outputs", default="tokens", help="with tokens: read them, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model
        if args.contract:
            model = str(folder / "model")
            write_random(contracts.get(args.contract), Path(model), 0)
        write_pictures(folder / "pictures", args.shard, tuple(args.size))
        # Listed once a round, so that decoding is part of each.
        listed = "\n".join(["pictures"] * args.rounds)
        (folder / "list.txt").write_text(listed)
        wish = Request(
            (str(folder / "list.txt"),),
            folder / "out",
            ModelSelection(model, args.contract, "torch", "cpu", args.precision),
            tuple(args.outputs.split(",")),
            "bf16",
            batch=BATCH,
            shard_frames=args.shard,
        )
        pipeline = Pipeline.load(wish.selection)
        bare = make(f"torch {args.precision}", model, args.contract, torch.device("cpu"))
        run = Run(wish, *look(wish), pipeline)
        prepare_folder(wish.folder)
        run.job.write(wish.folder)
        encoder = Encoder(pipeline, run.corpus, run.job, wish.folder)
        ratios, processor, rates, memory, costs = [], [], [], [], []
        with deterministic(), torch.inference_mode():
            for shard in run.shards:
                marks = [(time.perf_counter(), time.process_time())]
                for _ in range(args.shard // BATCH):
                    bare.run(BATCH)
                marks.append((time.perf_counter(), time.process_time()))
                encoder.run([shard], lambda frames, left_out: None)
                marks.append((time.perf_counter(), time.process_time()))
                (wall, busy), (wall_run, busy_run) = (
                    (b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)
                )
                ratios.append(wall / wall_run)
                processor.append(busy / busy_run)
                rates.append(args.shard / wall_run)
                costs.append(1000 * busy_run / args.shard)
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(
            f"{args.contract or args.model}, {args.precision}, {args.outputs}, batch {BATCH}, JPEG"
            f" {args.size[0]}x{args.size[1]}: {statistics.median(ratios):.1%} of the bare"
            f" encoders' rate, {statistics.median(processor):.1%} of the processor time is theirs"
            f" (quartiles {np.percentile(processor, 25):.1%}, {np.percentile(processor, 75):.1%}),"
            f" {statistics.median(costs):.1f} ms of a core a frame,"
            f" {statistics.median(rates):.1f} frames/s; peak memory {memory[1]:.0f} MiB after two"
            f" shards, {memory[-1]:.0f} MiB after {len(memory)}"
        )
        if "tokens" not in wish.outputs:
            return
        stored = features.open(wish.folder)
        order = np.random.default_rng(0).permutation(len(stored))[:256].tolist()
        for row in order[:8]:
            _ = stored[row].tokens
        start = time.perf_counter()
        total = 0.0
        for row in order:
            tokens = stored[row].tokens
            assert tokens is not None
            total += float(tokens.sum())
        seconds = time.perf_counter() - start
        rate = len(order) / seconds
        times = rate / statistics.median(rates)
        print(
            f"reading: {rate:.0f} frames/s at random, every value used, {times:.0f} times as fast"
            " as decoding and encoding anew"
        )


if __name__ == "__main__":
    main()
