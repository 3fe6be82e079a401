"""Calibrations that a user measured: one file for the weights that it was measured on.

It lies beside the model, or in the user's own folder where the model's cannot be written or
belongs to the package. A manifest does not list it; the digest of the weights inside tells whose
it is.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from siglip_perception.checkpoints.folder import parse_json
from siglip_perception.checkpoints.grounding_settings import (
    Calibration,
    MeasuredOn,
    number_of,
    read_calibration,
    wrong_value,
)
from siglip_perception.checkpoints.store import MODELS
from siglip_perception.errors import CheckpointError
from siglip_perception.util.files import write_atomically

CALIBRATION = "calibration.json"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationFile:
    """Lines by language, the head that they were measured with, and what on."""

    calibration: Mapping[str, Calibration]
    head_mlp: bool
    measured_on: MeasuredOn = field(default_factory=MeasuredOn)


def user_file(digest: str) -> Path | None:
    """Path of the calibration in $XDG_DATA_HOME or ~/.local/share, whether it exists or not.

    None for a user without a home.
    """
    home = os.environ.get("XDG_DATA_HOME", "")
    try:
        root = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return root / "siglip_perception" / "calibrations" / f"{digest[:32]}.json"


def find_calibration(folder: Path, digest: str) -> CalibrationFile | None:
    """The user's calibration of these weights, his own folder's before the model's; None without.

    digest: Models.grounding_digest. One of other weights is left alone, and the log says so.
    Raises CheckpointError for a file that cannot be read as one.
    """
    for path in (user_file(digest), folder / CALIBRATION):
        if path is None:
            continue
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise CheckpointError(
                f"Cannot read {path} ({error.strerror}): check its permissions."
            ) from error
        content = parse_json(data, path)
        if content.get("weights") != digest:
            _LOGGER.warning(
                "%s was measured on other weights and is not used: run siglip-perception"
                " calibrate again.",
                path,
            )
            continue
        return _read(content, path)
    return None


def _read(content: Mapping[str, Any], path: Path) -> CalibrationFile:
    where = f"{path}: remove it, or run siglip-perception calibrate again"
    head_mlp = content.get("head_mlp")
    if not isinstance(head_mlp, bool):
        raise wrong_value("head_mlp", head_mlp, "true or false", where)
    lines = read_calibration(content.get("calibration"), where)
    if not lines:
        raise wrong_value("calibration", content.get("calibration"), "of some language", where)
    phrases = content.get("phrases", [])
    if not isinstance(phrases, list) or not all(isinstance(text, str) for text in phrases):
        raise wrong_value("phrases", phrases, "a list of texts", where)
    limits = content.get("picture_range")
    if limits is None:
        return CalibrationFile(lines, head_mlp, MeasuredOn(tuple(phrases)))
    if not isinstance(limits, list) or len(limits) != 3:
        raise wrong_value("picture_range", limits, "a list of three numbers", where)
    least, most, offset = (number_of(value, "picture_range", where) for value in limits)
    return CalibrationFile(lines, head_mlp, MeasuredOn(tuple(phrases), (least, most, offset)))


def write_calibration(
    folder: Path, digest: str, calibration: CalibrationFile, **provenance: Any
) -> Path:
    """Write it beside the model, or else into the user's folder; return the path.

    provenance: what it was measured on. Raises CheckpointError if neither can be written.
    """
    lines = {language: asdict(line) for language, line in calibration.calibration.items()}
    content = {"format": 1, "weights": digest, "head_mlp": calibration.head_mlp}
    content |= {"calibration": lines, **asdict(calibration.measured_on), **provenance}
    data = (json.dumps(content, indent=2) + "\n").encode()
    beside, own = folder / CALIBRATION, user_file(digest)
    paths = [beside]
    if own is not None:
        # It is read first: a new calibration beside the model must not lose to it.
        paths = [own] if own.exists() or folder.parent == MODELS else [beside, own]
    reasons = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            reasons.append(f"{path} ({error.strerror or error})")
            continue
        return path
    raise CheckpointError(
        f"The calibration cannot be written to {' or '.join(reasons)}: set XDG_DATA_HOME to a"
        " writable folder."
    )
