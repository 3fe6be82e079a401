"""Results of a run, and how one that was broken off goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from siglip_perception.errors import PerceptionError
from siglip_perception.robot.episodes import sample_episode
from siglip_perception.robot.results import (
    Outcome,
    Plan,
    lost_outcome,
    read_results,
    report,
    table,
    write_results,
)

PLAN = Plan(1, "tabletop", "node")
RIGHT = Outcome(
    number=0,
    instruction="put the red cup on the plate",
    language="en",
    twist="none",
    expected="act",
    found=True,
    lifted=True,
    placed=True,
    lifted_other=False,
    disturbed=False,
    thrown=False,
    waited=None,
    lost=False,
    lost_by="",
    seconds=6.0,
)
LOST = lost_outcome(sample_episode(1, 1), "simulator")


def test_a_lost_episode_is_counted_as_lost_and_in_no_share() -> None:
    wrong = replace(RIGHT, number=2, lifted=False, placed=False)
    content = report(PLAN, [RIGHT, LOST, wrong], [10.0, 20.0, 30.0])
    figures = content["cases"]["none"]
    assert (figures["episodes"], figures["lost"]) == (3, 1)
    assert (figures["lifted"], figures["right"]) == (0.5, 0.5)
    assert content["figures"]["ko"]["right"] is None
    assert content["episodes"][1]["lost_by"] == "simulator"
    assert content["latency"] == {"p50_ms": 20.0, "p99_ms": 29.8, "frames": 3}
    lines = table(content)
    assert "lost (simulator)" in lines[2]
    assert "p50 20.0 ms" in lines[-1]


def test_what_was_written_is_gone_on_with(tmp_path: Path) -> None:
    assert read_results(tmp_path, PLAN) == ([], [])
    write_results(tmp_path, PLAN, [RIGHT, LOST], [12.5])
    assert read_results(tmp_path, PLAN) == ([RIGHT, LOST], [12.5])


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (replace(PLAN, seed=2), "seed 1, not 2"),
        (replace(PLAN, perception="truth"), "perception node, not truth"),
        (replace(PLAN, orders=("x",)), "orders of its own, not x"),
        (replace(PLAN, threshold=0.2), "threshold of its own, not 0.2"),
    ],
)
def test_a_run_of_something_else_is_not_gone_on_with(
    tmp_path: Path, plan: Plan, words: str
) -> None:
    write_results(tmp_path, PLAN, [RIGHT], [])
    with pytest.raises(PerceptionError, match=words):
        read_results(tmp_path, plan)


@pytest.mark.parametrize("text", ["", "[]", '{"episodes": [{}], "run": {}}', "{"])
def test_results_that_cannot_be_read_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(PerceptionError, match="without --resume the run begins anew"):
        read_results(tmp_path, PLAN)
