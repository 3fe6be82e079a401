"""The training loop, for every objective: one process or several, stopped and gone on with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from siglip_perception.contrastive.training.distributed import Processes
from siglip_perception.contrastive.training.metrics_log import Journal
from siglip_perception.contrastive.training.run_state import RunState
from siglip_perception.datasets.skips import SkipReport


@dataclass(frozen=True)
class Plan:
    """How long and how fast; every number but the last two changes the result.

    batch: samples of a step, of all processes together. accumulate: pieces in which a process'
    share of them goes through the model. lr: peak, after `warmup` steps, held until the cooldown,
    the last share of the steps, in which it falls by a cosine to a hundredth. clip: of the
    gradient's norm.
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
    def falls_at(self) -> int:
        """The step at which the rate begins to fall."""
        return self.steps - round(self.cooldown * max(self.steps - self.warmup, 0))

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, held, then a cosine to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = max(step - self.falls_at, 0) / max(self.steps - self.falls_at, 1)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Objective(Protocol):
    """What is trained, and on what."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self) -> Any: ...

    def backward(
        self, batch: Any, parts: int, processes: Processes, step: int
    ) -> dict[str, float]:
        """Add the gradient of a whole batch's loss; `loss`, and what else is worth logging."""

    def after_step(self, step: int) -> None:
        """What has to follow the optimizer's step of that number."""


def gather_report(processes: Processes, report: SkipReport) -> SkipReport:
    """What all processes left out, in all of them."""
    whole = SkipReport()
    for content in processes.gather(report.as_json()):
        assert isinstance(content, dict)
        whole.merge(content)
    return whole


def _seed(*numbers: int) -> int:
    """One seed out of several numbers, for what PyTorch draws: dropout."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def train(
    objective: Objective,
    batches: Iterator[Any],
    plan: Plan,
    optimizers: Sequence[torch.optim.Optimizer],
    state: RunState,
    processes: Processes,
    journal: Journal | None,
    first: int,
    report: SkipReport | None = None,
    extra: Mapping[str, Any] | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Steps first to plan.steps - 1; the state is written at every save_every-th and the last.

    objective: the same in all processes. journal: the leading process' own. report: takes what was
    broken on the way to each batch of this process. extra: for the state. measure: called by the
    leading process when the state is written, for the log. Every step is seeded by its number, so
    a resumed run draws as the whole.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    objective.train()
    for step, batch in enumerate(batches, start=first):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = plan.rate(step) * group.get("share", 1.0)
        torch.manual_seed(_seed(plan.seed, step, processes.rank))
        if report is not None:
            for name, reason, detail in batch.broken:
                report.skip(reason, name, detail)
            for name, remark in batch.remarks:
                report.note(remark, name)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        values = objective.backward(batch, plan.accumulate, processes, step)
        processes.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, plan.clip)
        for optimizer in optimizers:
            optimizer.step()
        objective.after_step(step)
        done = step + 1
        saves = done % plan.save_every == 0 or done == plan.steps
        if journal is not None:
            journal.step()
        if saves or done % plan.log_every == 0:
            values = processes.mean(values | {"gradient": float(norm)}) | {"lr": plan.rate(step)}
            if journal is not None:
                measured = measure() if saves and measure is not None else {}
                journal.row(done, values, measured)
        if saves:
            _save(state, done, processes, report, extra or {})


def _save(
    state: RunState,
    step: int,
    processes: Processes,
    report: SkipReport | None,
    extra: Mapping[str, Any],
) -> None:
    if report is not None:
        extra = {**extra, "left_out": gather_report(processes, report).as_json()}
    if processes.leads:
        state.save(step, extra)
