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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siglip_perception.checkpoints.folder import parse_json
from siglip_perception.checkpoints.grounding_settings import Calibration, read_calibration
from siglip_perception.checkpoints.store import MODELS
from siglip_perception.errors import CheckpointError
from siglip_perception.util.files import write_atomically

CALIBRATION = "calibration.json"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationFile:
    """Lines by language, and the head that they were measured with."""

    calibration: Mapping[str, Calibration]
    head_mlp: bool


def user_file(digest: str) -> Path:
    """Path of the calibration in $XDG_DATA_HOME or ~/.local/share, whether it exists or not."""
    home = os.environ.get("XDG_DATA_HOME", "")
    root = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return root / "siglip_perception" / "calibrations" / f"{digest[:32]}.json"


def find_calibration(folder: Path, digest: str) -> CalibrationFile | None:
    """The user's calibration of these weights, his own folder's before the model's; None without.

    digest: Models.grounding_digest. One of other weights is left alone, and the log says so.
    Raises CheckpointError for a file that cannot be read as one.
    """
    for path in (user_file(digest), folder / CALIBRATION):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
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
        head_mlp = content.get("head_mlp")
        lines = read_calibration(content.get("calibration"))
        if not isinstance(head_mlp, bool) or not lines:
            raise CheckpointError(
                f"{path} has no calibration and head_mlp in it: remove it, or run"
                " siglip-perception calibrate again."
            )
        return CalibrationFile(lines, head_mlp)
    return None


def write_calibration(
    folder: Path, digest: str, calibration: CalibrationFile, **provenance: Any
) -> Path:
    """Write it beside the model, or else into the user's folder; return the path.

    provenance: what it was measured on. Raises CheckpointError if neither can be written.
    """
    lines = {language: asdict(line) for language, line in calibration.calibration.items()}
    content = {"format": 1, "weights": digest, "head_mlp": calibration.head_mlp}
    content |= {"calibration": lines, **provenance}
    data = (json.dumps(content, indent=2) + "\n").encode()
    own = user_file(digest)
    # The user's folder is read first: a new calibration beside the model must not lose to it.
    paths = [own] if own.exists() or folder.parent == MODELS else [folder / CALIBRATION, own]
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
