"""Training throughput, as a share of the bare forward and backward of the same model.

    bare     one batch that lies in memory: embedded, through the loss, and back
    trainer  what `siglip-perception train --data FOLDER` does in a step: JPEG files of 640x480
             read, decoded and resized by other processes, tokens made, forward, loss, backward,
             clipping, AdamW

The two take turns, round for round, so that what else the machine does falls on both. The share is
the median over the rounds of the trainer's images a second by the bare ones of the same round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siglip_perception.util.threads import spin_briefly

PICTURES = 64
WARM_UP = 6
"""Steps before the clock starts: more than the loader has made in advance."""


def write_pictures(folder: Path) -> None:
    import numpy as np
    import simplejpeg

    from siglip_perception.scenes.scenes import render, sample_scene

    for number in range(PICTURES):
        scene = sample_scene(np.random.default_rng(number), 3)
        image = np.ascontiguousarray(render(scene, 640, 480).image)
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image, quality=90))
        (folder / f"{number}.txt").write_text(f"picture number {number}")


class Bench:
    """One model, and the two ways of going through it."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, world: Any) -> None:
        from siglip_perception.contrastive.data.open import open_data
        from siglip_perception.contrastive.data.source_bag import BagOptions
        from siglip_perception.contrastive.objectives.pair_objective import PairObjective
        from siglip_perception.contrastive.training.autocast import use_bf16
        from siglip_perception.contrastive.training.loop import LoopOptions
        from siglip_perception.contrastive.training.lora import Tuning, prepare
        from siglip_perception.contrastive.training.model_io import load_initial_model
        from siglip_perception.contrastive.training.optimizers import new_optimizers
        from siglip_perception.contrastive.training.run_state import RunState

        self.arguments, self.folder, self.worldld = arguments, folder, world
        self.initial = load_initial_model(arguments.model)
        assert self.initial.siglip is not None
        assert self.initial.tokenizer is not None
        siglip_input = self.initial.inputs["siglip"]
        model = prepare(self.initial.siglip, Tuning())
        self.objective = PairObjective(
            model,
            self.initial.tokenizer,
            siglip_input,
            "sigmoid",
            use_bf16(arguments, world.device),
        ).to(world.device)
        never = 10**9
        self.options = LoopOptions(
            steps=never, batch=arguments.batch, lr=1e-6, log_every=never, save_every=never
        )
        self.optimizers = new_optimizers(
            self.objective, self.options.lr, self.options.weight_decay
        )
        self.state = RunState(folder, self.objective, self.optimizers, {})
        self.source = open_data([str(folder)], folder, BagOptions(), captioned=True)

    def batches(self) -> Iterator[Any]:
        from siglip_perception.contrastive.data.samples import Order, PairDataset, Share, batches

        square = self.initial.inputs["siglip"].square
        dataset = PairDataset(self.source, Order(len(self.source), 0), square)
        steps = WARM_UP + self.arguments.steps
        share = Share(self.arguments.batch)
        return batches(dataset, share, 0, steps, self.arguments.workers)

    def wait(self) -> float:
        import torch

        if self.worldld.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def bare(self, batch: Any) -> float:
        """Images a second."""
        import torch

        from siglip_perception.contrastive.losses.losses import sigmoid_loss

        model = self.objective.model
        self.objective.train()
        steps = self.arguments.steps
        began = self.wait()
        for _ in range(steps):
            model.zero_grad(set_to_none=True)
            image = self.objective.embed_images(batch.images)
            text = self.objective.embed_texts(batch.captions)
            loss = sigmoid_loss(image, text, model.logit_scale.exp(), model.logit_bias)
            torch.autograd.backward(loss)
        return float(steps * self.arguments.batch / (self.wait() - began))

    def trainer(self) -> float:
        """Images a second."""
        from siglip_perception.contrastive.training.loop import train
        from siglip_perception.datasets.skips import SkipReport

        began = 0.0

        def watch() -> Iterator[Any]:
            nonlocal began
            for number, batch in enumerate(self.batches()):
                if number == WARM_UP:
                    began = self.wait()
                yield batch

        train(
            self.objective,
            watch(),
            self.options,
            self.optimizers,
            self.state,
            self.worldld,
            None,
            0,
            SkipReport(),
        )
        return float(self.arguments.steps * self.arguments.batch / (self.wait() - began))


def main() -> int:
    spin_briefly()
    import torch

    from siglip_perception.contrastive.distributed import join_world
    from siglip_perception.contrastive.training import autocast

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tabletop", help="name or folder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="processes that load images")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch (0: all)")
    autocast.add_arguments(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments, _ = parser.parse_known_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name, join_world(arguments.device) as world:
        write_pictures(Path(name))
        bench = Bench(arguments, Path(name), world)
        (batch,) = itertools.islice(bench.batches(), 1)
        bench.bare(batch)
        for _ in range(arguments.rounds):
            rows.append((bench.bare(batch), bench.trainer()))
            print(f"bare {rows[-1][0]:8.1f} images/s   trainer {rows[-1][1]:8.1f} images/s")
    share = statistics.median(trainer / bare for bare, trainer in rows)
    print(f"share of the bare forward and backward: {share:.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rows, "share": share}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
