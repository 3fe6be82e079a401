"""Installation: packages of each distribution, the README's pip commands, and the sdist."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# Only pip has it: rosdep has no key, or apt's package numbers its versions otherwise.
PIP = ""
# rosdep's key of each requirement; None: rosbags or transformers asks for it itself.
KEYS = {
    "backports-zstd": None,
    "huggingface-hub": None,
    "lz4": None,
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "packaging": "python3-packaging",
    "pillow": "python3-pil",
    "protobuf": PIP,
    "pyyaml": "python3-yaml",
    "rosbags": "python3-rosbags-pip",
    "safetensors": None,
    "sentencepiece": PIP,
    "setuptools": "python3-setuptools",
    "simplejpeg": "python3-simplejpeg-pip",
    "tokenizers": None,
    "torch": "python3-torch",
    "tqdm": "python3-tqdm",
    "transformers": "python3-transformers-pip",
}
CPU = "--index-url https://download.pytorch.org/whl/cpu"


@cache
def table() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_name("distributions.yaml").read_text()
    )
    return content


@cache
def setup_arguments() -> dict[str, Any]:
    """Return the arguments that setup.py passes to setuptools."""
    arguments: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", arguments.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return arguments


def needs() -> list[Requirement]:
    return list(map(Requirement, setup_arguments()["install_requires"]))


def keys(distribution: str) -> set[str]:
    """List package.xml's rosdep keys for a ROS 2 distribution."""
    package = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg comes with ROS 2")
    manifest = package.parse_package(str(ROOT / "package.xml"))
    manifest.evaluate_conditions({"ROS_DISTRO": distribution})
    depends = [*manifest.exec_depends, *manifest.test_depends]
    return {item.name for item in depends if item.evaluated_condition}


def apt_version(key: str, system: str) -> str | None:
    """Return apt's version for a key, "0" for any, None if rosdep cannot install it."""
    if key in table()["any"]:
        return "0"
    version = table()["apt"].get(key, {}).get(system)
    return None if version is None else str(version)


def pip_lines(system: str) -> list[str]:
    """Make the README's pip commands for a system."""
    from_pip = []
    for item in needs():
        key = KEYS[item.name]
        if key is None:
            continue
        has = apt_version(key, system)
        if has is None or not (has == "0" or item.specifier.contains(Version(has))):
            from_pip.append(item)
    numpy = [item for item in from_pip if item.name == "numpy"]
    if Version(table()["apt"]["python3-numpy"][system]) < Version("2"):
        # cv_bridge's compiled part is built with it.
        from_pip = [item for item in from_pip if item not in numpy]
        bound = ">=" + str(numpy[0].specifier).removeprefix(">=") + "," if numpy else ""
        from_pip.append(Requirement(f"numpy{bound}<2"))
    lines = []
    if Version(table()["systems"][system]["python"]) >= Version("3.11"):
        lines.append("export PIP_BREAK_SYSTEM_PACKAGES=1")
    if any(item.name == "torch" for item in from_pip):
        lines.append(f"pip install 'torch>=2.6' {CPU}")
    rest = sorted(_text(item) for item in from_pip if item.name != "torch")
    lines.append("pip install " + " ".join(f"'{text}'" for text in rest))
    return lines


def _text(item: Requirement) -> str:
    return item.name + ",".join(sorted(str(item.specifier).split(","), reverse=True))


def test_every_requirement_has_a_key_of_rosdep() -> None:
    assert {item.name for item in needs()} == set(KEYS)
    # On any: the newest distribution, whose package.xml has all of them.
    assert {key for key in KEYS.values() if key} <= keys("lyrical")


@pytest.mark.parametrize("system", list(table()["systems"]))
def test_rosdep_finds_every_key_on_every_system(system: str) -> None:
    """No key installs an unusable version, such as PyTorch 1.8 of Ubuntu 22.04."""
    for distribution in table()["systems"][system]["ros"]:
        elsewhere = {*table()["ros"], *table()["pip"], "siglip_perception_msgs"}
        for key in keys(distribution) - elsewhere:
            assert apt_version(key, system) is not None, f"{key} on {system}"
        torch = apt_version("python3-torch", system)
        usable = torch is not None and Version(torch) >= Version("2.6")
        assert ("python3-torch" in keys(distribution)) == usable


@pytest.mark.parametrize("system", list(table()["systems"]))
def test_the_readme_has_the_lines_of_every_system(system: str) -> None:
    facts = table()["systems"][system]
    names = " and ".join(name.capitalize() for name in facts["ros"])
    block = "\n".join(f"    {line}" for line in pip_lines(system))
    assert f"{facts['name']}, {names}:\n\n{block}\n" in README


def test_the_readmes_rosdep_and_colcon_lines_name_both_packages() -> None:
    paths = "src src/siglip_perception/siglip_perception_msgs"
    assert f"rosdep install --from-paths {paths} --ignore-src -y\n" in README
    assert f"colcon build --base-paths {paths}\n" in README


def test_the_extras_are_those_of_setup_py() -> None:
    """Each row of the README's table names modules of its extra."""
    rows = re.findall(r"^\| (.+) \| (.+) \| `pip install '\.\[([\w-]+)\]'` \|$", README, re.M)
    extras = setup_arguments()["extras_require"]
    developers = {"test", "docs", "open-clip", "colcon", "ros", "timm"}
    assert {extra for _, _, extra in rows} == set(extras) - developers
    for _, modules, extra in rows:
        names = {Requirement(text).name for text in extras[extra]}
        assert set(re.findall(r"`([\w-]+)`", modules)) <= names, extra


def test_nobody_is_sent_to_pypi_for_this_package() -> None:
    """The package is not on PyPI: extras are installed from a clone."""
    for folder in ("siglip_perception", "docs", "examples", "README.md", "CONTRIBUTING.md"):
        path = ROOT / folder
        files = [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.md")]
        for file in files:
            assert "siglip_perception[" not in file.read_text(), file


def test_an_old_python_is_refused_in_a_sentence() -> None:
    """colcon ignores python_requires."""
    code = "import sys, runpy; sys.version_info = (3, 9, 18); runpy.run_path('setup.py')"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert process.stderr.startswith(
        "siglip_perception needs Python 3.10 or newer, and this is 3.9:"
    )
    assert process.stderr.count("\n") == 1


def test_the_source_distribution_has_all_that_the_repository_has(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone, so there is nothing to compare with")
    tracked_files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    notes = tmp_path / "siglip_perception.egg-info"
    sources = {line for line in (notes / "SOURCES.txt").read_text().splitlines() if line}
    sources = {line for line in sources if notes.name not in line}
    assert sources == set(filter(None, tracked_files.stdout.split("\0")))


def test_the_message_package_is_found_by_rosdep_on_every_system() -> None:
    depends = {
        item.text
        for item in ET.parse(ROOT / "siglip_perception_msgs" / "package.xml").iter()
        if "depend" in item.tag
    }
    rosidl = {"ament_cmake", "rosidl_default_generators", "rosidl_default_runtime"}
    assert depends <= rosidl | set(table()["ros"])
