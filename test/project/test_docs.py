"""The documents: every command in them is one that this package has, and every link leads on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from siglip_perception.commands.main import COMMANDS, command_parser
from siglip_perception.config import launch_arguments
from siglip_perception.errors import PerceptionError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOPICS = {
    *("image", "instruction", "depth", "camera_info", "params_file", "namespace"),
    *("use_sim_time", "autostart", "log_level"),
}
# What driver packages' own launch files take.
FOREIGN = ("realsense2_camera", "zed_wrapper")


def commands(page: Path, program: str) -> Iterator[str]:
    """Commands of a program in a page: in blocks, a continued line whole, and in backticks."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(rf"^(?: {{4}}|\$ |)({program} .*)$", text, re.M)
    inline = re.findall(rf"`((?:\S+/)?{program} [^`]*)`", text.replace("\n", " "))
    for command in (*blocks, *inline):
        # "..." and words in capitals stand for something else.
        if not re.search(r"\.\.\.| --help| [A-Z]{2,}\b", command):
            yield command[command.index(program) :]


def cases(program: str) -> list[tuple[str, str]]:
    return [(page.name, command) for page in PAGES for command in commands(page, program)]


@pytest.mark.parametrize(("page", "command"), cases("siglip-perception"))
def test_a_command_of_the_documents_is_understood(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)[1:]
    for shell in ("|", ">"):
        words = words[: words.index(shell)] if shell in words else words
    if len(words) == 1:  # it is only spoken of
        assert words[0] in COMMANDS
        return
    name = next((word for word in words if not word.startswith("-")), "")
    with suppress(PerceptionError):  # the files that it names are the reader's
        command_parser(name).parse_args(words)


@pytest.mark.parametrize(("page", "command"), cases("ros2 launch"))
def test_a_launch_call_names_arguments_that_there_are(page: str, command: str) -> None:
    _, _, package, file, *arguments = shlex.split(command, comments=True)
    if package in FOREIGN:
        return
    assert package == "siglip_perception"
    assert (ROOT / "launch" / file).is_file()
    names = {argument.partition(":=")[0] for argument in arguments if ":=" in argument}
    assert names <= TOPICS | set(launch_arguments())


@pytest.mark.parametrize(("page", "command"), cases("make"))
def test_a_target_of_make_is_there(page: str, command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = shlex.split(command, comments=True)[1:]
    target = next((word for word in words if re.fullmatch("[a-z0-9-]+", word)), "")
    if target:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


def test_every_document_has_a_place_on_the_site() -> None:
    loader = yaml.SafeLoader
    text = re.sub("!!python/name:", "", (ROOT / "mkdocs.yml").read_text())
    site = yaml.load(text, loader)
    listed = set(re.findall(r"[\w-]+\.md", str(site["nav"])))
    left_out = set(re.findall(r"[\w-]+\.md", site["not_in_nav"]))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == listed | left_out


def test_what_a_reader_sees_in_troubleshooting_is_what_the_program_says() -> None:
    sources = [
        path.read_text()
        for path in (ROOT / "siglip_perception").rglob("*.py")
        if "contrastive" not in path.parts
    ]
    # As it reads once literals on several lines are joined.
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    seen = re.findall(r"^\| (?!you see)(.+?) \| ", page, re.M)
    sentences = [span for cell in seen for span in re.findall("`([^`]+)`", cell) if " " in span]
    assert len(sentences) >= 8
    for sentence in sentences:
        # What differs from case to case: numbers, topics, names in capitals or dots.
        parts = re.split(r"[\d.]+ s|\d[\d.]*|/[\w/]+|[A-Z]{4,}|\.\.\.", sentence)
        longest = max(parts, key=len).strip(" ():,")
        assert len(longest) > 8
        assert longest in code, longest
