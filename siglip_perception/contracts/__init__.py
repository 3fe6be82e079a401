"""Token contracts: what a policy's projector expects of its vision encoder, as data.

Each contract is a YAML file in this folder; users name a file of their own by its path.
`docs/contracts.md` explains every field.
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
    differences,
    with_own_normalization,
    with_taps,
)
from siglip_perception.contracts.contract import (
    Contract,
    EncoderName,
    EncoderSpec,
    Triple,
)
from siglip_perception.contracts.parse import parse
from siglip_perception.contracts.pixels import PixelDifference, PixelFacts, pixel_differences
from siglip_perception.contracts.steps import Interpolation, Resize
from siglip_perception.errors import ContractError
from siglip_perception.util.files import UnsuitableFileError, read_regular
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
    "differences",
    "get",
    "names",
    "path",
    "pixel_differences",
    "with_own_normalization",
    "with_taps",
]

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 2**16
_DEFAULT = "tabletop"
# Policies that no contract can state, by a part of the name that people would type, and why.
_REFUSED = {
    "film": "its FiLM layers scale and shift every block by the instruction, so its tokens are no"
    " function of the image",
    "gr00t-n1.7": "its encoder is Qwen-VL's, which is neither SigLIP nor DINO",
    "x-vla": "its encoder is Florence-2's, which is neither SigLIP nor DINO",
    "octo": "its encoder reads the instruction with the image",
}


@cache
def names() -> tuple[str, ...]:
    """List the names of the packaged contracts, the embedded default's first."""
    stems = sorted(file.stem for file in _FOLDER.glob("*.yaml"))
    return tuple(sorted(stems, key=lambda name: name != _DEFAULT))


def path(name: str) -> Path:
    """Find the YAML file of a packaged contract, or check the path of a user's.

    Raises ContractError, listing the packaged ones, if there is no such file.
    """
    if name in names():
        return _FOLDER / f"{name}.yaml"
    reason = next((why for part, why in _REFUSED.items() if part in name.lower()), "")
    if reason and not name.endswith(_SUFFIXES):
        raise ContractError(
            f"There is no contract of {_quote(name)}: {reason}; use one of {', '.join(names())}."
        )
    file = Path(name).expanduser() if name.endswith(_SUFFIXES) else None
    if file is None or not file.exists():
        kind = f"There is no token contract {_quote(name)}"
        if file is not None:
            kind = f"There is no contract file {_quote(name)}"
        else:
            kind += did_you_mean(name, names())
        raise ContractError(
            f"{kind}: use one of {', '.join(names())}, or the path of a .yaml file."
        )
    return file


def get(name: str) -> Contract:
    """Load the packaged contract of that name, or the .yaml file of that path.

    Raises ContractError, one sentence, if there is none or its file is invalid.
    """
    return _get_packaged(name) if name in names() else _read(path(name))


@cache
def _get_packaged(name: str) -> Contract:
    return _read(path(name))


def _read(file: Path) -> Contract:
    try:
        text = read_regular(file, _MAX_BYTES).decode("utf-8")
    except (UnsuitableFileError, IsADirectoryError) as error:
        reason = error.strerror if isinstance(error, UnsuitableFileError) else "it is a folder"
        raise ContractError(
            f"{file} is no contract, for {reason}: name the YAML file of a contract."
        ) from error
    except OSError as error:
        raise ContractError(
            f"Cannot read the contract {file} ({error.strerror}): check its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise ContractError(f"The contract {file} is not UTF-8 text: save it as UTF-8.") from error
    return parse(text, str(file))


def _quote(name: str) -> str:
    return ascii(name if len(name) <= 120 else f"{name[:120]}...")
