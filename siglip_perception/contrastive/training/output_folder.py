"""The folder that a training writes its model to: what may be replaced in it."""

from __future__ import annotations

import json
from pathlib import Path

from siglip_perception import checkpoints
from siglip_perception.errors import PerceptionError


def refuse_foreign(output: Path) -> None:
    """A model folder is replaced as a whole: one that holds anything else is left alone."""
    if not output.exists():
        return
    whole = output.is_dir() and (output / checkpoints.MANIFEST).is_file()
    listed = _listed(output) if whole else set()
    found = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    if not output.is_dir() or found - listed:
        raise PerceptionError(
            f"{output} holds something else than a model: name a new folder with --output."
        )


def _listed(folder: Path) -> set[str]:
    """The files that a folder's manifest lists, and the manifest."""
    try:
        files = json.loads((folder / checkpoints.MANIFEST).read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return set()
    return {*files, checkpoints.MANIFEST}
