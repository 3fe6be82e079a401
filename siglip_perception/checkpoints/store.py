"""Where models lie: the packaged ones, those that were fetched, and folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

from siglip_perception import contracts
from siglip_perception.errors import CheckpointError

MODELS = Path(__file__).parent.parent / "models"
EMBEDDED = ("tabletop",)
_SHOWN = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def fetched(name: str) -> Path:
    """The folder that `siglip-perception fetch NAME` fills, there or not.

    Below $XDG_DATA_HOME, or ~/.local/share.
    """
    home = os.environ.get("XDG_DATA_HOME", "")
    root = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return root / "siglip_perception" / "models" / name.replace("/", "--")


def resolve(model: str) -> Path:
    """The folder of a packaged model's name, of a fetched one's, or of a path.

    Raises CheckpointError, naming what there is, where there is no such folder.
    """
    embedded = model in EMBEDDED
    try:
        folder = MODELS / model if embedded else Path(model).expanduser()
        there = bool(model) and folder.is_dir()
        if not there and not embedded and _NAME.fullmatch(model):
            folder = fetched(model)
            there = folder.is_dir()
            if not there and model in contracts.names():
                raise CheckpointError(
                    f"The model {model!r} has not been fetched: run `siglip-perception fetch"
                    f" {model}`, or give a folder that holds it."
                )
    except (OSError, RuntimeError, ValueError):  # no name for a path: too long, "~nobody", "\0"
        there = False
    if not there:
        kind = "The embedded model" if embedded else "There is no model folder"
        rest = " is not installed; install the package again" if embedded else ""
        shown = model if len(model) <= _SHOWN else f"{model[:_SHOWN]}..."
        raise CheckpointError(
            f"{kind} {shown!r}{rest}: give a folder with siglip/ and dinov2/ in it, the name of a"
            f" fetched one, or one of: {', '.join(EMBEDDED)}."
        )
    return folder
