"""colcon builds and installs both packages, and what it installed runs from there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
from watching import isolated, running, watching

import siglip_perception

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "siglip_perception"
PROGRAMS = ("perception_node", "example_policy", "siglip-perception")


@dataclass(frozen=True)
class Installed:
    """An install space of colcon; commands run with its setup.bash sourced."""

    base: Path
    environment: dict[str, str]

    @property
    def prefix(self) -> Path:
        return self.base / PACKAGE

    @property
    def package(self) -> Path:
        return next(self.prefix.glob(f"lib/python3*/site-packages/{PACKAGE}"))

    def command(self, *words: str) -> list[str]:
        shell_command = f'source {self.base}/setup.bash && exec "$@"'
        return ["bash", "-c", shell_command, "bash", *words]

    def program(self, name: str) -> str:
        return str(self.prefix / "lib" / PACKAGE / name)

    def run(self, *words: str) -> str:
        process = subprocess.run(
            self.command(*words),
            env=self.environment,
            cwd=self.base,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("colcon")
    environment = isolated(folder)
    environment["PATH"] = f"{Path(sys.prefix, 'bin')}{os.pathsep}{environment['PATH']}"
    environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    environment.setdefault("CMAKE_PREFIX_PATH", environment["AMENT_PREFIX_PATH"])
    colcon = shutil.which("colcon", path=environment["PATH"])
    assert colcon is not None, "colcon is missing: run `make env`, or install it with your ROS 2"
    command = [colcon, f"--log-base={folder}/log", "build"]
    command += ["--base-paths", str(ROOT), str(ROOT / "siglip_perception_msgs")]
    command += ["--build-base", str(folder / "build"), "--install-base", str(folder / "install")]
    command += ["--cmake-args", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}"]
    command += [f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'wheelfix.cmake'}"]
    process = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return Installed(folder / "install", environment)


def test_both_packages_are_in_the_index(installed: Installed) -> None:
    result = installed.run(
        sys.executable,
        "-c",
        "from ament_index_python import get_package_share_directory as share;"
        f"print(share('{PACKAGE}')); print(share('{PACKAGE}_msgs'))",
    )
    expected = [installed.prefix / "share" / PACKAGE]
    expected.append(installed.base / f"{PACKAGE}_msgs" / "share" / f"{PACKAGE}_msgs")
    assert [Path(line) for line in result.split()] == expected


@pytest.mark.parametrize(
    "path",
    [
        "package.xml",
        "launch/perception.launch.py",
        "config/siglip_perception.yaml",
        "config/fastdds.xml",
    ],
)
def test_shared_files_are_installed(installed: Installed, path: str) -> None:
    copy = installed.prefix / "share" / PACKAGE / path
    assert copy.read_bytes() == (ROOT / path).read_bytes()


def test_the_package_is_installed_whole(installed: Installed) -> None:
    def tree(folder: Path) -> set[str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)) for p in files if "__pycache__" not in p.parts}

    source = ROOT / PACKAGE
    assert tree(installed.package) == tree(source)
    assert "models/tabletop/manifest.json" in tree(source)


def test_only_the_package_is_installed(installed: Installed) -> None:
    beside = {path.name for path in installed.package.parent.iterdir()}
    assert {name for name in beside if not name.endswith("-info")} == {PACKAGE}


def test_programs_run_from_the_install_space(installed: Installed) -> None:
    for name in PROGRAMS:
        assert os.access(installed.program(name), os.X_OK)
    assert "usage: siglip-perception" in installed.run(
        installed.program("siglip-perception"), "--help"
    )
    module = installed.run(
        sys.executable, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"
    ).strip()
    assert Path(module) == installed.package / "__init__.py"


def test_what_colcon_installed_says_what_it_needs(installed: Installed) -> None:
    """Versions are read where it is installed, and told with what is missing."""
    output = installed.run(
        sys.executable,
        "-c",
        "import importlib.metadata; from siglip_perception.util import requirements;"
        "print(importlib.metadata.distribution('siglip_perception').locate_file(''));"
        "print(requirements.install_command('torch'));"
        " print(requirements.install_command('peft'))",
    ).splitlines()
    assert Path(output[0]) == installed.package.parent
    assert output[1:] == [
        "pip install 'torch>=2.6'",
        "pip install 'peft>=0.17', or in a clone pip install '.[train]'",
    ]


def test_the_installed_node_becomes_active(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = installed.environment
    command = installed.command(installed.program("perception_node"))
    with (
        watching(environment, monkeypatch) as watcher,
        running(command, environment, installed.base) as process,
    ):
        watcher.wait_for("active")
        assert process.interrupt() == 0


def test_one_version_everywhere() -> None:
    versions = {
        ET.parse(ROOT / folder / "package.xml").findtext("version")
        for folder in (".", f"{PACKAGE}_msgs")
    }
    assert versions == {siglip_perception.__version__}
    changes = (ROOT / "CHANGELOG.rst").read_text()
    newest = re.search(r"^(\d+\.\d+\.\d+)\b", changes, re.M)
    assert newest is not None
    assert newest[1] == siglip_perception.__version__


def test_the_messages_for_bags_are_the_built_ones() -> None:
    copies = {path.name: path.read_text() for path in (ROOT / PACKAGE / "messages").glob("*.msg")}
    message_files = (ROOT / f"{PACKAGE}_msgs" / "msg").glob("*.msg")
    assert copies == {path.name: path.read_text() for path in message_files}
