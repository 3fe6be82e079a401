"""A run's job: all that its rows depend on, kept in DIR/features.json and in every shard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from siglip_perception.errors import DatasetError
from siglip_perception.features.plan import Output, StoredDtype
from siglip_perception.parameter import format_value
from siglip_perception.util.files import write_atomically

MANIFEST = "features.json"
REPORT = "report.json"
LOCK = ".lock"
ROWS, TOKENS = "rows", "tokens"
_FORMAT = 1
# Fields that may differ between two runs of one job: they do not change any row.
_FREE = ("command", "versions", "pixels")


@dataclass(frozen=True)
class Job:
    """All that the rows of a folder depend on.

    contract, fingerprint: of the tokens. siglip: digest of the pooled vectors' SigLIP.
    pixels: the contract's preprocessing, as in its file.
    arithmetic: what runs the encoders, such as "torch 2.13.0+cpu on cpu, bf16".
    grid: rows and columns of tokens; dim: channels of one. pooled_dim: of a pooled vector.
    phrases: looked for in every frame; empty: each frame's own text.
    threshold: least score of an object, or that of each language.
    every: a frame in so many is taken. batch, shard_frames: they decide which frames run
        together, on which the last bits of a result depend.
    cameras, episodes: that were chosen; empty: all.
    sources: digest of what is read of each source, by its path.
    versions: of the packages. command: that began the run.
    """

    model: str
    grounding_model: str
    contract: str
    fingerprint: str
    siglip: str
    pixels: Mapping[str, Any]
    arithmetic: str
    outputs: tuple[Output, ...]
    dtype: StoredDtype
    grid: tuple[int, int]
    dim: int
    pooled_dim: int
    phrases: tuple[str, ...]
    threshold: float | Mapping[str, float]
    every: int
    batch: int
    shard_frames: int
    cameras: tuple[str, ...]
    episodes: tuple[int, ...]
    sources: Mapping[str, str]
    frames: int
    shards: int
    versions: Mapping[str, str]
    command: str

    def as_json(self) -> dict[str, Any]:
        """Convert to JSON's types."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Job:
        """Read as_json(); raise KeyError, TypeError or ValueError for anything else."""
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}")
        values = {field.name: content[field.name] for field in fields(cls)}
        for name in ("outputs", "grid", "phrases", "cameras", "episodes"):
            values[name] = tuple(values[name])
        return cls(**values)

    def write(self, folder: Path) -> None:
        text = json.dumps(self.as_json(), ensure_ascii=False, indent=2) + "\n"
        write_atomically(folder / MANIFEST, text.encode())


def read_job(folder: Path) -> Job:
    """Read the job of a folder of features; raise DatasetError where it is none."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise DatasetError(f"There is no folder of features {os.fspath(folder)}: check its name.")
    if not path.is_file():
        raise DatasetError(
            f"{os.fspath(folder)} holds no features: there is no {MANIFEST} in it; write some with"
            " `siglip-perception features`."
        )
    try:
        return Job.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({error}): it is damaged, or of another version."
        ) from error


def check_same(folder: Path, old: Job, new: Job) -> None:
    """Raise DatasetError, which names the first difference, unless both give the same rows."""
    for field in fields(Job):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in _FREE or before == after:
            continue
        if field.name in ("frames", "shards", "sources"):
            changed = [
                source
                for source in {**old.sources, **new.sources}
                if old.sources.get(source) != new.sources.get(source)
            ]
            raise DatasetError(
                f"{folder} was begun with other frames than {changed[0]} has now: name a new"
                " folder, or give the sources as they were."
            )
        name = {"arithmetic": "backend and precision"}.get(field.name, field.name)
        raise DatasetError(
            f"{folder} was begun with {name} {_short(before)}, and this is {_short(after)}: name a"
            " new folder, or run it as before."
        )


def _short(value: object) -> str:
    text = str(value) if isinstance(value, str) else format_value(value)
    is_digest = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_digest else (text or "none")
