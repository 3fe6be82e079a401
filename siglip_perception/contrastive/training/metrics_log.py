"""What a run says while it goes on: a bar or lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
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


class Journal:
    """The journal of one run's folder, from step `first` on.

    Rows of steps that a killed run had logged but not saved are dropped: they will come again, and
    every step is there once.
    """

    def __init__(
        self, folder: Path, name: str, steps: int, first: int, batch: int, tensorboard: bool
    ) -> None:
        self._folder = folder
        self._steps = steps
        self._batch = batch
        self._board = _board(folder, first) if tensorboard else None
        path = folder / METRICS
        if path.exists():
            write_atomically(path, _rows_until(path, first))
        self._file = path.open("a")
        self._bar = tqdm(
            total=steps, initial=first, unit="step", desc=name, disable=not sys.stderr.isatty()
        )
        self._last = first
        self._since = self._now = time.perf_counter()

    def step(self) -> None:
        """One more step is done."""
        self._now = time.perf_counter()
        self._bar.update()

    def row(
        self, step: int, values: Mapping[str, float], measured: Mapping[str, float] | None = None
    ) -> None:
        """Log numbers of a step, with the images a second since the last row and the time left.

        measured: more numbers; the time that they took does not count.
        """
        seconds = max(self._now - self._since, 1e-9)
        rate = (step - self._last) * self._batch / seconds
        left = (self._steps - step) * self._batch / rate if rate else 0.0
        numbers = {**values, **(measured or {})}
        row = {
            "step": step,
            **{name: float(f"{value:.{_DIGITS}g}") for name, value in numbers.items()},
            "images_per_s": round(rate, 2),
            "seconds_left": round(left),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)
        if self._bar.disable:
            print(json.dumps(row), flush=True)
        else:
            self._bar.set_postfix(loss=row.get("loss"), images_s=row["images_per_s"])
        self._last = step
        self._since = time.perf_counter()

    def figures(
        self, values: Mapping[str, Mapping[str, float]], left_out: Mapping[str, Any]
    ) -> None:
        """Write what was measured, `before` and `after` training, into figures.json.

        left_out: what of the data was not used, as SkipReport.as_json() gives it.
        """
        text = json.dumps({**values, "left_out": left_out}, indent=2) + "\n"
        write_atomically(self._folder / FIGURES, text.encode())
        if self._board is not None:
            for name, value in values["after"].items():
                self._board.add_scalar(name, value, self._steps)

    def close(self) -> None:
        """Write what is still to be written."""
        self._bar.close()
        self._file.close()
        if self._board is not None:
            self._board.close()


def _rows_until(path: Path, step: int) -> bytes:
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut short
            continue
        if isinstance(row, dict) and row.get("step", 0) <= step:
            kept.append(line)
    return b"".join(line + b"\n" for line in kept)


def _board(folder: Path, first: int) -> Any:
    requirements.require("--tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)
