"""Arguments of the commands: their types, their parser and its errors, each one sentence.

Nothing here imports PyTorch: what is wrong with an argument is told at once. A path that is wrong
is a PerceptionError, as everywhere; what is no valid command line ends the program as argparse
does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from siglip_perception.errors import PerceptionError
from siglip_perception.types import BACKENDS, PRECISIONS
from siglip_perception.util.backend_names import refuse_impossible
from siglip_perception.util.suggest import closest

_Number = TypeVar("_Number", int, float)
PROGRAM = "siglip-perception"
PICTURES = (".png", ".jpg", ".jpeg")
# So many choices are all named, beside the one that was probably meant.
_FEW = 6


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are one sentence that names what was probably meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [] if args is None else list(args)
        self._refuse_unknown_options(words)
        return super().parse_known_args(words, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, more = self.parse_known_args(args, namespace)
        if more:
            name = getattr(parsed, "command", None)
            quotes = ": put an instruction of several words in quotes"
            self.error(
                f"there is one argument too many, {more[0]!r}"
                f"{quotes if hasattr(parsed, 'instruction') else ''}",
                name,
            )
        return parsed

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Say so before a missing argument is complained of: it may be the mistyped option's."""
        known = self._option_string_actions
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # what follows a command is for its own parser
            name = word.partition("=")[0]
            if name in known or " " in word or not re.match(r"--[^-]|-[A-Za-z]", word):
                continue
            long = name.startswith("--")
            if long and any(option.startswith(name) for option in known):
                continue  # argparse takes the beginning of an option for it
            if not long and word[:2] in known:
                continue
            meant = closest(name, [option for option in known if option.startswith("--")])
            self.error(
                f"there is no option {name}" + (f": did you mean {meant}?" if meant else "")
            )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        meant = closest(str(value), names)
        hint = f"did you mean {meant}?" if meant else f"use one of {', '.join(names)}"
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f"there is no command {value!r}: {hint}")
        if not meant or len(names) <= _FEW:
            hint = f"use {', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else hint
            hint = f"did you mean {meant}? {hint[0].upper()}{hint[1:]}" if meant else hint
        raise argparse.ArgumentError(None, f"{_name(action)} cannot be {value!r}: {hint}")

    def error(self, message: str, command: str | None = None) -> NoReturn:
        """End with exit code 2 and the message as one sentence, with where the help is."""
        text = re.sub(
            r"^argument ([^:]+):( has to be)?",
            lambda found: _last(found[1]) + (found[2] or ":"),
            message,
        ).replace(": expected one argument", " needs a value")
        text = re.sub(
            r"^the following arguments are required: (.*)",
            lambda found: f"{found[1].replace('-o/--output', '--output')} has to be given",
            text,
        )
        program = f"{self.prog} {command}" if command else self.prog
        end = "" if text.endswith(("?", ".")) else "."
        self.exit(2, f"{PROGRAM}: {text}{end} See `{program} --help`.\n")


def _name(action: argparse.Action) -> str:
    """The action as a user knows it: its longest option, or what stands for its value."""
    if action.option_strings:
        return max(action.option_strings, key=len)
    return str(action.metavar or action.dest)


def _last(names: str) -> str:
    """`-o/--output` -> --output."""
    return names.rpartition("/")[2] if names.startswith("-") else names


def number(
    kind: type[_Number], least: _Number, most: _Number | None = None
) -> Callable[[str], _Number]:
    """The type of an argument that is a number in [least, most]; never NaN."""
    what = "a whole number" if kind is int else "a number"
    limits = f"of {least:g} or more" if most is None else f"from {least:g} to {most:g}"

    def parse(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value or (most is not None and not value <= most):
            raise argparse.ArgumentTypeError(f"has to be {what} {limits}, not {text!r}")
        return value

    return parse


def input_file(text: str) -> Path:
    """A file that is there; PerceptionError where it is not."""
    path = Path(text)
    if not path.is_file():
        if path.is_dir():
            raise PerceptionError(f"{text} is a folder: name a file.")
        raise PerceptionError(f"There is no file {_shown(text)}.")
    return path


def input_folder(text: str) -> Path:
    """A folder that is there; PerceptionError where it is not."""
    path = Path(text)
    if not path.is_dir():
        if path.exists():
            raise PerceptionError(f"{text} is a file: name a folder.")
        raise PerceptionError(f"There is no folder {_shown(text)}.")
    return path


def input_path(text: str) -> Path:
    """A file or folder that is there; PerceptionError where it is not."""
    path = Path(text)
    if not text or not path.exists():
        raise PerceptionError(f"There is no file or folder {_shown(text)}.")
    return path


def output_file(text: str) -> Path:
    """A file to write into a folder that is there; PerceptionError where it cannot be."""
    path = Path(text)
    if not path.parent.is_dir():
        raise PerceptionError(f"There is no folder {path.parent} to write {path.name} into.")
    if path.is_dir():
        raise PerceptionError(f"{path} is a folder: name the file to write.")
    return path


def output_picture(text: str) -> Path:
    """output_file() with the ending of a picture that is written."""
    path = output_file(text)
    if path.suffix.lower() not in PICTURES:
        raise PerceptionError(f"Cannot write {path}: name a .png or .jpg file.")
    return path


def output_folder(text: str) -> Path:
    """A folder to write into, there or not; PerceptionError where a file is in its place."""
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise PerceptionError(f"{place} is a file: name another folder than {path}.")
            break
    return path


def check_model(args: argparse.Namespace) -> None:
    """Hold what a command names to run against what there is: models, contracts, a backend.

    Raises CheckpointError, ContractError or BackendError, one sentence each, without importing
    PyTorch.
    """
    from siglip_perception import checkpoints, contracts

    values = vars(args)
    for name in ("model", "grounding_model"):
        if values.get(name):
            folder = checkpoints.resolve(values[name])
            if args.command != "doctor":  # which reports what is wrong with a model
                checkpoints.glance(folder)
    for name in ("contract", "grounding_contract"):
        if values.get(name):
            contracts.get(values[name])
    if values.keys() >= {"backend", "device", "precision"}:
        refuse_impossible(args.backend, args.device, args.precision)


# As errors write parameters for a node's user, in YAML -> as options of a command line.
_PARAMETERS = ("model", "contract", "backend", "device", "precision", "threshold", "max_objects")
_VALUES = ("auto", *BACKENDS, "cpu", "cuda", *PRECISIONS)
_IN_YAML = re.compile(rf"\b(backend|device|precision): (?=(?:{'|'.join(_VALUES)})\b)")
_PLAIN = re.compile(r"\buse (backend|device|precision) (?=auto\b)")
_BY_NAME = re.compile(rf"\bthe parameter ({'|'.join(_PARAMETERS)}|grounding\.\w+)\b")
_DOTTED = re.compile(r"(?<![\w./-])grounding\.(model|contract|rate)\b")


def as_options(sentence: str) -> str:
    """A sentence that names a node's parameters, with a command's options in their place.

    `device: cpu` -> `--device cpu`; `the parameter grounding.model` -> `--grounding-model`.
    """
    text = _BY_NAME.sub(lambda found: "--" + re.sub(r"[._]", "-", found[1]), sentence)
    text = text.replace("that the parameter max_pixels allows", "that are read")  # no option
    text = _PLAIN.sub(r"use --\1 ", text)
    text = _IN_YAML.sub(r"--\1 ", text)
    return _DOTTED.sub(r"--grounding-\1", text)


def _shown(text: str) -> str:
    return text if text.isprintable() and text else ascii(text)
