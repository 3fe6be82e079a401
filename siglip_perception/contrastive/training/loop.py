"""The training loop of every objective: one process or several, resumable at any time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from siglip_perception.contrastive.distributed import World
from siglip_perception.contrastive.training.metrics_log import MetricsLog
from siglip_perception.contrastive.training.run_state import RunState
from siglip_perception.datasets.skips import SkipReport


@dataclass(frozen=True)
class LoopOptions:
    """Options of the loop; all but log_every and save_every change the result.

    batch: samples per step, over all processes. accumulate: microbatches that a process's share is
    split into. lr: peak learning rate, reached after `warmup` steps and held until the cooldown,
    the last share of the steps, which decays it along a cosine to a hundredth.
    clip: maximum norm of the gradient.
    """

    steps: int
    batch: int
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup: int = 0
    cooldown: float = 1.0
    clip: float = 1.0
    seed: int = 0
    log_every: int = 10
    save_every: int = 100

    @property
    def cooldown_start(self) -> int:
        """First step of the cooldown."""
        return self.steps - round(self.cooldown * max(self.steps - self.warmup, 0))

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, then a cosine to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = max(step - self.cooldown_start, 0) / max(self.steps - self.cooldown_start, 1)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class Objective(Protocol):
    """A model with a loss, as the loop trains it."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self) -> Any: ...

    def backward(self, batch: Any, accumulate: int, world: World, step: int) -> dict[str, float]:
        """Accumulate the gradient of a whole batch; return metrics, `loss` among them."""

    def after_step(self, step: int) -> None:
        """Run whatever has to follow the optimizer's step."""


def gather_report(world: World, report: SkipReport) -> SkipReport:
    """Merge the skip reports of all processes; every process gets the result."""
    total = SkipReport()
    for content in world.gather(report.as_json()):
        assert isinstance(content, dict)
        total.merge(content)
    return total


def _seed(*numbers: int) -> int:
    """Combine several numbers into one seed for PyTorch, which draws the dropout."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def train(
    objective: Objective,
    batches: Iterator[Any],
    options: LoopOptions,
    optimizers: Sequence[torch.optim.Optimizer],
    state: RunState,
    world: World,
    log: MetricsLog | None,
    first_step: int,
    report: SkipReport | None = None,
    extra: Mapping[str, Any] | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Run steps first_step to options.steps - 1; save the state every save_every steps and last.

    objective: the same in all processes. log: None except in the main process. report: collects
    the unusable pairs of this process. extra: saved with the state. measure: called by the main
    process before each save; its metrics are logged. Every step is seeded by its number, so a
    resumed run draws the same random numbers as an uninterrupted one.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    objective.train()
    for step, batch in enumerate(batches, start=first_step):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = options.rate(step) * group.get("share", 1.0)
        torch.manual_seed(_seed(options.seed, step, world.rank))
        if report is not None:
            for name, reason, detail in batch.broken:
                report.skip(reason, name, detail)
            for name, remark in batch.remarks:
                report.note(remark, name)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        metrics = objective.backward(batch, options.accumulate, world, step)
        world.average_gradients(parameters)
        grad_norm = nn.utils.clip_grad_norm_(parameters, options.clip)
        for optimizer in optimizers:
            optimizer.step()
        objective.after_step(step)
        steps_done = step + 1
        saves = steps_done % options.save_every == 0 or steps_done == options.steps
        if log is not None:
            log.step()
        if saves or steps_done % options.log_every == 0:
            metrics = world.mean(metrics | {"gradient": float(grad_norm)}) | {
                "lr": options.rate(step)
            }
            if log is not None:
                measurements = measure() if saves and measure is not None else {}
                log.row(steps_done, metrics, measurements)
        if saves:
            _save(state, steps_done, world, report, extra or {})


def _save(
    state: RunState,
    step: int,
    world: World,
    report: SkipReport | None,
    extra: Mapping[str, Any],
) -> None:
    if report is not None:
        extra = {**extra, "left_out": gather_report(world, report).as_json()}
    if world.is_main:
        state.save(step, extra)
