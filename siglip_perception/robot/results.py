"""Outcomes of episodes: one each, what they add up to, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siglip_perception.errors import PerceptionError
from siglip_perception.robot.episodes import Episode
from siglip_perception.scenes.vocabulary import Language
from siglip_perception.util.files import read_regular, write_atomically

RESULTS, LATENCIES = "results.json", "latencies.csv"
"""Names of the files in the output folder."""
Loss = Literal["perception", "policy", "simulator"]
"""Process whose end, or silence, in mid-episode made the episode a lost one."""
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Plan:
    """Settings that a run's episodes depend on; a run is gone on with by the same ones only.

    orders: the user's own instructions; empty: sampled ones. perception: "node", or "truth".
    threshold: least score of an object, in [0, 1]; None: each language's own.
    """

    seed: int
    model: str
    perception: str
    orders: tuple[str, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Outcome of one episode.

    expected: "act", or "still" where the named thing is absent. found: the policy saw the thing
    and its place. lifted, placed: the right thing was raised, and put where it was told.
    lifted_other: something else was raised. disturbed: something else was moved by more than 3 cm,
    or anything where nothing had to move. thrown: something fell, or flew. waited: the arm stood
    still while the camera, or one of the processes, was gone; None where none was.
    lost: the episode broke off, as the process lost_by ended or fell silent.
    seconds: from the first objects of the instruction to the end, simulated.
    """

    number: int
    instruction: str
    language: Language
    twist: str
    expected: str
    found: bool
    lifted: bool
    placed: bool
    lifted_other: bool
    disturbed: bool
    thrown: bool
    waited: bool | None
    lost: bool
    lost_by: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Tell whether all went as it had to."""
        if self.lost or self.disturbed or self.thrown or self.waited is False:
            return False
        return self.placed if self.expected == "act" else not self.lifted

    @property
    def verdict(self) -> str:
        """Say in a word how it went."""
        return f"lost ({self.lost_by})" if self.lost else "right" if self.is_right else "wrong"


def lost_outcome(episode: Episode, loss: Loss) -> Outcome:
    """Make the outcome of an episode that nobody saw the end of."""
    return Outcome(
        number=episode.number,
        instruction=episode.instruction,
        language=episode.language,
        twist=episode.twist,
        expected=episode.expected,
        found=False,
        lifted=False,
        placed=False,
        lifted_other=False,
        disturbed=False,
        thrown=False,
        waited=None,
        lost=True,
        lost_by=loss,
        seconds=0.0,
    )


def report(
    plan: Plan, outcomes: Sequence[Outcome], latencies_ms: Sequence[float]
) -> dict[str, Any]:
    """Add up outcomes, for results.json; latencies: image to objects, while the arm acted."""
    latency: dict[str, float] = {}
    if latencies_ms:
        latency = {
            name: round(float(np.percentile(latencies_ms, share)), 1)
            for name, share in (("p50_ms", 50), ("p99_ms", 99))
        }
        latency["frames"] = len(latencies_ms)
    return {
        "run": {**asdict(plan), "orders": list(plan.orders)},
        "episodes": [{**asdict(item), "right": item.is_right} for item in outcomes],
        "latency": latency,
        "figures": {
            language: _figures([item for item in outcomes if item.language == language])
            for language in sorted({item.language for item in outcomes})
        },
        "cases": {
            twist: _figures([item for item in outcomes if item.twist == twist])
            for twist in dict.fromkeys(item.twist for item in outcomes)
        },
    }


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Add up; shares are of the episodes that were not lost, and None where there are none."""
    complete = [item for item in outcomes if not item.lost]
    acting = [item for item in complete if item.expected == "act"]
    still = [item for item in complete if item.expected == "still"]

    def share(items: Sequence[Outcome], attribute: str) -> float | None:
        values = [getattr(item, attribute) for item in items]
        values = [value for value in values if value is not None]
        return round(float(np.mean(values)), 3) if values else None

    disturbed = share(still, "disturbed")
    return {
        "episodes": len(outcomes),
        "lost": len(outcomes) - len(complete),
        "found": share(acting, "found"),
        "lifted": share(acting, "lifted"),
        "placed": share(acting, "placed"),
        "lifted_other": share(complete, "lifted_other"),
        "still": None if disturbed is None else round(1 - disturbed, 3),
        "waited": share(complete, "waited"),
        "thrown": share(complete, "thrown"),
        "right": share(complete, "is_right"),
    }


def write_results(
    folder: Path, plan: Plan, outcomes: Sequence[Outcome], latencies_ms: Sequence[float]
) -> None:
    """Write results.json whole, and the latencies beside it, so that a run can be gone on with."""
    content = json.dumps(report(plan, outcomes, latencies_ms), indent=2, ensure_ascii=False)
    lines = "".join(f"{value:.1f}\n" for value in latencies_ms)
    write_atomically(folder / LATENCIES, lines.encode())
    write_atomically(folder / RESULTS, content.encode() + b"\n")


def read_results(folder: Path, plan: Plan) -> tuple[list[Outcome], list[float]]:
    """Read outcomes and latencies of a run that was broken off; none where there was none.

    Raises PerceptionError if they are of another plan, or no longer readable.
    """
    path = folder / RESULTS
    try:
        content = json.loads(read_regular(path, _MAX_BYTES))
        names = [field.name for field in fields(Outcome)]
        outcomes = [
            Outcome(**{name: item[name] for name in names}) for item in content["episodes"]
        ]
        run = content["run"]
        before = Plan(
            run["seed"],
            run["model"],
            run["perception"],
            tuple(run["orders"]),
            run["threshold"],
        )
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PerceptionError(
            f"{path} is not what this version writes ({type(error).__name__}): without --resume"
            " the run begins anew."
        ) from error
    for field in fields(Plan):
        then, now = getattr(before, field.name), getattr(plan, field.name)
        if then != now:
            raise PerceptionError(
                f"{path} is of a run with {field.name} {_text(then)}, not {_text(now)}: give the"
                " same, or another --out; without --resume the run begins anew."
            )
    try:
        latencies = [float(line) for line in (folder / LATENCIES).read_text().split()]
    except (OSError, ValueError):
        latencies = []
    return outcomes, latencies


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "; ".join(value) or "of its own"
    return "of its own" if value is None else str(value)


_COLUMNS = ("found", "lifted", "placed", "lifted_other", "still", "waited", "thrown", "right")
_HEADS = ("found", "lifted", "placed", "took other", "still", "waited", "thrown", "right")


def table(content: dict[str, Any]) -> list[str]:
    """Lines to show: an episode each, then the figures by case and by language."""
    lines = [
        f"{'':>3}  {'case':<12} {'found':<6}{'lifted':<7}{'placed':<7}{'waited':<7}"
        f"{'result':<18}{'time':>6}  instruction"
    ]

    def mark(value: bool | None) -> str:
        return "-" if value is None else ("yes" if value else "no")

    for item in content["episodes"]:
        verdict = (
            f"lost ({item['lost_by']})" if item["lost"] else "right" if item["right"] else "wrong"
        )
        lines.append(
            f"{item['number']:>3}  {item['twist']:<12} {mark(item['found']):<6}"
            f"{mark(item['lifted']):<7}{mark(item['placed']):<7}{mark(item['waited']):<7}"
            f"{verdict:<18}{item['seconds']:>5.1f}s  {item['instruction']}"
        )
    widths = [max(len(head), 5) + 2 for head in _HEADS]
    heads = "".join(f"{head:>{width}}" for head, width in zip(_HEADS, widths, strict=True))
    lines += ["", f"{'':<12}{'episodes':>9}{'lost':>6}{heads}"]
    for name, figures in {**content["cases"], **content["figures"]}.items():
        cells = "".join(
            f"{'-' if figures[column] is None else format(figures[column], '.0%'):>{width}}"
            for column, width in zip(_COLUMNS, widths, strict=True)
        )
        lines.append(f"{name:<12}{figures['episodes']:>9}{figures['lost']:>6}{cells}")
    if content["latency"]:
        latency = content["latency"]
        lines.append(
            f"image to objects, while acting: p50 {latency['p50_ms']} ms,"
            f" p99 {latency['p99_ms']} ms, {latency['frames']:.0f} frames"
        )
    return lines
