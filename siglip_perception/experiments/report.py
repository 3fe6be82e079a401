"""Results of an experiment, and their output: JSON, a Markdown table and a plot."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements
from siglip_perception.util.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = str | int | float | None

INK, GRAY, GRID = "#1f2430", "#6b7280", "#e5e7eb"
COLORS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#64748b")
"""Distinguishable for people with impaired color vision."""


@dataclass(frozen=True)
class Outcome:
    """Result of an experiment.

    settings: everything that the result depends on. rows: the table, each row with the same keys.
    findings: sentences generated from the numbers. figure: the plot.
    """

    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Value]]
    findings: Sequence[str]
    figure: Figure


@dataclass(frozen=True)
class Options:
    """Options of every experiment.

    model: name or folder of the model, if the experiment uses one.
    quick: run for seconds instead of minutes, with meaningless numbers.
    """

    model: str = "tabletop"
    seed: int = 0
    quick: bool = False


def plot_style() -> AbstractContextManager[None]:
    """Apply the common plot style to axes created within the context.

    Raises PerceptionError if matplotlib is missing.
    """
    need_matplotlib()
    from matplotlib import rc_context

    style: Any = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": GRAY,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "axes.axisbelow": True,
    }
    return rc_context(style)


def empty_figure(width: float, height: float) -> Figure:
    """Create a figure without axes; sizes in inches."""
    need_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """Create a figure, sizes in inches, with plot_style axes [rows, columns]."""
    with plot_style():
        figure = empty_figure(width, height)
        return figure, figure.subplots(rows, columns, squeeze=False)


def need_matplotlib() -> None:
    """Raise PerceptionError, with how to install it, if matplotlib is missing."""
    requirements.load("The plot of an experiment", "matplotlib")


def table(rows: Sequence[Mapping[str, Value]]) -> str:
    """Format rows as a Markdown table with right-aligned numbers."""
    names = list(rows[0])
    numeric = [all(not isinstance(row[name], str) for row in rows) for name in names]
    lines = [
        f"| {' | '.join(names)} |",
        f"|{'|'.join('---:' if is_numeric else '---' for is_numeric in numeric)}|",
    ]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        if abs(value) >= 100:
            return f"{value:.0f}"
        return f"{value:.1f}" if abs(value) >= 10 else f"{round(value, 3) + 0.0:.3f}"
    return str(value)


def save(name: str, question: str, outcome: Outcome, folder: Path) -> list[Path]:
    """Write NAME.json, NAME.png and NAME.md into the folder, creating it if needed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PerceptionError(f"Cannot write to {folder} ({error.strerror}).") from error
    content = {
        "experiment": name,
        "question": question,
        "settings": dict(outcome.settings),
        "rows": [dict(row) for row in outcome.rows],
        "findings": list(outcome.findings),
    }
    text = [f"# {name}", question, f"![{name}]({name}.png)"]
    text += ["\n".join(f"- {finding}" for finding in outcome.findings)]
    text += [table(outcome.rows), _settings(name, outcome.settings)]
    files = {
        f"{name}.json": json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n",
        f"{name}.png": _png(outcome.figure),
        f"{name}.md": ("\n\n".join(text) + "\n").encode(),
    }
    for file, data in files.items():
        write_atomically(folder / file, data)
    return [folder / file for file in files]


def _png(figure: Figure) -> bytes:
    """Render to PNG with 256 colors: enough for a plot, at a third of the size."""
    plot_file, output = io.BytesIO(), io.BytesIO()
    figure.savefig(plot_file, format="png", dpi=110, facecolor="white")
    with Image.open(plot_file) as picture:
        picture.convert("RGB").quantize(256).save(output, "PNG", optimize=True)
    return output.getvalue()


def _settings(name: str, settings: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"`siglip-perception experiment {name}`: {text}."
