"""Fine-tune on the user's pairs (siglip-perception train --data) and write a model folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from siglip_perception.contracts import EncoderName
from siglip_perception.contrastive.data.open import feature_folders
from siglip_perception.contrastive.data.samples import (
    Order,
    PairDataset,
    Share,
    batches,
    stack_inputs,
    tower_input,
)
from siglip_perception.contrastive.data.sources import BrokenPairError
from siglip_perception.contrastive.data.split import TrainingData
from siglip_perception.contrastive.distributed import World, join_world
from siglip_perception.contrastive.objectives.dino import DinoSettings
from siglip_perception.contrastive.objectives.dino_objective import DINO_STATE, DinoObjective
from siglip_perception.contrastive.objectives.pair_objective import PairObjective
from siglip_perception.contrastive.training.autocast import use_bf16
from siglip_perception.contrastive.training.loop import LoopOptions, gather_report, train
from siglip_perception.contrastive.training.lora import Tuning, merge, prepare
from siglip_perception.contrastive.training.metrics_log import MetricsLog
from siglip_perception.contrastive.training.model_io import (
    InitialModel,
    export,
    load_initial_model,
    reinitialize,
)
from siglip_perception.contrastive.training.optimizers import new_optimizers
from siglip_perception.contrastive.training.output_folder import runs_folder
from siglip_perception.contrastive.training.run_state import RunState
from siglip_perception.datasets.class_names import labels_of
from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import PerceptionError
from siglip_perception.evaluation.linear_probe import scene_metrics
from siglip_perception.evaluation.retrieval import (
    TEMPLATES,
    classification_metrics,
    retrieval_metrics,
)
from siglip_perception.features.job import read_job
from siglip_perception.scenes.samples.items import GRID, TABLETOP

_RATES = {"all": 1e-5, "last": 1e-4, "lora": 2e-4}
_SCRATCH_RATE = 1e-3


def run(args: argparse.Namespace, data: TrainingData, classes: Sequence[str]) -> int:
    """Train on the pairs, or resume; write metrics and a model folder at the end.

    args: options that check_numbers() has completed. classes: for zero-shot classification of the
        held-out captions; empty: none.
    """
    with join_world(args.device) as world:
        if args.threads:
            torch.set_num_threads(args.threads)
        _FinetuneRun(args, data, classes, world).go()
    return 0


class _FinetuneRun:
    """One process of a fine-tuning run."""

    def __init__(
        self, args: argparse.Namespace, data: TrainingData, classes: Sequence[str], world: World
    ) -> None:
        self._args, self._world, self._classes = args, world, classes
        self._source, self._holdout = data.train, data.holdout
        self._output: Path = args.output.absolute()
        self._folder = runs_folder(args)
        self._dino = args.objective == "dino"
        self._report = SkipReport(args.strict)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._initial: InitialModel = load_initial_model(args.model, args.contract)
        self._encoder: EncoderName = "dinov2" if self._dino else "siglip"
        self._input = self._initial.inputs[self._encoder]
        self._check_features()
        lr = args.lr or (_SCRATCH_RATE if args.from_scratch or self._dino else _RATES[args.tune])
        self._options = LoopOptions(
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
        # The main process decides: others may run on different machines.
        self._bf16 = bool(world.gather(world.is_main and use_bf16(args, world.device))[0])
        self._tuning = Tuning(
            args.tune,
            tuple(dict.fromkeys(args.freeze)),
            args.last_layers,
            args.lora_rank,
            args.lora_alpha,
        )

    def _check_features(self) -> None:
        """Raise PerceptionError where stored features are not those of the model's image tower."""
        for path in feature_folders(self._args.data):
            digest = read_job(path).siglip
            if digest not in self._initial.digest.split():
                raise PerceptionError(
                    f"The vectors in {path} are of another SigLIP ({digest[:12]}) than"
                    f" {self._args.model}'s: name the model that they were made with."
                )

    def go(self) -> None:
        """Run all steps, then evaluate and write the model."""
        args, world, options = self._args, self._world, self._options
        objective = self._objective().to(world.device)
        optimizers = new_optimizers(objective, options.lr, options.weight_decay)
        state = RunState(
            self._folder,
            objective,
            optimizers,
            self._recipe(),
            buffer_prefixes=DINO_STATE,
        )
        first_step, extra = state.load()
        if world.is_main and "left_out" in extra:
            self._report.merge(extra["left_out"])
        metrics_before = extra.get("before")
        if metrics_before is None and world.is_main and (self._dino or not args.from_scratch):
            metrics_before = self._metrics(objective)
        world.wait()
        loader = batches(
            PairDataset(
                self._source,
                Order(len(self._source), options.seed),
                self._input.square,
                args.strict,
            ),
            Share(options.batch, world.rank, world.size),
            first_step,
            options.steps,
            self._workers(),
        )
        log = None
        if world.is_main:
            self._print_start(first_step)
            log = MetricsLog(
                self._folder,
                args.objective,
                options.steps,
                first_step,
                options.batch,
                args.tensorboard,
            )
        try:
            train(
                objective,
                loader,
                options,
                optimizers,
                state,
                world,
                log,
                first_step,
                self._report,
                {"before": metrics_before},
            )
            report = gather_report(world, self._report)
            if world.is_main:
                self._finish(objective, report, metrics_before, log)
        finally:
            if log is not None:
                log.close()
        world.wait()

    def _objective(self) -> Any:
        args, initial = self._args, self._initial
        torch.manual_seed(args.seed)  # same initial heads and LoRA weights in every process
        if self._dino:
            dinov2: Any = reinitialize(initial.dinov2) if args.from_scratch else initial.dinov2
            dinov2.requires_grad_(True)
            return DinoObjective(
                dinov2, self._input, DinoSettings(), self._options.steps, self._bf16
            )
        siglip: Any = initial.siglip
        if args.from_scratch:
            siglip = reinitialize(siglip, args.objective)
        model = prepare(siglip, self._tuning)
        return PairObjective(model, initial.tokenizer, self._input, args.objective, self._bf16)

    def _recipe(self) -> dict[str, Any]:
        """Everything that the result depends on, except the data's bytes and the code."""
        args = self._args
        options = {
            k: v for k, v in asdict(self._options).items() if k not in ("log_every", "save_every")
        }
        return options | {
            "data": args.data,
            "pairs": len(self._source),
            "model": self._initial.digest,
            "from_scratch": args.from_scratch,
            "objective": args.objective,
            "tuning": asdict(self._tuning),
            "bf16": self._bf16,
        }

    def _workers(self) -> int:
        if self._args.workers is not None:
            return int(self._args.workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        return max(1, min(8, cores // self._world.size - 1))

    def _print_start(self, first_step: int) -> None:
        skips = self._source.report.summary()
        print(
            f"{len(self._source)} pairs to train on, {len(self._holdout)} kept apart"
            f"{f', left out: {skips}' if skips else ''};"
            f" {self._world.size} process{'es' * (self._world.size > 1)}"
            f" on {self._world.device.type}"
            + (f", going on after step {first_step}" if first_step else ""),
            flush=True,
        )

    def _finish(
        self,
        objective: Any,
        report: SkipReport,
        metrics_before: dict[str, float] | None,
        log: MetricsLog | None,
    ) -> None:
        metrics_after = self._metrics(objective)
        report.merge(self._report)
        report.merge(self._source.report)
        for name, value in metrics_after.items():
            comparison = (
                f" (before: {metrics_before[name]:.4g})"
                if metrics_before and name in metrics_before
                else ""
            )
            print(f"{name}: {value:.4g}{comparison}")
        if log is not None:
            log.write_metrics(
                {"before": metrics_before or {}, "after": metrics_after}, report.as_json()
            )
        model = objective.model if self._dino else merge(objective.model, self._tuning)
        export(self._initial, self._output, {self._encoder: model})
        for line in report.lines():
            print(line)
        print(f"wrote {self._output}")

    @torch.no_grad()
    def _metrics(self, objective: Any) -> dict[str, float]:
        """Evaluate: retrieval and classification on the holdout; DINOv2 on generated scenes."""
        objective.eval()
        if self._dino:
            patch, size = int(objective.model.config.patch_size), self._input.square.size
            fits = size == TABLETOP.image_size and size // patch == GRID
            return scene_metrics(objective.features) if fits else {}
        if len(self._holdout) < 2:
            return {}
        captions: list[str] = []
        images: list[torch.Tensor] = []
        texts: list[torch.Tensor] = []
        for start in range(0, len(self._holdout), 32):
            squares = []
            batch_captions = []
            for number in range(start, min(start + 32, len(self._holdout))):
                try:
                    pair = self._holdout.read(number)
                except BrokenPairError as error:
                    self._report.skip(error.reason, error.name, error.detail)
                    continue
                for remark in pair.remarks:
                    self._report.note(remark, pair.name)
                squares.append(tower_input(pair, self._input.square))
                batch_captions.append(pair.caption)
            if squares:
                images.append(objective.embed_images(stack_inputs(squares)))
                texts.append(objective.embed_texts(batch_captions))
                captions += batch_captions
        if len(captions) < 2:
            return {}
        image, text = torch.cat(images), torch.cat(texts)
        figures = {"kept_apart": float(len(captions))} | retrieval_metrics(image, text, captions)
        names = self._classes
        if names:
            prompts = torch.stack(
                [
                    objective.embed_texts([template.format(name) for name in names])
                    for template in TEMPLATES
                ]
            )
            mean = torch.nn.functional.normalize(prompts.mean(dim=0), dim=-1)
            figures |= classification_metrics(image, mean, labels_of(captions, names))
        return figures
