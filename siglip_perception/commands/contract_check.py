"""`siglip-perception contracts --check`: pixels and tokens beside the policies' own code."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception import checkpoints, contracts
from siglip_perception.errors import PerceptionError

if TYPE_CHECKING:
    from siglip_perception.parity.goldens import PixelCheck

# Distributions whose arithmetic a step uses as it is installed here.
_LIBRARIES = ("pillow", "opencv-python-headless", "torch", "simplejpeg", "numpy")


def check(name: str, model: str, with_tokens: bool, as_table: bool) -> int:
    """Compare, print a line for each contract, and return 0; `all` stands for those with a golden.

    as_table: print the table of docs/contracts.md, and the lines to standard error.

    Raises PerceptionError if a contract has no golden, and, after the last line, if one differs.
    """
    from siglip_perception.parity import goldens

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_table else sys.stdout, flush=True)

    names = goldens.names() if name == "all" else (name,)
    for contract in names:
        goldens.load(contract)
    different: list[str] = []
    checks: dict[str, PixelCheck] = {}
    tokens: dict[str, float] = {}
    for contract in names:
        golden, pixels = goldens.load(contract), goldens.check_pixels(contract)
        checks[contract] = pixels
        verdict = "equal" if pixels.equal else "DIFFERENT"
        say(
            f"{contract}: pixels {verdict}, largest difference {pixels.levels:.2g} of 255 (limit"
            f" {pixels.limit:g}, {pixels.share:.2%} of the values differ), from"
            f" {golden.repository}@{golden.commit[:8]} {golden.file}"
            f" ({', '.join(f'{k} {v}' for k, v in golden.libraries.items())})"
        )
        if not pixels.equal:
            different.append(f"{contract} by {pixels.levels:.3g} levels in {pixels.picture}")
    for group in _same_encoders(names) if model or with_tokens else ():
        with _weights(group[0], model) as (folder, weights):
            for contract in group:
                rms = tokens[contract] = goldens.check_tokens(contract, folder)
                is_equal = rms <= goldens.MAX_TOKEN_RMS
                say(
                    f"{contract}: tokens {'equal' if is_equal else 'DIFFERENT'}, relative RMS"
                    f" {rms:.1e} (limit {goldens.MAX_TOKEN_RMS:g}, fp32, weights {weights})"
                )
                if not is_equal:
                    different.append(f"{contract} by {rms:.2g} in its tokens")
    if as_table:
        print(table_text(checks, tokens))
    if different:
        raise PerceptionError(
            f"Not what the policies' own code gives: {'; '.join(different)}. Installed are"
            f" {_versions()}: install the versions of constraints.txt."
        )
    return 0


def table_text(checks: Mapping[str, PixelCheck], tokens: Mapping[str, float]) -> str:
    """Return the table of policies in docs/contracts.md, in Markdown, without a final line end.

    checks: of the pixels, by contract. tokens: relative RMS, of those that were compared.
    """
    from siglip_perception.parity import goldens

    rows = [
        "| contract | policy's own code | pixels: largest difference of 255"
        " | tokens: relative RMS |",
        "|---|---|---|---|",
    ]
    for name, pixels in checks.items():
        golden = goldens.load(name)
        figure = f"{tokens[name]:.1e}" if name in tokens else "-"
        rows.append(
            f"| `{name}` | {golden.repository} {golden.commit[:8]}, `{golden.file}`"
            f" | {pixels.levels:.3f} | {figure} |"
        )
    return "\n".join(rows)


def _same_encoders(names: Sequence[str]) -> list[list[str]]:
    """Group contracts whose encoders can share random weights, which take longest to write."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        # What a checkpoint's shape depends on.
        shapes = tuple(
            (
                *(spec.name, spec.image_size, spec.patch, spec.dim, spec.registers, spec.layers),
                *(spec.heads, spec.hidden_act, spec.layer_norm_eps, spec.timm),
            )
            for spec in contracts.get(name).encoders
        )
        groups.setdefault(shapes, []).append(name)
    return list(groups.values())


@contextmanager
def _weights(name: str, model: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder whose weights keep the contract, and what they are."""
    from siglip_perception.parity.random_weights import write_random
    from siglip_perception.parity.reference import need_reference

    need_reference(contracts.get(name))
    if model:
        yield checkpoints.resolve(model), model
        return
    with tempfile.TemporaryDirectory(prefix="contracts.") as folder:
        write_random(contracts.get(name), Path(folder), 0)
        yield Path(folder), "random, seed 0"


def _versions() -> str:
    present = []
    for name in _LIBRARIES:
        try:
            present.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(present)
