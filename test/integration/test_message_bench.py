"""The bench from message to message: its rows, its report, and one row over real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from bench import message_to_message as bench
from siglip_perception.errors import PerceptionError

check_schema = fastjsonschema.compile(
    json.loads((bench.NODES / "message_to_message.schema.json").read_text())
)


def figures(answered: int) -> dict[str, Any]:
    row = {"frames": 2, "hz": 10.0, "load_before": 0.25}
    return {**row, **bench.summary([float(ms) for ms in range(1, answered + 1)], 2000)}


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    summary = bench.summary([float(ms) for ms in range(2000, 0, -1)], 2005)
    assert summary == {
        "sent": 2005,
        "answered": 2000,
        "p50_ms": 1000.0,
        "p99_ms": 1980.0,
        "p99_9_ms": 1998.0,
        "max_ms": 2000.0,
    }
    assert bench.summary([7.0], 1)["p99_9_ms"] == 7.0
    assert bench.summary([], 3)["p50_ms"] is None


def test_each_condition_is_measured_beside_the_first_row() -> None:
    rows = bench.settings(everything=False)
    assert rows[0] == bench.Setting()
    for field, values in bench.CHOICES.items():
        assert {getattr(row, field) for row in rows} >= set(values)
    assert len(set(rows)) == len(rows) < len(bench.settings(everything=True))


def test_a_report_is_valid_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = bench.Report(path, "tabletop")
    first, second = bench.settings(everything=False)[:2]
    report.add(first, figures(2000))
    report.add(second, figures(0))
    report.leave_out(second, "rmw_zenoh_cpp is not installed.")
    check_schema(json.loads(path.read_text()))
    again = bench.Report(path, "tabletop")
    assert again.has(first, 2)
    assert not again.has(first, 3)
    again.add(first, figures(1000))
    assert [row["answered"] for row in again.content["rows"]] == [0, 1000]
    text = bench.table(again.content)
    assert (
        "| siglip_perception | fastdds tuned | 480p raw | 1 | idle | both | 2000 | 500.0" in text
    )
    with pytest.raises(PerceptionError, match="of another machine or model"):
        bench.Report(path, "other")
    path.write_text("{}")
    with pytest.raises(PerceptionError, match="is no report of message_to_message"):
        bench.Report(path, "tabletop")


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["siglip_perception", "straightforward node"])
def test_a_row_over_real_processes(subject: str) -> None:
    setting = bench.Setting(subject=subject, transport="jpeg", cameras=3)
    row = {"frames": 2, "hz": 1.0, "load_before": 0.0, **bench.measure(setting, "tabletop", 2, 1)}
    report = bench.Report(None, "tabletop")
    report.add(setting, row)
    check_schema(report.content)
    assert row["sent"] == 6
    assert 0 < row["answered"] <= 6
    assert 0 < row["p50_ms"] <= row["max_ms"]
