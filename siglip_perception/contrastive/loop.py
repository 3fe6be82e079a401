"""The training loop, for every objective: one process or several, stopped and gone on with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from siglip_perception.contrastive.journal import Journal
from siglip_perception.contrastive.processes import Processes
from siglip_perception.contrastive.run_state import RunState
from siglip_perception.contrastive.samples import PairBatch

_DIGITS = 6


@dataclass(frozen=True)
class Plan:
    """How long and how fast; every number but the last two changes the result.

    batch: pairs of a step, of all processes together. accumulate: pieces in which a process' share
    of them goes through the model. lr: peak of the warm-up, of `warmup` steps, and of the cosine.
    """

    steps: int
    batch: int
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup: int = 0
    clip: float = 1.0
    seed: int = 0
    log_every: int = 10
    save_every: int = 100

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Objective(Protocol):
    """What is trained, and on what."""

    def backward(
        self, batch: PairBatch, parts: int, processes: Processes, progress: float
    ) -> dict[str, float]:
        """Add the gradient of a whole batch's loss; `loss`, and what else is worth logging."""

    def after_step(self, progress: float) -> None:
        """What has to follow the optimiser's step."""


def new_optimizer(module: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """AdamW over what is trained; vectors and scalars, such as norms and biases, do not decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=plan.lr,
        betas=(0.9, 0.98),
    )


class Tally:
    """The pairs that could not be used, by name: one that comes again counts once."""

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self.reasons = dict(known or {})

    def add(self, batch: PairBatch) -> None:
        """Remember what was broken on the way to this batch."""
        self.reasons.update(batch.broken)

    def report(self) -> str:
        """A sentence for the end, "" where nothing was broken."""
        if not self.reasons:
            return ""
        counts = Counter(self.reasons.values())
        examples = {reason: name for name, reason in reversed(self.reasons.items())}
        parts = [f"{reason} {n} (such as {examples[reason]})" for reason, n in counts.items()]
        return f"{len(self.reasons)} pairs could not be used: {', '.join(parts)}"


def _seed(*numbers: int) -> int:
    """One seed out of several numbers, for what PyTorch draws: dropout."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def train(
    objective: Any,
    batches: Iterator[PairBatch],
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    processes: Processes,
    journal: Journal | None,
    first: int,
    tally: Tally,
    extra: Mapping[str, Any],
) -> None:
    """Steps first to plan.steps - 1; the state is written at every save_every-th and the last.

    objective: an nn.Module that is an Objective, the same in all processes. extra: for the state.
    journal: the leading process' own. Every step is seeded by its number, so a resumed run draws as the whole.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    objective.train()
    for step, batch in enumerate(batches, start=first):
        progress = step / plan.steps
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        torch.manual_seed(_seed(plan.seed, step, processes.rank))
        tally.add(batch)
        optimizer.zero_grad(set_to_none=True)
        values = objective.backward(batch, plan.accumulate, processes, progress)
        processes.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
        done = step + 1
        objective.after_step(done / plan.steps)
        if journal is not None:
            journal.step()
        if done % plan.log_every == 0 or done == plan.steps:
            values = processes.mean(values | {"gradient": float(norm)})
            if journal is not None:
                rounded = {name: round(value, _DIGITS) for name, value in values.items()}
                journal.row(done, rounded | {"lr": plan.rate(step)})
        if done % plan.save_every == 0 or done == plan.steps:
            for other in processes.gather(tally.reasons):
                assert isinstance(other, dict)
                tally.reasons.update(other)
            if processes.leads:
                state.save(done, {**extra, "broken": tally.reasons})
