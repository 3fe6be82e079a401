"""Parameter files: the nodes that their sections are for, and the error for a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from siglip_perception.config import BY_NAME
from siglip_perception.node.parameter_files import (
    Section,
    parameter_files,
    read_sections,
    remarks,
    suggestion,
)
from siglip_perception.parameter import ConfigError

NODE = "/robot/siglip_perception"


@pytest.mark.parametrize(
    ("nodes", "applies"),
    [
        ("/**", True),
        ("**", True),
        ("/robot/siglip_perception", True),
        ("robot/siglip_perception", True),
        ("/robot/*", True),
        ("/*/siglip_perception", True),
        ("/**/siglip_perception", True),
        ("/robot/**", True),
        ("/robot/siglip_perception/**", True),
        ("siglip_perception", False),
        ("/*", False),
        ("/robot", False),
        ("/robot/siglip.perception", False),
    ],
)
def test_a_section_is_for_the_nodes_that_ros_gives_it_to(nodes: str, applies: bool) -> None:
    assert Section(nodes, ()).applies_to(NODE) == applies


def test_sections_of_every_layout(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "/**:\n  ros__parameters: {threshold: 0.5, depth: {enabled: true}, phrases: []}\n"
        "robot:\n  siglip_perception:\n    ros__parameters: {tracking.enabled: true}\n"
        "empty:\n"
    )
    assert read_sections(path) == [
        Section("/**", ("threshold", "depth.enabled", "phrases")),
        Section("/robot/siglip_perception", ("tracking.enabled",)),
    ]
    path.write_text("")
    assert read_sections(path) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/**:\n  ros_parameters:\n    a: 1\n", "'ros_parameters': write `ros__parameters:`"),
        ("/**:\n  ros__parameters:\n    model:\n", 'gives model no value: write model: ""'),
        ("/**:\n  ros__parameters:\n    cameras: [a, 1]\n", r"cameras a list of several types"),
        ("/**:\n  ros__parameters:\n    - a\n", "has no `name: value` below ros__parameters"),
        ("threshold: 0.5\n", "has 'threshold' where a node's name"),
        ("- a\n", "has no node's name at its top"),
        ("/**: [\n", "is not YAML at line 2"),
        ("/**:\n\tros__parameters:\n", "is not YAML at line 2"),
    ],
)
def test_what_ros_cannot_read_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as excinfo:
        read_sections(path)
    assert str(path) in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_sections(tmp_path / "nope.yaml")
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_sections(tmp_path / "p.yaml")


def test_only_ros_arguments_count() -> None:
    words = ["node", "--params-file", "a", "--ros-args", "-r", "x:=y", "--params-file", "b"]
    words += ["--", "--params-file", "c", "--ros-args", "--params-file", "d", "--params-file"]
    assert parameter_files(words) == [Path("b"), Path("d")]


def test_what_a_node_gets_and_what_it_does_not(tmp_path: Path) -> None:
    for_node, for_other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    for_node.write_text(
        "/**:\n  ros__parameters: {threshold: 0.5}\nx:\n  ros__parameters: {a: 1}\n"
    )
    for_other.write_text("siglip_perception:\n  ros__parameters: {threshold: 0.5}\n")
    words = ["node", "--ros-args"]
    words += ["--params-file", str(for_node), "--params-file", str(for_other)]
    words += ["-p", "threshold:=0.5", "-p", "siglip_perception:threshold:=0.5"]
    arguments, warnings = remarks(words, NODE)
    assert arguments == [f"parameters from {for_node}: /** (1); not for this node: /x"]
    first, second = warnings
    assert (
        f"{for_other} has nothing for this node, {NODE}: it has parameters for /siglip_perc"
        in first
    )
    assert f"write `/**:` or `{NODE}:`" in first
    assert "is for a node siglip_perception, and this one is /robot/siglip_perception" in second


@pytest.mark.parametrize(
    ("name", "neighbor"),
    [
        ("treshold", "threshold"),
        ("depth_enabled", "depth.enabled"),
        ("camera", "cameras"),
        ("maxObjects", "max_objects"),
    ],
)
def test_a_mistyped_name_is_told_what_it_is_like(name: str, neighbor: str) -> None:
    assert suggestion(name, BY_NAME) == f"; did you mean {neighbor}?"
    assert suggestion("zzzzzz", BY_NAME) == ""
