"""Parameter files in a process' ROS arguments, and the nodes that their sections are for.

ROS silently ignores a section for another node and a parameter that a node does not have.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from siglip_perception.parameter import ConfigError, format_value
from siglip_perception.util import bounded_yaml
from siglip_perception.util.files import read_regular

_KEY = "ros__parameters"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Section:
    """Parameters that a file sets for some nodes.

    nodes: a node's name or a pattern, with the namespace: "/siglip_perception", "/**". names: the
    parameters' names, parts joined with dots.
    """

    nodes: str
    names: tuple[str, ...]

    def applies_to(self, node: str) -> bool:
        """Return True if the section is for this node, named with its namespace.

        `*` matches one name, `**` any number of names.
        """
        pattern = ""
        for part in self.nodes.strip("/").split("/"):
            pattern += {"**": "(/[^/]+)*", "*": "/[^/]+"}.get(part, f"/{re.escape(part)}")
        return re.fullmatch(pattern, node) is not None


def parameter_files(arguments: Sequence[str]) -> list[Path]:
    """Return the --params-file files among a process' ROS arguments, in order."""
    return [Path(value) for option, value in _ros_options(arguments) if option == "--params-file"]


def read_sections(path: Path) -> list[Section]:
    """Return the sections of a parameter file, in order.

    Raises ConfigError, one sentence with the file and the place, if ROS could not read it.
    """
    try:
        document = bounded_yaml.load(read_regular(path, _MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The parameter file {path} cannot be read ({error.strerror})."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The parameter file {path} is not UTF-8 text.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(
            f"The parameter file {path} is not YAML{line}"
            f" ({getattr(error, 'problem', None) or 'it cannot be parsed'})."
        ) from error
    if document is None:
        return []
    if not isinstance(document, dict):
        raise ConfigError(
            f"The parameter file {path} has no node's name at its top: begin with `/**:` and,"
            f" below it, `{_KEY}:`."
        )
    return list(_sections(path, "", document))


def remarks(arguments: Sequence[str], node: str) -> tuple[list[str], list[str]]:
    """Return infos on what a node gets from its files, and warnings of what it ignores.

    arguments: the process' arguments. node: its name with its namespace.
    """
    infos, warnings = [], []
    for path in parameter_files(arguments):
        try:
            sections = read_sections(path)
        except ConfigError as error:
            warnings.append(str(error))
            continue
        matching = [section for section in sections if section.applies_to(node)]
        other_nodes = [section.nodes for section in sections if section not in matching]
        if matching:
            counts = ", ".join(f"{section.nodes} ({len(section.names)})" for section in matching)
            remainder = f"; not for this node: {', '.join(other_nodes)}" if other_nodes else ""
            infos.append(f"parameters from {path}: {counts}{remainder}")
        else:
            names = ", ".join(other_nodes) if other_nodes else "none at all"
            warnings.append(
                f"the parameter file {path} has nothing for this node, {node}: it has parameters"
                f" for {names}; write `/**:` or `{node}:` above those that are meant for it"
            )
    for option, value in _ros_options(arguments):
        target = re.match(r"([^:=]+):[^:=]+:=", value)
        if option == "--params-file" or target is None:
            continue
        if not Section(target[1], ()).applies_to(node):
            warnings.append(
                f"-p {format_value(value)} is for a node {target[1]}, and this one is {node}:"
                " leave the name out"
            )
    return infos, warnings


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean x?" for the most similar name, "" if none is similar."""
    spellings = {spelling.lower().replace(".", "_"): spelling for spelling in names}
    close = difflib.get_close_matches(name.lower().replace(".", "_"), spellings, n=1)
    return f"; did you mean {spellings[close[0]]}?" if close else ""


def _ros_options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield parameter options and their values, between --ros-args and -- or the end."""
    in_ros_args = False
    words = iter(arguments)
    for word in words:
        if word in ("--ros-args", "--"):
            in_ros_args = word == "--ros-args"
        elif in_ros_args and word in ("--params-file", "-p", "--param"):
            value = next(words, None)
            if value is not None:
                yield word, value


def _sections(path: Path, above: str, tree: Mapping[Any, Any]) -> Iterator[Section]:
    for key, value in tree.items():
        nodes = f"{above}/{str(key).strip('/')}"
        if not isinstance(value, dict):
            if value is None:
                continue
            hint = suggestion(str(key), [_KEY])
            raise ConfigError(
                f"The parameter file {path} has {format_value(key)} where a node's name, then"
                f" `{_KEY}:`, has to be{hint}"
            )
        if _KEY in value:
            parameters = value[_KEY]
            if parameters is not None and not isinstance(parameters, dict):
                raise ConfigError(
                    f"The parameter file {path} has no `name: value` below {_KEY} of {nodes}."
                )
            yield Section(nodes, tuple(_names(path, "", parameters or {})))
            value = {name: inner for name, inner in value.items() if name != _KEY}
        elif str(key).startswith("ros") and difflib.get_close_matches(str(key), [_KEY]):
            raise ConfigError(
                f"The parameter file {path} says {format_value(key)}: write `{_KEY}:`, with two"
                " underscores."
            )
        yield from _sections(path, nodes, value)


def _names(path: Path, above: str, tree: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _names(path, f"{name}.", value)
            continue
        if value is None:
            raise ConfigError(
                f'The parameter file {path} gives {name} no value: write {name}: "", or leave the'
                " line out."
            )
        if isinstance(value, list) and len({type(item) for item in value}) > 1:
            raise ConfigError(
                f"The parameter file {path} gives {name} a list of several types,"
                f" {format_value(value)}: give all of its values one type, with quotes for"
                " instance."
            )
        yield name
