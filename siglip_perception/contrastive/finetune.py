"""siglip-perception train --data: image-caption pairs in, a model that the node loads out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siglip_perception.contrastive.dino import DinoSettings
from siglip_perception.contrastive.dino_objective import DinoObjective
from siglip_perception.contrastive.journal import Journal
from siglip_perception.contrastive.loop import Plan, Tally, new_optimizer, train
from siglip_perception.contrastive.open_source import open_data
from siglip_perception.contrastive.pair_objective import PairObjective
from siglip_perception.contrastive.processes import Processes, processes
from siglip_perception.contrastive.retrieval import (
    TEMPLATES,
    classification_figures,
    labels_of,
    read_classes,
    retrieval_figures,
)
from siglip_perception.contrastive.run_state import RunState
from siglip_perception.contrastive.samples import Order, PairDataset, Share, batches
from siglip_perception.contrastive.source_bag import BagOptions
from siglip_perception.contrastive.sources import BrokenPairError, PairSource, Subset
from siglip_perception.contrastive.start import (
    DINOV2_INPUT,
    SIGLIP_INPUT,
    Start,
    anew,
    export,
    open_start,
    refuse_foreign,
)
from siglip_perception.contrastive.tuning import Tuning, merge, prepare
from siglip_perception.errors import PerceptionError

_RATES = {"all": 1e-5, "last": 1e-4, "lora": 2e-4}
_SCRATCH_RATE = 1e-3
_HOLDOUT_SHARE, _HOLDOUT_MOST = 0.05, 1000
_SPLIT_SEED = 20_231
_DINO_STATE = ("distillation.teacher.", "distillation.cls_centre.", "distillation.patch_centre.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of training on one's own pairs."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        help="folder of images with .txt beside them, table of captions (.csv, .tsv, .jsonl),"
        " .tar shards (WebDataset) or a folder of them, a bag, or scenes[:COUNT[@SEED]]",
    )
    data.add_argument("--image-topic", action="append", default=[], metavar="TOPIC")
    data.add_argument("--caption-topic", default="/instruction", metavar="TOPIC")
    data.add_argument(
        "--frame-interval", type=float, default=0.5, metavar="S", help="of a bag's camera"
    )
    data.add_argument(
        "--holdout", type=int, metavar="N", help="pairs kept apart for the figures at the end"
    )
    data.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line")
    data.add_argument("--workers", type=int, help="processes that load images")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="tabletop", help="to start from: name or folder")
    model.add_argument("--from-scratch", action="store_true", help="its shape, new weights")
    model.add_argument("--objective", choices=("sigmoid", "clip", "dino"), default="sigmoid")
    model.add_argument("--tune", choices=("all", "last", "lora"), default="all")
    model.add_argument("--freeze", choices=("image", "text"), action="append", default=[])
    model.add_argument("--last-layers", type=int, default=2, metavar="N")
    model.add_argument("--lora-rank", type=int, default=8, metavar="R")
    model.add_argument("--lora-alpha", type=int, default=16, metavar="A")
    run_ = parser.add_argument_group("run")
    run_.add_argument("--accumulate", type=int, default=1, metavar="N", help="pieces of a batch")
    run_.add_argument("--weight-decay", type=float, default=0.05)
    run_.add_argument("--warmup", type=int, help="steps (default: a tenth)")
    run_.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run_.add_argument("--log-every", type=int, default=10, metavar="N")
    run_.add_argument("--save-every", type=int, default=100, metavar="N")
    run_.add_argument("--tensorboard", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Train on the pairs that were named, or go on; figures and a model folder at the end."""
    output: Path = args.output.absolute()
    refuse_foreign(output)
    if args.threads:
        torch.set_num_threads(args.threads)
    with processes(args.device) as own:
        _check(args, own)
        _Run(args, output, own).go()
    return 0


def _check(args: argparse.Namespace, own: Processes) -> None:
    for name in ("steps", "accumulate", "log_every", "save_every"):
        if getattr(args, name) < 1:
            raise PerceptionError(f"--{name.replace('_', '-')} has to be 1 or more.")
    pieces = own.world * args.accumulate
    if args.batch < 2 or args.batch % pieces or (args.objective == "dino" and args.batch < 2):
        raise PerceptionError(
            f"--batch {args.batch} has to be 2 or more and a multiple of {pieces}: of"
            f" {own.world} processes times --accumulate {args.accumulate}."
        )


class _Run:
    """One run of the command, in one process."""

    def __init__(self, args: argparse.Namespace, output: Path, own: Processes) -> None:
        self._args, self._output, self._own = args, output, own
        self._folder: Path = args.runs or output.with_name(output.name + ".runs")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._start: Start = open_start(args.model)
        self._dino = args.objective == "dino"
        self._source, self._kept = self._data()
        lr = args.lr or (_SCRATCH_RATE if args.from_scratch or self._dino else _RATES[args.tune])
        self._plan = Plan(
            steps=args.steps,
            batch=args.batch,
            accumulate=args.accumulate,
            lr=lr,
            weight_decay=args.weight_decay,
            warmup=args.steps // 10 if args.warmup is None else args.warmup,
            clip=3.0 if self._dino else 1.0,
            seed=args.seed,
            log_every=args.log_every,
            save_every=args.save_every,
        )
        self._tuning = Tuning(
            args.tune,
            tuple(dict.fromkeys(args.freeze)),
            args.last_layers,
            args.lora_rank,
            args.lora_alpha,
        )

    def _data(self) -> tuple[PairSource, PairSource]:
        """What is trained on, and what is kept apart."""
        args, own = self._args, self._own
        bag = BagOptions(tuple(args.image_topic), args.caption_topic, args.frame_interval)
        source: PairSource | None = None
        # A bag becomes a shard: one process makes it, the others find it.
        for turn in (True, False):
            if own.leads is turn:
                source = open_data(args.data, self._folder, bag, captioned=not self._dino)
            own.wait()
        assert source is not None
        kept = min(int(len(source) * _HOLDOUT_SHARE), _HOLDOUT_MOST)
        kept = kept if args.holdout is None else args.holdout
        if not 0 <= kept < len(source):
            raise PerceptionError(
                f"--holdout {kept} leaves nothing of {len(source)} pairs to train on."
            )
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(source))
        return Subset(source, order[kept:]), Subset(source, order[:kept])

    def go(self) -> None:
        """All steps, then the figures and the model."""
        args, own, plan = self._args, self._own, self._plan
        objective = self._objective().to(own.device)
        optimizer = new_optimizer(objective, plan)
        state = RunState(
            self._folder,
            objective,
            optimizer,
            self._recipe(),
            also=_DINO_STATE,
        )
        first, extra = state.load()
        tally = Tally(extra.get("broken"))
        before = extra.get("before")
        if before is None and own.leads and not args.from_scratch:
            before = self._figures(objective)
        own.wait()
        loaded = batches(
            PairDataset(
                self._source,
                Order(len(self._source), plan.seed),
                self._start.preprocessor("dinov2" if self._dino else "siglip"),
            ),
            Share(plan.batch, own.rank, own.world),
            first,
            plan.steps,
            self._workers(),
        )
        journal = None
        if own.leads:
            self._say(first)
            journal = Journal(
                self._folder, args.objective, plan.steps, first, plan.batch, args.tensorboard
            )
        try:
            train(
                objective,
                loaded,
                plan,
                optimizer,
                state,
                own,
                journal,
                first,
                tally,
                {"before": before},
            )
            if own.leads:
                self._finish(objective, tally, before, journal)
        finally:
            if journal is not None:
                journal.close()
        own.wait()

    def _objective(self) -> Any:
        args, start = self._args, self._start
        bf16 = not args.fp32
        if self._dino:
            if start.dinov2 is None:
                raise PerceptionError(
                    f"{args.model} has no dinov2/ to train: give a model folder to --model."
                )
            dinov2: Any = anew(start.dinov2, args.seed) if args.from_scratch else start.dinov2
            dinov2.requires_grad_(True)
            return DinoObjective(dinov2, DINOV2_INPUT, DinoSettings(), bf16)
        siglip: Any = start.siglip
        if args.from_scratch:
            siglip = anew(siglip, args.seed, args.objective)
        torch.manual_seed(args.seed)  # LoRA's first weights are drawn
        model = prepare(siglip, self._tuning)
        return PairObjective(model, start.tokenizer, SIGLIP_INPUT, args.objective, bf16)

    def _recipe(self) -> dict[str, Any]:
        """All that the result depends on, besides the data's own bytes and the code."""
        args = self._args
        plan = {
            k: v for k, v in asdict(self._plan).items() if k not in ("log_every", "save_every")
        }
        return plan | {
            "data": args.data,
            "pairs": len(self._source),
            "model": self._start.digest,
            "from_scratch": args.from_scratch,
            "objective": args.objective,
            "tuning": asdict(self._tuning),
            "bf16": not args.fp32,
        }

    def _workers(self) -> int:
        if self._args.workers is not None:
            return int(self._args.workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        return max(1, min(8, cores // self._own.world - 1))

    def _say(self, first: int) -> None:
        left = ", ".join(f"{reason} {n}" for reason, n in self._source.skipped.items())
        print(
            f"{len(self._source)} pairs to train on, {len(self._kept)} kept apart"
            f"{f', left out: {left}' if left else ''};"
            f" {self._own.world} process{'es' * (self._own.world > 1)} on {self._own.device.type}"
            + (f", going on after step {first}" if first else ""),
            flush=True,
        )

    def _finish(
        self,
        objective: Any,
        tally: Tally,
        before: dict[str, float] | None,
        journal: Journal | None,
    ) -> None:
        after = self._figures(objective)
        if tally.report():
            print(tally.report())
        for name, value in after.items():
            was = f" (before: {before[name]:.4g})" if before and name in before else ""
            print(f"{name}: {value:.4g}{was}")
        if journal is not None and after:
            journal.row(self._plan.steps, after)
        model = objective.model
        if self._dino:
            whole = export(self._start, self._output, None, model)
        else:
            whole = export(self._start, self._output, merge(model, self._tuning), None)
        print(f"wrote {self._output}")
        if not whole:
            print(f"put a DINOv2 into {self._output / 'dinov2'} to use it in the node")

    @torch.no_grad()
    def _figures(self, objective: Any) -> dict[str, float]:
        """Retrieval and classification on what was kept apart."""
        if self._dino or len(self._kept) < 2:
            return {}
        objective.eval()
        resize = self._start.preprocessor("siglip")
        captions: list[str] = []
        images: list[torch.Tensor] = []
        texts: list[torch.Tensor] = []
        for start in range(0, len(self._kept), 32):
            squares = []
            found = []
            for number in range(start, min(start + 32, len(self._kept))):
                try:
                    pair = self._kept.read(number)
                except BrokenPairError:
                    continue
                squares.append(torch.from_numpy(resize(pair.image)).permute(2, 0, 1))
                found.append(pair.caption)
            if squares:
                images.append(objective.embed_images(torch.stack(squares)))
                texts.append(objective.embed_texts(found))
                captions += found
        if len(captions) < 2:
            return {}
        image, text = torch.cat(images), torch.cat(texts)
        figures = {"kept_apart": float(len(captions))} | retrieval_figures(image, text, captions)
        names: Sequence[str] = read_classes(self._args.classes) if self._args.classes else ()
        if names:
            prompts = torch.stack(
                [objective.embed_texts([t.format(name) for name in names]) for t in TEMPLATES]
            )
            mean = torch.nn.functional.normalize(prompts.mean(dim=0), dim=-1)
            figures |= classification_figures(image, mean, labels_of(captions, names))
        return figures
