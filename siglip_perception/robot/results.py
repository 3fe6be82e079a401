"""Outcomes of episodes: one each, and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siglip_perception.scenes.vocabulary import Language


@dataclass(frozen=True)
class Outcome:
    """Outcome of one episode.

    expected: "act", or "still" where the named thing is absent. found: the policy saw the thing
    and its place. lifted, placed: the right thing was raised, and put where it was told.
    disturbed: something else was moved by more than 3 cm, or anything where nothing had to move.
    waited: the arm stood still while the camera was lost; None where it was not. lost: the episode
    broke off.
    seconds: from the instruction to the end.
    """

    number: int
    instruction: str
    language: Language
    twist: str
    expected: str
    found: bool
    lifted: bool
    placed: bool
    disturbed: bool
    waited: bool | None
    lost: bool
    seconds: float

    @property
    def is_right(self) -> bool:
        """Tell whether all went as it had to."""
        if self.lost or self.disturbed or self.waited is False:
            return False
        return self.placed if self.expected == "act" else not self.lifted


def report(outcomes: Sequence[Outcome], latencies_ms: Sequence[float]) -> dict[str, Any]:
    """Add up outcomes, for results.json; latencies: image to objects, while acting."""
    latency = {}
    if latencies_ms:
        latency = {
            name: round(float(np.percentile(latencies_ms, share)), 1)
            for name, share in (("p50_ms", 50), ("p99_ms", 99))
        }
    return {
        "episodes": [{**asdict(item), "right": item.is_right} for item in outcomes],
        "latency": latency,
        "figures": {
            language: _figures([item for item in outcomes if item.language == language])
            for language in sorted({item.language for item in outcomes})
        },
    }


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    acting = [item for item in outcomes if item.expected == "act"]
    still = [item for item in outcomes if item.expected == "still"]

    def share(items: Sequence[Outcome], attribute: str) -> float | None:
        return round(float(np.mean([getattr(i, attribute) for i in items])), 3) if items else None

    return {
        "episodes": len(outcomes),
        "lifted": share(acting, "lifted"),
        "placed": share(acting, "placed"),
        "still": None if not still else round(1 - float(np.mean([i.disturbed for i in still])), 3),
        "right": share(outcomes, "is_right"),
    }


def table(content: dict[str, Any]) -> list[str]:
    """Lines to show: an episode each, then the figures."""
    lines = [
        f"{'':>3}  {'twist':<12} {'found':<6}{'lifted':<7}{'placed':<7}{'right':<6}{'time':>6}"
        "  instruction"
    ]

    def mark(value: bool | None) -> str:
        return "-" if value is None else ("yes" if value else "no")

    for item in content["episodes"]:
        lines.append(
            f"{item['number']:>3}  {item['twist']:<12} {mark(item['found']):<6}"
            f"{mark(item['lifted']):<7}{mark(item['placed']):<7}{mark(item['right']):<6}"
            f"{item['seconds']:>5.1f}s  {item['instruction']}"
        )
    for language, figures in content["figures"].items():
        parts = [
            f"{name} {value:.0%}"
            for name in ("lifted", "placed", "still", "right")
            if (value := figures[name]) is not None
        ]
        lines.append(f"{language}: {figures['episodes']} episodes; {', '.join(parts)}")
    if content["latency"]:
        latency = content["latency"]
        lines.append(
            f"image to objects: p50 {latency['p50_ms']} ms, p99 {latency['p99_ms']} ms,"
            " while acting"
        )
    return lines
