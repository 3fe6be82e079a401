"""`make gpu REHEARSE=1`: every part on the CPU, at a small size; and what is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from siglip_perception.commands.bench.gpu import __main__ as gpu
from siglip_perception.commands.bench.gpu import parts
from siglip_perception.commands.bench.gpu.finding import Check, Findings, Timing

FINDINGS = Findings(
    (Check("a check", True, "0, limit 1"),),
    (Timing("base", 1, "ours", 1.25, 2.0, 9.0, 200),),
    {"gpu": "a GPU"},
)


@pytest.mark.slow
@pytest.mark.numeric
@pytest.mark.parametrize("name", parts.PARTS)
def test_each_part_goes_through_on_a_cpu(tmp_path: Path, name: str) -> None:
    findings = parts._RUN[name](parts.Bench(True, tmp_path))
    assert all(check.is_correct for check in findings.checks), findings.checks
    assert findings.checks or findings.timings or findings.facts
    assert Findings.from_json(json.loads(json.dumps(findings.as_json()))) == findings


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", "-o", str(folder), *arguments])
    return gpu.main()


def test_a_part_that_ran_is_kept_and_one_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run_part(name: str, folder: Path, rehearse: bool) -> str:
        ran.append(name)
        if name == "blocks":
            return "ended with exit code 1: no memory"
        (folder / f"{name}.json").write_text(json.dumps(FINDINGS.as_json()))
        return ""

    monkeypatch.setattr(gpu, "run_part", run_part)
    assert run(monkeypatch, tmp_path) == 1
    assert ran == list(parts.PARTS)
    assert run(monkeypatch, tmp_path) == 1
    assert ran[len(parts.PARTS) :] == ["blocks"]
    assert run(monkeypatch, tmp_path, "--part", "pixels") == 0
    assert "Part blocks failed: it ended with exit code 1: no memory" in capsys.readouterr().out


def test_the_report_names_the_hardware_and_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Findings((Check("pixels", False, "3, limit 0"),))
    for name in parts.PARTS:
        findings = wrong if name == "pixels" else FINDINGS
        (tmp_path / f"{name}.json").write_text(json.dumps(findings.as_json()))
    assert run(monkeypatch, tmp_path) == 1
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("gpu: a GPU\n")
    assert "| base | 1 | ours | 1.25 | 2.00 | 9.0 | 200 |" in report
    assert "| pixels | **WRONG** | 3, limit 0 |" in report
    assert json.loads((tmp_path / "report.json").read_text())["failures"] == {}


@pytest.mark.slow
def test_a_part_whose_process_fails_is_told(tmp_path: Path) -> None:
    assert gpu.run_part("no such part", tmp_path, rehearse=True).startswith("ended with exit")
