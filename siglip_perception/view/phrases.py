"""Phrases that a clicked thing is compared with."""

from __future__ import annotations

from pathlib import Path

from siglip_perception.errors import PerceptionError
from siglip_perception.language.instruction import from_phrases
from siglip_perception.scenes.vocabulary import PHRASE_CLASSES

MAX_FILE_BYTES = 2**20
MAX_PHRASES = 2000


def common_phrases() -> tuple[str, ...]:
    """List things and colors of a tabletop, in English: what the embedded model was trained on."""
    return tuple(dict.fromkeys(phrase.forms("en")[0] for phrase in PHRASE_CLASSES))


def read_phrases(path: Path) -> tuple[str, ...]:
    """Read a text file with a phrase on each line, UTF-8; empty lines and repetitions are left
    out. Raises PerceptionError for a file that cannot be read, is too long or names nothing."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PerceptionError(f"{path} is larger than 1 MiB: name a shorter list of phrases.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PerceptionError(
            f"Cannot read the phrases in {path} ({error}): name a text file in UTF-8, with a"
            " phrase on each line."
        ) from error
    phrases: dict[str, None] = {}
    for line in filter(str.strip, lines):
        phrases.update(dict.fromkeys(from_phrases([line]).phrases))
    if not phrases:
        raise PerceptionError(f"{path} has no phrases: write one on each line.")
    if len(phrases) > MAX_PHRASES:
        raise PerceptionError(
            f"{path} has {len(phrases)} phrases: give at most {MAX_PHRASES} at once."
        )
    return tuple(phrases)
