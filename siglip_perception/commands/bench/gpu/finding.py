"""Findings of a part of `make gpu`, as in its file and in the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """A requirement and its result. measurement: in words, with the limit."""

    name: str
    is_correct: bool
    measurement: str


@dataclass(frozen=True)
class Timing:
    """Time of a candidate's pass, in milliseconds from call to result.

    ratio: speed relative to the baseline of its size and batch, from alternating passes.
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
    """Results of a part. facts: the hardware, and figures without a limit."""

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
    """Return the checks as lines of a Markdown table."""
    lines = ["| check | | measured |", "|---|---|---|"]
    for check in checks:
        verdict = "right" if check.is_correct else "**WRONG**"
        lines.append(f"| {check.name} | {verdict} | {check.measurement} |")
    return lines


def timing_table(timings: Iterable[Timing]) -> list[str]:
    """Return the timings as lines of a Markdown table."""
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
