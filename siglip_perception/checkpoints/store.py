"""Locations of models: packaged ones, fetched ones, and folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

from siglip_perception import contracts
from siglip_perception.checkpoints.folder import readable
from siglip_perception.checkpoints.identify import describe_file, snapshot
from siglip_perception.errors import CheckpointError
from siglip_perception.util.suggest import did_you_mean

MODELS = Path(__file__).parent.parent / "models"
EMBEDDED = ("tabletop",)
_MAX_SHOWN_CHARS = 200
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def fetch_folder(name: str) -> Path:
    """Return the folder that `siglip-perception fetch NAME` fills, whether it exists or not.

    It is below $XDG_DATA_HOME, or ~/.local/share.
    """
    home = os.environ.get("XDG_DATA_HOME", "")
    root = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return root / "siglip_perception" / "models" / name.replace("/", "--")


def hub_cache_folder(repository: str) -> Path:
    """Return the folder of a repository in the Hub's cache, whether it exists or not."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def resolve(model: str) -> Path:
    """Find the folder of a packaged or fetched model, by name, or of a path.

    A folder of the Hub's cache stands for its snapshot; a repository's name stands for what was
    fetched from it or is in the Hub's cache.
    Raises CheckpointError, listing the alternatives, if there is no such folder.
    """
    if model in EMBEDDED:
        folder = MODELS / model
        if not folder.is_dir():
            raise CheckpointError(
                f"The embedded model {model!r} is not installed: install the package again."
            )
        return folder
    if _ADDRESS.match(model):
        raise CheckpointError(
            f"{_short(model)} is an address, and models are loaded from this machine alone: run"
            " `siglip-perception fetch` with the repository's name, or give a folder."
        )
    path = _existing(model)
    if path is None:
        advice = ""
        if _NAME.fullmatch(model):
            local = _existing(str(fetch_folder(model))) or _existing(str(hub_cache_folder(model)))
            if local is not None:
                return snapshot(local)
            if model in contracts.names():
                raise CheckpointError(
                    f"The model {model!r} has not been fetched: run `siglip-perception fetch"
                    f" {model}`, or give a folder that holds it."
                )
            advice = f"run `siglip-perception fetch {model}`, or " if "/" in model else ""
        raise CheckpointError(
            f"There is no model folder {_short(model)}{did_you_mean(model, _names())}: {advice}"
            "give a folder with siglip/ and dinov2/ in it, the name of a fetched one, or one of:"
            f" {', '.join(EMBEDDED)}."
        )
    with readable(path):
        if not path.is_dir():
            raise CheckpointError(describe_file(path))
        return snapshot(path)


def _names() -> list[str]:
    """The names that models go by here: the packaged, and the contracts' that can be fetched."""
    return [*EMBEDDED, *contracts.names()]


def _existing(model: str) -> Path | None:
    """Return the path if it exists."""
    if not model:
        return None
    try:
        path = Path(model).expanduser()
        path.stat()
    except PermissionError as error:
        raise CheckpointError(
            f"Cannot read {_short(model)} ({error.strerror}): check its permissions."
        ) from error
    except (OSError, RuntimeError, ValueError):  # not a valid path: too long, "~nobody", "\0"
        return None
    return path


def _short(model: str) -> str:
    return repr(model if len(model) <= _MAX_SHOWN_CHARS else f"{model[:_MAX_SHOWN_CHARS]}...")
