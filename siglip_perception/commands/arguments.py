"""Types of the commands' arguments, and a parser whose errors are one sentence.

Nothing here imports PyTorch, so a wrong argument is reported at once. A wrong path raises a
PerceptionError, as everywhere; an invalid command line ends the program, as with argparse.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from siglip_perception.config import SELECTION_FIELDS, ModelSelection, Settings
from siglip_perception.errors import BackendError, PerceptionError
from siglip_perception.types import BACKENDS, PRECISIONS
from siglip_perception.util import requirements
from siglip_perception.util.backend_names import refuse_impossible
from siglip_perception.util.suggest import closest

_Number = TypeVar("_Number", int, float)
PROGRAM = "siglip-perception"
PICTURES = (".png", ".jpg", ".jpeg")
# Most choices that an error lists in full besides its suggestion.
_MAX_CHOICES = 6


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors of one sentence, which suggest similar names."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [] if args is None else list(args)
        self._refuse_unknown_options(words)
        return super().parse_known_args(words, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, excess = self.parse_known_args(args, namespace)
        if excess:
            name = getattr(namespace, "command", None)
            quotes = ": put an instruction of several words in quotes"
            self.error(
                f"there is one argument too many, {excess[0]!r}"
                f"{quotes if hasattr(namespace, 'instruction') else ''}",
                name,
            )
        return namespace

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Report an unknown option before a missing argument, which may be the mistyped option."""
        options = self._option_string_actions
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # the rest is for the command's own parser
            name = word.partition("=")[0]
            if name in options or " " in word or not re.match(r"--[^-]|-[A-Za-z]", word):
                continue
            is_long = name.startswith("--")
            if is_long and any(option.startswith(name) for option in options):
                continue  # argparse accepts an abbreviated option
            if not is_long and word[:2] in options:
                continue
            guess = closest(name, [option for option in options if option.startswith("--")])
            self.error(
                f"there is no option {name}" + (f": did you mean {guess}?" if guess else "")
            )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        guess = closest(str(value), names)
        hint = f"did you mean {guess}?" if guess else f"use one of {', '.join(names)}"
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f"there is no command {value!r}: {hint}")
        if not guess or len(names) <= _MAX_CHOICES:
            hint = f"use {', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else hint
            hint = f"did you mean {guess}? {hint[0].upper()}{hint[1:]}" if guess else hint
        raise argparse.ArgumentError(None, f"{_name(action)} cannot be {value!r}: {hint}")

    def error(self, message: str, command: str | None = None) -> NoReturn:
        """Exit with code 2 and the message as one sentence, followed by the command for help."""
        text = re.sub(
            r"^argument ([^:]+):( has to be)?",
            lambda match: _longest_option(match[1]) + (match[2] or ":"),
            message,
        ).replace(": expected one argument", " needs a value")
        text = re.sub(
            r"^the following arguments are required: (.*)",
            lambda match: f"{match[1].replace('-o/--output', '--output')} has to be given",
            text,
        )
        program = f"{self.prog} {command}" if command else self.prog
        end = "" if text.endswith(("?", ".")) else "."
        self.exit(2, f"{PROGRAM}: {text}{end} See `{program} --help`.\n")


def _name(action: argparse.Action) -> str:
    """Return an argument's name for users: its longest option or its metavar."""
    if action.option_strings:
        return max(action.option_strings, key=len)
    return str(action.metavar or action.dest)


def _longest_option(names: str) -> str:
    """Return the last of several spellings: --output for `-o/--output`."""
    return names.rpartition("/")[2] if names.startswith("-") else names


def number(
    kind: type[_Number], minimum: _Number, maximum: _Number | None = None
) -> Callable[[str], _Number]:
    """Return the type of an argument that is a number in [minimum, maximum]; never NaN."""
    noun = "a whole number" if kind is int else "a number"
    limits = f"of {minimum:g} or more" if maximum is None else f"from {minimum:g} to {maximum:g}"

    def parse(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # Written so that NaN, which is not <= anything, is refused, too.
        if value is None or not minimum <= value or not (maximum is None or value <= maximum):
            raise argparse.ArgumentTypeError(f"has to be {noun} {limits}, not {text!r}")
        return value

    return parse


def input_file(text: str) -> Path:
    """Return the path of an existing file; raises PerceptionError."""
    path = Path(text)
    if not path.is_file():
        if path.is_dir():
            raise PerceptionError(f"{text} is a folder: name a file.")
        raise PerceptionError(f"There is no file {_printable(text)}.")
    return path


def input_folder(text: str) -> Path:
    """Return the path of an existing folder; raises PerceptionError."""
    path = Path(text)
    if not path.is_dir():
        if path.exists():
            raise PerceptionError(f"{text} is a file: name a folder.")
        raise PerceptionError(f"There is no folder {_printable(text)}.")
    return path


def input_path(text: str) -> Path:
    """Return the path of an existing file or folder; raises PerceptionError."""
    path = Path(text)
    if not text or not path.exists():
        raise PerceptionError(f"There is no file or folder {_printable(text)}.")
    return path


def output_file(text: str) -> Path:
    """Return the path of a file to write into an existing folder; raises PerceptionError."""
    path = Path(text)
    if not path.parent.is_dir():
        raise PerceptionError(f"There is no folder {path.parent} to write {path.name} into.")
    if path.is_dir():
        raise PerceptionError(f"{path} is a folder: name the file to write.")
    return path


def output_picture(text: str) -> Path:
    """Return the path of a picture to write, .png or .jpg; raises PerceptionError."""
    path = output_file(text)
    if path.suffix.lower() not in PICTURES:
        raise PerceptionError(f"Cannot write {path}: name a .png or .jpg file.")
    return path


def output_folder(text: str) -> Path:
    """Return the path of a folder to write into, new or not; raises PerceptionError."""
    path = Path(text)
    for ancestor in (path, *path.parents):
        if ancestor.exists():
            if not ancestor.is_dir():
                raise PerceptionError(f"{ancestor} is a file: name another folder than {path}.")
            break
    return path


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which model runs, and on what."""
    parser.add_argument(
        "--model",
        default=ModelSelection.model,
        metavar="FOLDER",
        help="packaged or fetched model, or a folder of one (default: %(default)s)",
    )
    parser.add_argument(
        "--contract",
        default=ModelSelection.contract,
        metavar="NAME",
        help="name or .yaml file (default: the one that the model keeps)",
    )
    for name, choices, text in (
        ("backend", ("auto", *BACKENDS), "what runs the encoders"),
        ("device", ("auto", "cpu", "cuda"), "where they run"),
        ("precision", ("auto", *PRECISIONS), "arithmetic of their products"),
    ):
        parser.add_argument(
            f"--{name}", choices=choices, default="auto", help=f"{text} (default: %(default)s)"
        )


def add_grounding_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which model finds objects."""
    parser.add_argument(
        "--grounding-model",
        default=ModelSelection.grounding_model,
        metavar="FOLDER",
        help="SigLIP to find objects with, where the tokens' own is a policy's",
    )
    parser.add_argument(
        "--grounding-contract",
        default=ModelSelection.grounding_contract,
        metavar="NAME",
        help="how images are fed to it (default: the contract that it keeps)",
    )


def add_grounding_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say what finds objects, and which are kept."""
    add_grounding_model_arguments(parser)
    add_threshold_argument(parser)
    parser.add_argument(
        "--max-objects",
        type=number(int, 1),
        default=Settings.max_objects,
        metavar="N",
        help="most objects in one image, up to 255 (default: %(default)s)",
    )
    add_windows_argument(parser)


def add_threshold_argument(parser: argparse.ArgumentParser) -> None:
    """Option that says how sure an object has to be."""
    parser.add_argument(
        "--threshold",
        type=number(float, 0, 1),
        metavar="P",
        help="least score of an object, in [0, 1] (default: each language's calibrated one, 0.5"
        " without)",
    )


def add_windows_argument(parser: argparse.ArgumentParser) -> None:
    """Option that says in how many windows of an image objects are looked for."""
    parser.add_argument(
        "--windows",
        type=int,
        choices=(1, 2),
        default=Settings.windows,
        help="2: look in 2 x 2 overlapping windows, too; small things, at five times the cost",
    )


def selection_of(args: argparse.Namespace) -> ModelSelection:
    """Return the model that a command's options select."""
    values = vars(args)
    return ModelSelection(**{name: values[name] for name in SELECTION_FIELDS if name in values})


# Commands that run the pipeline, so that their model has to keep a contract.
_WITH_CONTRACT = (
    *("tokens", "ground", "replay", "view"),
    *("export", "evaluate", "calibrate", "features"),
)
# Commands that are of no use if the model finds no objects.
_WITH_OBJECTS = ("ground", "evaluate", "calibrate")


def check_model(args: argparse.Namespace) -> None:
    """Check that the models, contracts and backend that a command names exist and fit together.

    Raises CheckpointError, ContractError or BackendError, one sentence each. Does not import
    PyTorch.
    """
    from siglip_perception import checkpoints, contracts

    values = vars(args)
    if values.get("model") and args.command == "doctor":
        checkpoints.resolve(args.model)  # doctor itself reports what else is wrong with it
    elif values.get("model"):
        check_selection(
            selection_of(args),
            with_contract=args.command in _WITH_CONTRACT,
            with_objects=args.command in _WITH_OBJECTS or "objects" in values.get("outputs", ()),
        )
    elif values.get("contract"):
        contracts.get(args.contract)
    if values.keys() >= {"backend", "device", "precision"}:
        refuse_impossible(args.backend, args.device, args.precision)
    _refuse_gpu_without_cuda(values.get("backend"), values.get("device"))


def check_selection(
    selection: ModelSelection, *, with_contract: bool, with_objects: bool = False
) -> None:
    """Check the folders of a selection, and what is to be done with them.

    with_contract: the models have to keep their contracts. with_objects: objects have to be found.
    Raises CheckpointError, ContractError or BackendError, one sentence each. Does not import
    PyTorch.
    """
    from siglip_perception import checkpoints, contracts
    from siglip_perception.checkpoints.match import kept_contract, why_no_objects

    for name in filter(None, (selection.contract, selection.grounding_contract)):
        contracts.get(name)
    for model, contract, parameter in (
        (selection.model, selection.contract, "contract"),
        (selection.grounding_model, selection.grounding_contract, "grounding.contract"),
    ):
        if model:
            checkpoint = checkpoints.Checkpoint(checkpoints.resolve(model))
            if not with_contract:
                continue
            content = kept_contract(contract, checkpoint, parameter)
            on_tokens = with_objects and not selection.grounding_model
            if on_tokens and (refusal := why_no_objects(content, checkpoint)):
                raise BackendError(refusal)


def _refuse_gpu_without_cuda(backend: object, device: object) -> None:
    """Raise BackendError for a GPU where PyTorch's own version says that it is for CPUs alone."""
    if device != "cuda" and backend != "tensorrt":
        return
    version = requirements.installed("torch")[1] or ""
    if version.endswith("+cpu"):
        names = ("device: cuda", "device: cpu")
        choice, way_out = names if device == "cuda" else ("backend: tensorrt", "backend: torch")
        raise BackendError(
            f"{choice} needs a CUDA GPU, and the PyTorch that is installed, {version}, is for CPUs"
            f" alone: install another one, or use {way_out}."
        )


# Patterns of node parameters in error messages, which as_options() turns into options.
_PARAMETERS = ("model", "contract", "backend", "device", "precision", "threshold", "max_objects")
_VALUES = ("auto", *BACKENDS, "cpu", "cuda", *PRECISIONS)
_IN_YAML = re.compile(rf"\b(backend|device|precision): (?=(?:{'|'.join(_VALUES)})\b)")
_PLAIN = re.compile(r"\buse (backend|device|precision) (?=auto\b)")
_BY_NAME = re.compile(rf"\bthe parameter ({'|'.join(_PARAMETERS)}|grounding\.\w+)\b")
_DOTTED = re.compile(r"(?<![\w./-])grounding\.(model|contract|rate)\b")


def as_options(sentence: str) -> str:
    """Replace the node's parameters in a sentence by a command's options.

    `device: cpu` -> `--device cpu`; `the parameter grounding.model` -> `--grounding-model`.
    """
    text = _BY_NAME.sub(lambda match: "--" + re.sub(r"[._]", "-", match[1]), sentence)
    text = text.replace("that the parameter max_pixels allows", "that are read")  # no option
    text = _PLAIN.sub(r"use --\1 ", text)
    text = _IN_YAML.sub(r"--\1 ", text)
    return _DOTTED.sub(r"--grounding-\1", text)


def _printable(text: str) -> str:
    return text if text.isprintable() and text else ascii(text)
