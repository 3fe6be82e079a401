"""Run the missing parts, each in its own process, and write the report."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from siglip_perception.commands.bench.gpu.finding import Findings, check_table, timing_table
from siglip_perception.commands.bench.gpu.parts import PARTS, WEIGHTS
from siglip_perception.util.files import write_atomically

# Time limit of one part: a part that hangs must not keep the others from running.
_LIMIT_S = 240.0


def run_part(name: str, folder: Path, rehearse: bool) -> str:
    """Run one part in its own process; return why it failed, empty if it did not."""
    command = [
        sys.executable,
        "-m",
        "siglip_perception.commands.bench.gpu.parts",
        name,
        str(folder),
    ]
    command += ["--rehearse"] if rehearse else []
    log = folder / f"{name}.log"
    with log.open("w") as sink:
        try:
            process = subprocess.run(command, stdout=sink, stderr=sink, timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"did not end in {_LIMIT_S:.0f} s; see {log}"
    if process.returncode == 0:
        return ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"ended with exit code {process.returncode}: {lines[-1] if lines else 'no word'}"


def report(findings: dict[str, Findings], failures: dict[str, str]) -> str:
    """Return the parts' findings as one page of Markdown."""
    facts = {key: value for part in findings.values() for key, value in part.facts.items()}
    lines = ["; ".join(f"{key}: {value}" for key, value in facts.items()), ""]
    checks = [check for part in findings.values() for check in part.checks]
    timings = [timing for part in findings.values() for timing in part.timings]
    if timings:
        lines += [*timing_table(timings), ""]
    if checks:
        lines += [*check_table(checks), ""]
    lines += [f"Part {name} failed: it {reason}" for name, reason in failures.items()]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Run the parts; return 0 if all of them ran and all checks passed."""
    parser = argparse.ArgumentParser(prog="make gpu", description="Prove the CUDA path here.")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/gpu"), metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at a small size")
    parser.add_argument("--again", action="store_true", help="run again parts that have run, too")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these")
    args = parser.parse_args()
    folder: Path = args.output / "rehearsal" if args.rehearse else args.output
    folder.mkdir(parents=True, exist_ok=True)
    findings: dict[str, Findings] = {}
    failures: dict[str, str] = {}
    for name in args.part or PARTS:
        result = folder / f"{name}.json"
        if args.again:
            result.unlink(missing_ok=True)
        start = time.monotonic()
        failure = "" if result.is_file() else run_part(name, folder, args.rehearse)
        if failure:
            failures[name] = failure
        else:
            findings[name] = Findings.from_json(json.loads(result.read_text()))
        print(f"{name}: {failure or 'done'} ({time.monotonic() - start:.0f} s)", flush=True)
    shutil.rmtree(folder / WEIGHTS, ignore_errors=True)
    text = report(findings, failures)
    write_atomically(folder / "report.md", text.encode())
    content = {name: part.as_json() for name, part in findings.items()} | {"failures": failures}
    write_atomically(folder / "report.json", (json.dumps(content, indent=2) + "\n").encode())
    print(text)
    failed_checks = [
        check.name for part in findings.values() for check in part.checks if not check.is_correct
    ]
    return 1 if failed_checks or failures else 0


if __name__ == "__main__":
    sys.exit(main())
