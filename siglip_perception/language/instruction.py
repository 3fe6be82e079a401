"""Reading of a spoken or typed instruction into the phrases that name its objects.

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
class SanitizedText:
    """Text that is safe to tokenize, log and publish.

    changed: control, bidi, special-token or unassigned characters were removed. Normalization
        (NFKC) and collapsed white space do not count.
    """

    text: str
    changed: bool


@dataclass(frozen=True)
class Instruction:
    """A sentence, or a list of phrases, and what it asks for.

    text: the sanitized sentence.
    phrases: the objects that it names, each once, in order; at most MAX_PHRASES of at most
        MAX_PHRASE_CHARS characters.
    roles: one for each phrase. An object that the sentence forbids or excludes ("not the red cup")
        is UNKNOWN: grounded, but not acted on.
    changed: something was removed or cut; worth a warning.
    mentions: the places in the sentence that name the phrases, with steps, relations and choices
        among several objects; empty for a list of phrases.
    verbs: the words that were read as verbs, as written.
    """

    text: str
    phrases: tuple[str, ...]
    roles: tuple[Role, ...]
    changed: bool = False
    mentions: tuple[Mention, ...] = ()
    verbs: tuple[str, ...] = ()

    @property
    def confidence(self) -> float:
        """Confidence of the reading, in [0, 1]; below 0.5 it is a guess."""
        return min((mention.confidence for mention in self.mentions), default=1.0)

    @property
    def explanation(self) -> str:
        """Explanation of a doubtful reading, or of one without phrases, and what to do."""
        verbs = ", ".join(f'"{verb}"' for verb in self.verbs[:5])
        verb_text = (
            f": {verbs} {'is' if len(self.verbs) == 1 else 'are'} read as what to do"
            if verbs
            else ""
        )
        text = _short(self.text)
        if not self.phrases:
            return (
                f'The instruction "{text}" names no object{verb_text}. Name one, as in "pick up'
                ' the red cup", or give what to look for in the parameter phrases.'
            )
        if self.confidence < GUESS:
            names = ", ".join(f'"{phrase}"' for phrase in self.phrases[:5])
            return (
                f'The instruction "{text}" is a guess{verb_text}, and {names} as what it names.'
                " If that is wrong, say it in other words, or give what to look for in the"
                " parameter phrases."
            )
        return ""


def sanitize(text: str) -> SanitizedText:
    """Normalize (NFKC), remove control, bidi and special-token text, and collapse white space.

    Raises InstructionError if the text is over 1 KiB of UTF-8, before or after NFKC.
    """
    _check_size(text, "")
    visible, is_changed = _visible(text)
    normal = unicodedata.normalize("NFKC", visible)
    _check_size(normal, " after Unicode normalization")
    normal, is_changed_again = _visible(normal)  # NFKC can produce such characters
    changed = is_changed or is_changed_again
    while True:  # removing one token can leave another: "<<s>s>"
        shorter = _SPECIAL.sub(" ", normal)
        if shorter == normal:
            break
        normal, changed = shorter, True
    return SanitizedText(_SPACE.sub(" ", normal).strip(), changed)


def parse(text: str) -> Instruction:
    """Sanitize a sentence and read its phrases; an empty sentence has none.

    Phrases beyond MAX_PHRASES are left out and longer ones cut, which sets `changed`.
    Raises InstructionError if the text is over 1 KiB.
    """
    clean = sanitize(text)
    if korean.is_korean(clean.text):
        reading = korean.parse(clean.text)
    elif english.is_english(clean.text):
        reading = english.parse(clean.text)
    else:
        parts = _SENTENCE_ENDS.split(clean.text)
        is_list = len(parts) > 1 or len(clean.text.split()) < 4
        confidence = 1.0 if is_list else _UNREAD
        reading = Reading(tuple(Phrase(part, confidence=confidence) for part in parts))
    return _instruction(clean.text, reading, clean.changed)


def from_phrases(phrases: Iterable[str]) -> Instruction:
    """Make an instruction of phrases, each sanitized, without empty ones and repetitions.

    `text` is the phrases joined by ". ". Raises InstructionError if a phrase is over 1 KiB or
    there are more than MAX_PHRASES phrases.
    """
    raw_phrases = list(phrases)
    if len(raw_phrases) > MAX_PHRASES:
        raise InstructionError(
            f"{len(raw_phrases)} phrases are too many: ask for at most {MAX_PHRASES} at once."
        )
    clean = [sanitize(phrase) for phrase in raw_phrases]
    reading = Reading(tuple(Phrase(phrase.text) for phrase in clean))
    instruction = _instruction("", reading, any(phrase.changed for phrase in clean))
    return replace(instruction, text=". ".join(instruction.phrases), mentions=())


def _instruction(text: str, reading: Reading, changed: bool) -> Instruction:
    roles: dict[str, Role] = {}
    spelling: dict[str, str] = {}
    entries: list[tuple[int, Phrase]] = []
    numbers: dict[int, int] = {}  # id of a phrase -> index of its mention
    for phrase in reading.phrases:
        full_text = phrase.text.strip(_EDGES)
        short = full_text[:MAX_PHRASE_CHARS].rstrip()
        key = short.casefold()
        if not any(character.isalnum() for character in key):
            continue
        if key not in roles and len(roles) == MAX_PHRASES:
            changed = True
            break
        changed = changed or short != full_text
        spelling.setdefault(key, short)
        # "go to the cup and pick it up": an object that is acted on anywhere is a target.
        roles[key] = stronger(roles.get(key, Role.UNKNOWN), phrase.role)
        numbers[id(phrase)] = len(entries)
        entries.append((list(spelling).index(key), phrase))
    return Instruction(
        text,
        tuple(spelling.values()),
        tuple(roles.values()),
        changed,
        tuple(_mention(index, phrase, numbers) for index, phrase in entries),
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


def _check_size(text: str, stage: str) -> None:
    # Check the number of characters first, to avoid encoding megabytes.
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InstructionError(
            f"The instruction is longer than {MAX_BYTES} bytes{stage}: say it in fewer words."
        )


def _visible(text: str) -> tuple[str, bool]:
    """Remove control, format, surrogate, private and unassigned characters; tell if any was."""
    single_line = text.translate(_LINE_ENDS)
    visible = "".join(c for c in single_line if not unicodedata.category(c).startswith("C"))
    return visible, len(visible) != len(single_line)
