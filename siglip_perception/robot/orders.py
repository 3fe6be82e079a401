"""Read the user's own instructions, and refuse those that the simulated table has nothing for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siglip_perception.errors import PerceptionError
from siglip_perception.language import korean
from siglip_perception.language.instruction import parse
from siglip_perception.robot.episodes import GRASPED_KINDS, PLACES, Order
from siglip_perception.scenes.vocabulary import LANGUAGES, PHRASE_CLASSES, Language, PhraseClass
from siglip_perception.types import Role
from siglip_perception.util.files import read_regular

MAX_FILE_BYTES = 1 << 20
_NAMES = {
    form: phrase for phrase in PHRASE_CLASSES for lang in LANGUAGES for form in phrase.forms(lang)
}


def read_orders(path: Path) -> list[Order]:
    """Read a file with one instruction a line; empty lines and those that begin with # are none.

    Raises PerceptionError, with the line's number, for what cannot be read or done.
    """
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise PerceptionError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    except OSError as error:
        raise PerceptionError(f"{path} cannot be read: {error.strerror}.") from error
    orders = [
        read_order(line, f"{path}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not orders:
        raise PerceptionError(f"{path} has no instruction: write one a line.")
    return orders


def read_order(text: str, source: str = "--instruction") -> Order:
    """Read one instruction, which has to name one thing to take and one place to put it on."""
    instruction = parse(text)
    named = dict(zip(instruction.roles, instruction.phrases, strict=True))
    target = _one_of(named.get(Role.TARGET, ""), GRASPED_KINDS)
    place = _one_of(named.get(Role.PLACE, ""), PLACES)
    if len(instruction.phrases) != 2 or target is None or place is None:
        read = ", ".join(f'"{phrase}"' for phrase in instruction.phrases) or "nothing"
        raise PerceptionError(
            f'{source}: "{instruction.text}" names {read}, and the simulated arm takes one'
            f" {_words(GRASPED_KINDS)} and puts it on a {_words(PLACES)}: write, for example,"
            ' "put the red cup on the blue plate".'
        )
    if target.color is not None and target.color == place.color:
        # The scene's things have a color each.
        raise PerceptionError(
            f'{source}: "{instruction.text}" names two things of one color, and each thing on the'
            " simulated table has its own: name another color."
        )
    language: Language = "ko" if korean.is_korean(instruction.text) else "en"
    return Order(instruction.text, language, target, place)


def class_of(phrase: str) -> PhraseClass | None:
    """Look up a plain phrase, such as "red cup" or "빨간 컵"; None for other words."""
    return _NAMES.get(phrase)


def _one_of(phrase: str, kinds: Sequence[str]) -> PhraseClass | None:
    phrase_class = class_of(phrase)
    return phrase_class if phrase_class is not None and phrase_class.kind in kinds else None


def _words(kinds: Sequence[str]) -> str:
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}"
