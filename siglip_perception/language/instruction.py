"""A spoken or typed instruction -> the phrases that name its objects.

English and Korean sentences are read by rules; explicit lists ("red cup. plate.") work in every
language; a sentence in any other language is one phrase, whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

from siglip_perception.errors import InstructionError
from siglip_perception.language import english, korean
from siglip_perception.language.phrase import Phrase, Reading, relations_of
from siglip_perception.types import Mention, Role, stronger

MAX_BYTES = 1024
MAX_PHRASES = 32
MAX_PHRASE_CHARS = 128
GUESS = 0.5  # a confidence below it

# <s>, </s>, <|endoftext|>, <unused0>, [CLS], [/INST]: text that a tokenizer may take for its own.
_SPECIAL = re.compile(r"<[^<>]{0,64}>|\[/?[A-Z_]{2,16}\d{0,4}\]")
_LINE_ENDS = dict.fromkeys(map(ord, "\t\n\r\v\f\x85\u2028\u2029"), " ")
_SPACE = re.compile(r"\s+")
_SENTENCE_ENDS = re.compile(r"[.;。；]+\s*")
# In a language that no grammar here reads, a sentence is one phrase, whole.
_UNREAD = 0.3
_EDGES = " \t.,;:!?、。，\"'“”‘’()[]{}"


@dataclass(frozen=True)
class Sanitised:
    """Text that is safe to tokenise, log and publish.

    changed: control, bidi, special-token or unassigned characters were taken out. Normalising
    (NFKC) and collapsing white space do not count.
    """

    text: str
    changed: bool


@dataclass(frozen=True)
class Instruction:
    """What an instruction asks for.

    text: the sanitised sentence. phrases: what it names, each once, in its order; at most
    MAX_PHRASES, each of at most MAX_PHRASE_CHARS characters. roles: one for each phrase; what the
    sentence forbids or leaves out ("not the red cup") is UNKNOWN: looked at, not acted on.
    changed: something was stripped or cut; worth a warning. mentions: the places that name the
    phrases, with their steps, relations and what tells one of several from the others; none where
    phrases were given as such. verbs: the words that were taken for verbs, as they are said.
    """

    text: str
    phrases: tuple[str, ...]
    roles: tuple[Role, ...]
    changed: bool = False
    mentions: tuple[Mention, ...] = ()
    verbs: tuple[str, ...] = ()

    @property
    def confidence(self) -> float:
        """How sure the reading is, in [0, 1]; below 0.5 it is a guess."""
        return min((mention.confidence for mention in self.mentions), default=1.0)

    @property
    def explanation(self) -> str:
        """How the text was read, where it is doubtful or names nothing, and what to do."""
        verbs = ", ".join(f'"{verb}"' for verb in self.verbs[:5])
        taken = (
            f": {verbs} {'is' if len(self.verbs) == 1 else 'are'} read as what to do"
            if verbs
            else ""
        )
        if not self.phrases:
            return (
                f'The instruction "{_short(self.text)}" names no object{taken}. Name one, as in'
                ' "pick up the red cup", or give what to look for in the parameter phrases.'
            )
        if self.confidence < GUESS:
            named = ", ".join(f'"{phrase}"' for phrase in self.phrases[:5])
            return (
                f'The instruction "{_short(self.text)}" is a guess{taken}, and {named} as what it'
                " names. If that is wrong, say it in other words, or give what to look for in the"
                " parameter phrases."
            )
        return ""


def sanitise(text: str) -> Sanitised:
    """NFKC, without control, bidi and special-token text, white space collapsed.

    Raises InstructionError where the text is over 1 KiB of UTF-8, before or after NFKC.
    """
    _check_size(text, "")
    visible, stripped = _visible(text)
    normal = unicodedata.normalize("NFKC", visible)
    _check_size(normal, " after Unicode normalisation")
    normal, stripped_again = _visible(normal)  # NFKC can bring such characters forth
    changed = stripped or stripped_again
    while True:  # what is left after one token is taken out can be the next: "<<s>s>"
        shorter = _SPECIAL.sub(" ", normal)
        if shorter == normal:
            break
        normal, changed = shorter, True
    return Sanitised(_SPACE.sub(" ", normal).strip(), changed)


def parse(text: str) -> Instruction:
    """Sanitise a sentence and take its phrases; an empty sentence has none.

    Phrases beyond MAX_PHRASES are left out and longer ones cut, which `changed` shows.
    Raises InstructionError where the text is over 1 KiB.
    """
    clean = sanitise(text)
    if korean.is_korean(clean.text):
        reading = korean.parse(clean.text)
    elif english.is_english(clean.text):
        reading = english.parse(clean.text)
    else:
        parts = _SENTENCE_ENDS.split(clean.text)
        listed = len(parts) > 1 or len(clean.text.split()) < 4
        confidence = 1.0 if listed else _UNREAD
        reading = Reading(tuple(Phrase(part, confidence=confidence) for part in parts))
    return _instruction(clean.text, reading, clean.changed)


def from_phrases(phrases: Iterable[str]) -> Instruction:
    """Take phrases as they are given, each sanitised; empty ones and repetitions are left out.

    `text` is the phrases joined by ". ". Raises InstructionError where a phrase is over 1 KiB, or
    for more than MAX_PHRASES phrases.
    """
    given = list(phrases)
    if len(given) > MAX_PHRASES:
        raise InstructionError(
            f"{len(given)} phrases are too many: ask for at most {MAX_PHRASES} at once."
        )
    clean = [sanitise(phrase) for phrase in given]
    reading = Reading(tuple(Phrase(phrase.text) for phrase in clean))
    taken = _instruction("", reading, any(phrase.changed for phrase in clean))
    return replace(taken, text=". ".join(taken.phrases), mentions=())


def _instruction(text: str, reading: Reading, changed: bool) -> Instruction:
    roles: dict[str, Role] = {}
    spelling: dict[str, str] = {}
    kept: list[tuple[int, Phrase]] = []
    numbers: dict[int, int] = {}  # id of a phrase -> index of its mention
    for phrase in reading.phrases:
        whole = phrase.text.strip(_EDGES)
        short = whole[:MAX_PHRASE_CHARS].rstrip()
        key = short.casefold()
        if not any(character.isalnum() for character in key):
            continue
        if key not in roles and len(roles) == MAX_PHRASES:
            changed = True
            break
        changed = changed or short != whole
        spelling.setdefault(key, short)
        # "go to the cup and pick it up": what is acted on is a target, whatever else it is.
        roles[key] = stronger(roles.get(key, Role.UNKNOWN), phrase.role)
        numbers[id(phrase)] = len(kept)
        kept.append((list(spelling).index(key), phrase))
    return Instruction(
        text,
        tuple(spelling.values()),
        tuple(roles.values()),
        changed,
        tuple(_mention(index, phrase, numbers) for index, phrase in kept),
        reading.verbs,
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mention(index: int, phrase: Phrase, numbers: dict[int, int]) -> Mention:
    return Mention(
        index,
        phrase.role,
        relations_of(phrase, numbers),
        phrase.many,
        phrase.step,
        phrase.link,
        None if phrase.of is None else numbers.get(id(phrase.of)),
        phrase.which,
        phrase.rank,
        phrase.confidence,
    )


def _check_size(text: str, when: str) -> None:
    # The number of characters first: encoding a megabyte to learn that it is too long is waste.
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InstructionError(
            f"The instruction is longer than {MAX_BYTES} bytes{when}: say it in fewer words."
        )


def _visible(text: str) -> tuple[str, bool]:
    """Without control, format, surrogate, private and unassigned characters."""
    spaced = text.translate(_LINE_ENDS)
    kept = "".join(c for c in spaced if not unicodedata.category(c).startswith("C"))
    return kept, len(kept) != len(spaced)
