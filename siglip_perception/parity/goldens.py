"""Comparison of a contract's pixels with goldens, squares made by the policy's own code.

tools/goldens.py makes them, in environments with the policies' libraries, none of which is needed
here.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siglip_perception import contracts
from siglip_perception.config import ModelSelection
from siglip_perception.contracts import Contract
from siglip_perception.errors import PerceptionError
from siglip_perception.images.crops import CropPlan
from siglip_perception.images.squares import SquareSpec, to_square
from siglip_perception.parity.golden_pictures import WHOLE, lattice, pictures
from siglip_perception.types import FloatArray, UInt8Array

FOLDER = Path(contracts.__file__).parent / "goldens"
# Limits: levels of 255 where a library rounds, levels where it does not, and of the tokens.
MAX_LEVELS, MAX_FLOAT_LEVELS, MAX_TOKEN_RMS = 1.0, 2e-3, 1e-3


@dataclass(frozen=True)
class Golden:
    """Squares of a policy's own code by picture: [S, S, 3] in [0, 255], or their lattice.

    functions: those of the file that ran, with their lines. libraries: their versions.
    """

    repository: str
    commit: str
    file: str
    functions: str
    libraries: Mapping[str, str]
    squares: Mapping[str, Any]


@dataclass(frozen=True)
class PixelCheck:
    """Largest difference of a contract's squares from its golden's.

    levels: of 255. picture: where it is. share: of the values that differ at all.
    """

    levels: float
    picture: str
    share: float
    limit: float

    @property
    def equal(self) -> bool:
        return self.levels <= self.limit


def names() -> tuple[str, ...]:
    """List the contracts that have a golden."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))


def load(name: str) -> Golden:
    """Load the golden of a packaged contract; raises PerceptionError if it has none."""
    path = FOLDER / f"{name}.npz"
    if name not in contracts.names() or not path.is_file():
        raise PerceptionError(
            f"The contract {name[:80]!a} has no golden to check it with: use one of"
            f" {', '.join(names())}."
        )
    try:
        with np.load(io.BytesIO(path.read_bytes())) as content:
            arrays = {key: content[key] for key in content.files}
        about = json.loads(str(arrays.pop("about")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PerceptionError(
            f"The golden {path} is damaged: install the package again."
        ) from error
    return Golden(**about, squares=arrays)


CROPS = "/crops"
"""End of the name under which a golden keeps a picture's crops, [n, S, S, 3] or their lattices."""

_pictures = lru_cache(maxsize=1)(pictures)


def check_pixels(name: str) -> PixelCheck:
    """Run a contract's steps, as its first encoder has them, over the golden's pictures."""
    golden, contract = load(name), contracts.get(name)
    square = SquareSpec.of(contract, contract.encoders[0])
    sources = _pictures()
    worst, where, differing, count = 0.0, "", 0, 0
    plan = CropPlan.of(contract)
    for picture, expected in golden.squares.items():
        source = sources[picture.removesuffix(CROPS)]
        if picture.endswith(CROPS):
            assert plan is not None
            pixels: Any = [to_square(crop, square) for crop in plan.views(source)[1:]]
        else:
            pixels = [to_square(source, square)]
        if not picture.startswith(WHOLE):
            pixels = [lattice(each) for each in pixels]
        actual = np.stack(pixels) if picture.endswith(CROPS) else pixels[0]
        if actual.shape != expected.shape:
            raise PerceptionError(
                f"The contract {name} gives {list(actual.shape)} of the picture {picture}, and its"
                f" golden {list(expected.shape)}: its image_size is not the policy's."
            )
        difference = np.abs(actual.astype(np.float64) - expected)
        differing += int(np.count_nonzero(difference))
        count += difference.size
        if not where or difference.max() > worst:
            worst, where = float(difference.max()), picture
    limit = MAX_FLOAT_LEVELS if square.is_float else MAX_LEVELS
    return PixelCheck(worst, where, differing / count, limit)


def golden_pixels(contract: Contract) -> tuple[UInt8Array, dict[str, FloatArray]]:
    """Return a picture, and what each encoder was fed for it by the policy's code, normalized.

    float32 [V, 3, S, S]: the whole image, then its crops if the contract has some.
    """
    squares = load(contract.name).squares
    images = [squares[WHOLE][None]]
    if f"{WHOLE}{CROPS}" in squares:
        images.append(squares[f"{WHOLE}{CROPS}"])
    levels: FloatArray = np.concatenate(images).astype(np.float32)
    planes = levels.transpose(0, 3, 1, 2) / np.float32(255)
    fed: dict[str, FloatArray] = {}
    for spec in contract.encoders:
        mean, std = (
            np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std)
        )
        fed[spec.name] = ((planes - mean) / std).astype(np.float32)
    return _pictures()[WHOLE], fed


def check_tokens(name: str, folder: Path) -> float:
    """Compare the pipeline's tokens with the reference's on the golden's pixels.

    Returns their relative RMS: of the difference, over the reference's. folder: with weights that
    keep the contract.
    """
    from siglip_perception.parity.reference import encode, regroup
    from siglip_perception.pipeline import Pipeline
    from siglip_perception.types import Frame

    pipeline = Pipeline.load(
        ModelSelection(str(folder), contract=name, device="cpu", precision="fp32")
    )
    contract = pipeline.contract
    picture, fed = golden_pixels(contract)
    grid = pipeline.process(Frame(picture), None).tokens
    assert grid is not None
    actual = torch.from_numpy(grid.data).double()
    del pipeline, grid  # at real size both at once take gigabytes
    parts = [
        encode(contract, spec, folder, torch.from_numpy(fed[spec.name]))
        for spec in contract.encoders
    ]
    rows = next(iter(fed.values())).shape[2] // contract.encoders[0].patch
    expected = regroup(contract, torch.cat(parts, dim=-1), rows).flatten(0, 1).double()
    error = (actual - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    return float(error)
