"""Log a run's progress: a bar or lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from siglip_perception.util import requirements
from siglip_perception.util.files import write_atomically

METRICS = "metrics.jsonl"
_DIGITS = 6
FIGURES = "figures.json"


class MetricsLog:
    """Log of one run's folder, from step `first` on.

    Drops the rows of steps that a killed run logged but did not save: they will be run again, and
    every step should appear once.
    """

    def __init__(
        self, folder: Path, name: str, steps: int, first: int, batch: int, tensorboard: bool
    ) -> None:
        self._folder = folder
        self._steps = steps
        self._batch = batch
        self._tensorboard = _board(folder, first) if tensorboard else None
        path = folder / METRICS
        if path.exists():
            write_atomically(path, _rows_until(path, first))
        self._file = path.open("a")
        self._bar = tqdm(total=steps, initial=first, unit="step", desc=name, disable=None)
        self._last = first
        self._last_row_at = self._step_end = time.perf_counter()

    def step(self) -> None:
        """Count one finished step."""
        self._step_end = time.perf_counter()
        self._bar.update()

    def row(
        self,
        step: int,
        values: Mapping[str, float],
        measurements: Mapping[str, float] | None = None,
    ) -> None:
        """Log metrics of a step, with images per second since the last row and the time left.

        measurements: further metrics; the time that they took is not counted.
        """
        seconds = max(self._step_end - self._last_row_at, 1e-9)
        rate = (step - self._last) * self._batch / seconds
        seconds_left = (self._steps - step) * self._batch / rate if rate else 0.0
        numbers = {**values, **(measurements or {})}
        row = {
            "step": step,
            **{name: float(f"{value:.{_DIGITS}g}") for name, value in numbers.items()},
            "images_per_s": round(rate, 2),
            "seconds_left": round(seconds_left),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in row.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._bar.disable:
            print(json.dumps(row), flush=True)
        else:
            self._bar.set_postfix(loss=row.get("loss"), images_s=row["images_per_s"])
        self._last = step
        self._last_row_at = time.perf_counter()

    def write_metrics(
        self, values: Mapping[str, Mapping[str, float]], left_out: Mapping[str, Any]
    ) -> None:
        """Write the metrics `before` and `after` training to figures.json.

        left_out: the unusable data, as from SkipReport.as_json().
        """
        text = json.dumps({**values, "left_out": left_out}, indent=2) + "\n"
        write_atomically(self._folder / FIGURES, text.encode())
        if self._tensorboard is not None:
            for name, value in values["after"].items():
                self._tensorboard.add_scalar(name, value, self._steps)

    def close(self) -> None:
        """Flush and close all outputs."""
        self._bar.close()
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _rows_until(path: Path, step: int) -> bytes:
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a line that a kill cut short
            continue
        if isinstance(row, dict) and row.get("step", 0) <= step:
            lines.append(line)
    return b"".join(line + b"\n" for line in lines)


def _board(folder: Path, first: int) -> Any:
    requirements.require("--tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)
