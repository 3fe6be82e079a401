"""siglip-perception train --data: image-caption pairs in, a model that the node loads out."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siglip_perception.contracts import EncoderName
from siglip_perception.contrastive.data.open import open_data
from siglip_perception.contrastive.data.samples import Order, PairDataset, Share, batches
from siglip_perception.contrastive.data.source_bag import BagOptions
from siglip_perception.contrastive.data.sources import BrokenPairError, PairSource, Subset
from siglip_perception.contrastive.objectives.dino import DinoSettings
from siglip_perception.contrastive.objectives.dino_objective import DinoObjective
from siglip_perception.contrastive.objectives.pairs import PairObjective
from siglip_perception.contrastive.training.autocast import wants_bf16
from siglip_perception.contrastive.training.distributed import Processes, processes
from siglip_perception.contrastive.training.finetune_options import check_numbers
from siglip_perception.contrastive.training.loop import Plan, gather_report, train
from siglip_perception.contrastive.training.lora import Tuning, merge, prepare
from siglip_perception.contrastive.training.metrics_log import Journal
from siglip_perception.contrastive.training.model_io import (
    Start,
    anew,
    export,
    open_start,
)
from siglip_perception.contrastive.training.optimizers import new_optimizers
from siglip_perception.contrastive.training.output_folder import refuse_foreign
from siglip_perception.contrastive.training.run_state import RunState
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.linear_probe import scene_figures
from siglip_perception.evaluation.retrieval import (
    TEMPLATES,
    classification_figures,
    labels_of,
    read_classes,
    retrieval_figures,
)
from siglip_perception.images.preprocess import to_square
from siglip_perception.scenes.samples import GRID, TABLETOP

_RATES = {"all": 1e-5, "last": 1e-4, "lora": 2e-4}
_SCRATCH_RATE = 1e-3
_HOLDOUT_SHARE, _HOLDOUT_MOST = 0.05, 1000
_SPLIT_SEED = 20_231
_DINO_STATE = ("distillation.teacher.", "distillation.cls_center.", "distillation.patch_center.")


def run(args: argparse.Namespace) -> int:
    """Train on the pairs that were named, or go on; figures and a model folder at the end."""
    output: Path = args.output.absolute()
    refuse_foreign(output)
    with processes(args.device) as own:
        check_numbers(args, own.world)
        if args.threads:
            torch.set_num_threads(args.threads)
        _Run(args, output, own).go()
    return 0


class _Run:
    """One run of the command, in one process."""

    def __init__(self, args: argparse.Namespace, output: Path, own: Processes) -> None:
        self._args, self._output, self._own = args, output, own
        self._folder: Path = args.runs or output.with_name(output.name + ".runs")
        self._dino = args.objective == "dino"
        self._classes = read_classes(args.classes) if args.classes else ()
        self._source, self._kept = (
            self._data()
        )  # before the model: what is wrong here is told soon
        self._report = SkipReport(args.strict)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._start: Start = open_start(args.model, args.contract)
        self._part: EncoderName = "dinov2" if self._dino else "siglip"
        if (self._start.dinov2 if self._dino else self._start.siglip) is None:
            raise PerceptionError(
                f"{args.model} has no {self._part} that --objective {args.objective} could train:"
                " give another folder to --model."
            )
        self._input = self._start.inputs[self._part]
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
        # Decided once: processes may run on different machines.
        self._bf16 = bool(own.gather(own.leads and wants_bf16(args, own.device))[0])
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
                source = open_data(
                    args.data, self._folder, bag, captioned=not self._dino, strict=args.strict
                )
            own.wait()
        assert source is not None
        kept = 0 if self._dino else min(int(len(source) * _HOLDOUT_SHARE), _HOLDOUT_MOST)
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
        optimizers = new_optimizers(objective, plan.lr, plan.weight_decay)
        state = RunState(
            self._folder,
            objective,
            optimizers,
            self._recipe(),
            also=_DINO_STATE,
        )
        first, extra = state.load()
        if own.leads and "left_out" in extra:
            self._report.merge(extra["left_out"])
        before = extra.get("before")
        if before is None and own.leads and (self._dino or not args.from_scratch):
            before = self._figures(objective)
        own.wait()
        loaded = batches(
            PairDataset(
                self._source,
                Order(len(self._source), plan.seed),
                self._input.square,
                args.strict,
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
                optimizers,
                state,
                own,
                journal,
                first,
                self._report,
                {"before": before},
            )
            report = gather_report(own, self._report)
            if own.leads:
                self._finish(objective, report, before, journal)
        finally:
            if journal is not None:
                journal.close()
        own.wait()

    def _objective(self) -> Any:
        args, start = self._args, self._start
        torch.manual_seed(args.seed)  # of the heads and LoRA's first weights, alike everywhere
        if self._dino:
            dinov2: Any = anew(start.dinov2) if args.from_scratch else start.dinov2
            dinov2.requires_grad_(True)
            return DinoObjective(dinov2, self._input, DinoSettings(), self._plan.steps, self._bf16)
        siglip: Any = start.siglip
        if args.from_scratch:
            siglip = anew(siglip, args.objective)
        model = prepare(siglip, self._tuning)
        return PairObjective(model, start.tokenizer, self._input, args.objective, self._bf16)

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
            "bf16": self._bf16,
        }

    def _workers(self) -> int:
        if self._args.workers is not None:
            return int(self._args.workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        return max(1, min(8, cores // self._own.world - 1))

    def _say(self, first: int) -> None:
        left = self._source.report.summary()
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
        report: SkipReport,
        before: dict[str, float] | None,
        journal: Journal | None,
    ) -> None:
        after = self._figures(objective)
        report.merge(self._report)
        report.merge(self._source.report)
        for name, value in after.items():
            was = f" (before: {before[name]:.4g})" if before and name in before else ""
            print(f"{name}: {value:.4g}{was}")
        if journal is not None:
            journal.figures({"before": before or {}, "after": after}, report.as_json())
        model = objective.model if self._dino else merge(objective.model, self._tuning)
        export(self._start, self._output, {self._part: model})
        for line in report.lines():
            print(line)
        print(f"wrote {self._output}")

    @torch.no_grad()
    def _figures(self, objective: Any) -> dict[str, float]:
        """Retrieval and classification on what was kept apart; of DINOv2, on generated scenes."""
        objective.eval()
        if self._dino:
            patch, size = int(objective.model.config.patch_size), self._input.square.size
            fits = size == TABLETOP.image_size and size // patch == GRID
            return scene_figures(objective.features) if fits else {}
        if len(self._kept) < 2:
            return {}
        captions: list[str] = []
        images: list[torch.Tensor] = []
        texts: list[torch.Tensor] = []
        for start in range(0, len(self._kept), 32):
            squares = []
            found = []
            for number in range(start, min(start + 32, len(self._kept))):
                try:
                    pair = self._kept.read(number)
                except BrokenPairError as error:
                    self._report.skip(error.reason, error.name, error.detail)
                    continue
                for remark in pair.remarks:
                    self._report.note(remark, pair.name)
                squares.append(to_square(pair.image, self._input.square))
                found.append(pair.caption)
            if squares:
                stacked = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
                images.append(objective.embed_images(stacked))
                texts.append(objective.embed_texts(found))
                captions += found
        if len(captions) < 2:
            return {}
        image, text = torch.cat(images), torch.cat(texts)
        figures = {"kept_apart": float(len(captions))} | retrieval_figures(image, text, captions)
        names = self._classes
        if names:
            prompts = torch.stack(
                [objective.embed_texts([t.format(name) for name in names]) for t in TEMPLATES]
            )
            mean = torch.nn.functional.normalize(prompts.mean(dim=0), dim=-1)
            figures |= classification_figures(image, mean, labels_of(captions, names))
        return figures
