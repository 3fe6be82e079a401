"""What a part of `make gpu` saw, as its file and the report have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that has to be so. seen: what was measured, in words, with the limit."""

    name: str
    right: bool
    seen: str


@dataclass(frozen=True)
class Timing:
    """How long a candidate took, in milliseconds from call to result.

    ratio: how many times as fast as the baseline of its size and batch, from passes in turn.
    """

    size: str
    batch: int
    candidate: str
    p50_ms: float
    p99_ms: float
    ratio: float
    passes: int


@dataclass(frozen=True)
class Findings:
    """All that a part saw. facts: what it ran on, and figures without a limit."""

    checks: tuple[Check, ...] = ()
    timings: tuple[Timing, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Findings:
        return cls(
            tuple(Check(**entry) for entry in content["checks"]),
            tuple(Timing(**entry) for entry in content["timings"]),
            dict(content["facts"]),
        )


def check_table(checks: Iterable[Check]) -> list[str]:
    """Markdown lines."""
    lines = ["| check | | seen |", "|---|---|---|"]
    for check in checks:
        verdict = "right" if check.right else "**WRONG**"
        lines.append(f"| {check.name} | {verdict} | {check.seen} |")
    return lines


def timing_table(timings: Iterable[Timing]) -> list[str]:
    """Markdown lines."""
    lines = [
        "| size | cameras | candidate | p50 ms | p99 ms | x transformers eager bf16 | passes |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for timing in timings:
        lines.append(
            f"| {timing.size} | {timing.batch} | {timing.candidate} | {timing.p50_ms:.2f}"
            f" | {timing.p99_ms:.2f} | {timing.ratio:.1f} | {timing.passes} |"
        )
    return lines
