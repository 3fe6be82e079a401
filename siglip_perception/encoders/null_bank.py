"""The null bank's embeddings: made once for a text tower, then read from a file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from siglip_perception.encoders.dead_weights import are_alike
from siglip_perception.errors import CheckpointError
from siglip_perception.language.null_phrases import BANKS
from siglip_perception.util.files import write_atomically

if TYPE_CHECKING:
    from siglip_perception.encoders.encoders import TextEncoder

BANK = "bank.safetensors"
_LOGGER = logging.getLogger(__name__)
_KEY = "key"


def bank_key(text_digest: str, templates: Mapping[str, tuple[str, ...]]) -> str:
    """Hex SHA-256 of all that the embeddings depend on: text tower, phrases and templates."""
    content = [text_digest, {k: list(v) for k, v in templates.items()}, dict(BANKS)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_bank(
    encode: TextEncoder, templates: Mapping[str, tuple[str, ...]], folder: Path, text_digest: str
) -> dict[str, Tensor]:
    """Embed every language's bank: unit vectors float32 [K, D], on the encoder's device.

    Read from `bank.safetensors` in the model's folder or from the cache, where one of the same
    text tower, phrases and templates is there. folder: of the model.
    Raises CheckpointError where the text tower tells no phrases apart.
    """
    key = bank_key(text_digest, templates)
    cache = _cache_file(key)
    for path in (folder / BANK, cache):
        bank = None if path is None else _read(path, key)
        if bank is not None:
            break
    else:
        bank = {
            language: encode(phrases, templates[language])[0].cpu().half()
            for language, phrases in BANKS.items()
        }
        _check(bank, folder)
        if cache is not None:
            _keep(cache, bank, key)
    return {x: values.float().to(encode.device) for x, values in bank.items()}


def write_bank(path: Path, bank: Mapping[str, Tensor], key: str) -> None:
    """Write embeddings [K, D] by language as float16. Raises OSError."""
    halves = {language: values.cpu().half().contiguous() for language, values in bank.items()}
    write_atomically(path, save(halves, {_KEY: key}))


def _check(bank: Mapping[str, Tensor], folder: Path) -> None:
    for language, values in bank.items():
        if are_alike(values):
            raise CheckpointError(
                f"SigLIP's text tower in {folder} gives all phrases of the null bank"
                f" ({language}) the same vector, or none: its weights are empty or broken, get a"
                " fresh copy."
            )


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get(_KEY) != key:
                return None
            return {language: file.get_tensor(language) for language in BANKS}
    except (OSError, SafetensorError):
        return None


def _keep(path: Path, bank: Mapping[str, Tensor], key: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bank(path, bank, key)
    except OSError as error:
        _LOGGER.debug("The null bank is not kept in %s (%s).", path, error.strerror)


def _cache_file(key: str) -> Path | None:
    """Path in $XDG_CACHE_HOME or ~/.cache; None where there is neither."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "siglip_perception" / "banks" / f"{key[:32]}.safetensors"
