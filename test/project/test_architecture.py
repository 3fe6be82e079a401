"""The pages for contributors name what exists: rooms, files, commands and pinned tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "siglip_perception"
IMPORT = re.compile(rf"^ *from ({PACKAGE.name}[\w.]*) import (\([^)]*\)|[\w, ]+)", re.MULTILINE)
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# What people ask where to change; the table has an answer to each.
QUESTIONS = (
    *("a score", "a tap", "a topic", "a parameter", "an encoding", "a verb"),
    *("a policy's contract", "a backend"),
)


def layers() -> list[str]:
    """Rooms of import-linter's contract, the highest first; siblings joined by " | "."""
    # tomllib is not in Python 3.10.
    text = (ROOT / "pyproject.toml").read_text()
    lines = re.search(r"^layers = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert lines is not None
    return re.findall(r'"(.+)"', lines[1])


def table() -> dict[str, list[str]]:
    """Question -> paths in its answer."""
    rows = re.findall(r"^\| (an? .+) \| (.+) \|$", PAGE, re.MULTILINE)
    return {question: re.findall(r"`([^`]+/[^`]*)`", answer) for question, answer in rows}


def test_the_picture_has_the_rooms_that_the_linter_holds_apart() -> None:
    boxes = re.findall(r'^    L\d+\["(.+?)(?:<br/>.*)?"\]$', PAGE, re.MULTILINE)
    assert [box.replace(" · ", " | ") for box in boxes] == layers()
    assert " --> ".join(f"L{i}" for i in range(len(boxes))) in PAGE


def test_each_room_is_a_module_or_a_package() -> None:
    for layer in layers():
        for room in layer.split(" | "):
            path = ROOT / "siglip_perception" / room
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), room


def imported_folders(file: Path) -> Iterator[Path]:
    """Folders of the package's modules that a file imports, inside of functions, too."""
    for source, names in IMPORT.findall(file.read_text()):
        for name in re.findall(r"\w+", names):
            path = ROOT.joinpath(*f"{source}.{name}".split("."))
            is_module = path.is_dir() or path.with_suffix(".py").is_file()
            path = path if is_module else path.parent
            yield path if path.is_dir() else path.parent


def test_no_two_folders_import_each_other() -> None:
    arrows = {
        (file.parent, folder)
        for file in PACKAGE.rglob("*.py")
        for folder in imported_folders(file)
        if PACKAGE not in (file.parent, folder) and folder != file.parent
    }
    assert (PACKAGE / "scenes/rendered", PACKAGE / "scenes") in arrows
    assert not [arrow for arrow in arrows if arrow[::-1] in arrows]


@pytest.mark.parametrize("question", QUESTIONS)
def test_where_do_i_change_it_has_an_answer(question: str) -> None:
    assert any(re.match(rf"{re.escape(question)}\b", row) for row in table())


@pytest.mark.parametrize(("question", "paths"), table().items())
def test_each_answer_is_one_place_that_exists(question: str, paths: list[str]) -> None:
    assert paths, question
    for path in paths:
        assert (ROOT / path).exists(), path
    # A folder and an example in it are one place.
    assert len({Path(path).parts[:3] for path in paths if not path.endswith("/")}) == 1


def test_the_hooks_run_the_ruff_that_the_linter_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    revisions = {repo["repo"].rpartition("/")[2]: repo["rev"] for repo in hooks["repos"]}
    pin = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert revisions["ruff-pre-commit"] == f"v{pin[1]}"


def test_the_workflow_runs_what_there_is() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    makefile = (ROOT / "Makefile").read_text()
    assert commands
    for command in commands:
        word, *rest = command.split()
        if word == "make":
            assert re.search(rf"^{rest[0]}:", makefile, re.MULTILINE), command
        else:
            assert (ROOT / word).is_file(), command


def test_a_vulnerability_reaches_the_maintainer() -> None:
    address = re.search(r'maintainer_email="(.+)"', (ROOT / "setup.py").read_text())
    assert address is not None
    for page in ("SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"):
        assert address[1] in (ROOT / page).read_text()


def test_every_issue_template_is_a_form() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {form.stem for form in forms} == {"bug", "checkpoint", "config", "feature"}
    for form in forms:
        content = yaml.safe_load(form.read_text())
        if form.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(content)
        ids = [item["id"] for item in content["body"]]
        assert len(set(ids)) == len(ids) > 0
