"""What a run says while it goes on: a bar or lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from siglip_perception.errors import PerceptionError
from siglip_perception.files import write_atomically

METRICS = "metrics.jsonl"


class Journal:
    """The journal of one run's folder, from step `first` on.

    Rows of steps that a killed run had logged but not saved are dropped: they will come again, and
    every step is there once.
    """

    def __init__(
        self, folder: Path, name: str, steps: int, first: int, batch: int, tensorboard: bool
    ) -> None:
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
        self._since = time.perf_counter()

    def step(self) -> None:
        """One more step is done."""
        self._bar.update()

    def row(self, step: int, values: dict[str, Any]) -> None:
        """Log numbers of a step, with the images a second since the last row and the time left."""
        now = time.perf_counter()
        if step > self._last:
            rate = (step - self._last) * self._batch / max(now - self._since, 1e-9)
            left = (self._steps - step) * self._batch / rate
            values = values | {"images_per_s": round(rate, 2), "seconds_left": round(left)}
        row = {"step": step} | values
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)
        if self._bar.disable:
            print(json.dumps(row), flush=True)
        elif "loss" in values:
            self._bar.set_postfix(loss=values["loss"], images_s=values.get("images_per_s"))
        self._last = step
        self._since = time.perf_counter()

    def pause(self) -> float:
        """The time now, for resume(): what happens between is no training."""
        return time.perf_counter()

    def resume(self, paused: float) -> None:
        """Leave the time since `paused` out of the images a second."""
        self._since += time.perf_counter() - paused

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
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise PerceptionError(
            "--tensorboard needs tensorboard: pip install 'siglip_perception[train]', or"
            " tensorboard by itself."
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)
