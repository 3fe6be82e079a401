"""Folders that a training writes: its model and its checkpoints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from siglip_perception import checkpoints
from siglip_perception.errors import PerceptionError


def runs_folder(args: argparse.Namespace) -> Path:
    """Return the folder of a training's checkpoints: --runs, or one beside --output."""
    output: Path = args.output.absolute()
    return args.runs or output.with_name(output.name + ".runs")


def check_replaceable(output: Path) -> None:
    """Raise PerceptionError if `output` holds files that are not part of a model folder.

    Exporting replaces the whole folder.
    """
    if not output.exists():
        return
    is_model = output.is_dir() and (output / checkpoints.MANIFEST).is_file()
    expected_files = _manifest_files(output) if is_model else set()
    files = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    if not output.is_dir() or files - expected_files:
        raise PerceptionError(
            f"{output} holds more than a model: name a new folder with --output."
        )


def _manifest_files(folder: Path) -> set[str]:
    """List the files in a folder's manifest, and the manifest itself."""
    try:
        files = json.loads((folder / checkpoints.MANIFEST).read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return set()
    return {*files, checkpoints.MANIFEST}
