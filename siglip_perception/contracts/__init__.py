"""The token contracts: what a policy's projector expects of its vision encoder, as data.

Each contract is a YAML file beside this module; a user's own file of the same form is given by its
path. `docs/contracts.md` explains every field.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from siglip_perception.contracts.check import (
    EncoderFacts,
    InputFacts,
    check,
    contradictions,
    difference,
    with_taps,
)
from siglip_perception.contracts.contract import (
    Contract,
    EncoderName,
    EncoderSpec,
    Interpolation,
    Resize,
    Triple,
)
from siglip_perception.contracts.parse import parse
from siglip_perception.contracts.pixels import PixelDifference, PixelFacts, pixel_differences
from siglip_perception.errors import ContractError
from siglip_perception.util.suggest import did_you_mean

__all__ = [
    "Contract",
    "EncoderFacts",
    "EncoderName",
    "EncoderSpec",
    "InputFacts",
    "Interpolation",
    "PixelDifference",
    "PixelFacts",
    "Resize",
    "Triple",
    "check",
    "contradictions",
    "difference",
    "get",
    "names",
    "path",
    "pixel_differences",
    "with_taps",
]

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 2**16
_FIRST = "tabletop"


@cache
def names() -> tuple[str, ...]:
    """The names of the packaged contracts, the embedded default's first."""
    found = sorted(file.stem for file in _FOLDER.glob("*.yaml"))
    return tuple(sorted(found, key=lambda name: name != _FIRST))


def path(name: str) -> Path:
    """The YAML file of a packaged contract, or of a path to one.

    Raises ContractError, naming the packaged ones, where there is no such file.
    """
    if name in names():
        return _FOLDER / f"{name}.yaml"
    file = Path(name).expanduser() if name.endswith(_SUFFIXES) else None
    if file is None or not file.is_file():
        kind = f"There is no token contract {_shown(name)}"
        if file is not None:
            kind = f"There is no contract file {_shown(name)}"
        else:
            kind += did_you_mean(name, names())
        raise ContractError(
            f"{kind}: use one of {', '.join(names())}, or the path of a .yaml file."
        )
    return file


def get(name: str) -> Contract:
    """The packaged contract of that name, or the one in the .yaml file of that path.

    Raises ContractError, one sentence, where there is none or its file is wrong.
    """
    return _packaged(name) if name in names() else _read(path(name))


@cache
def _packaged(name: str) -> Contract:
    return _read(path(name))


def _read(file: Path) -> Contract:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ContractError(f"{file} is larger than 64 KiB and no contract.")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ContractError(
            f"Cannot read the contract {file} ({error.strerror}): check its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise ContractError(f"The contract {file} is not UTF-8 text.") from error
    return parse(text, str(file))


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 120 else f"{name[:120]}...")
