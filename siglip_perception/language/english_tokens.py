"""Split of English text into words, without a policy's prompt and with typos corrected."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from siglip_perception.language import english_words as words

_TOKEN = re.compile(
    r"[^\W_]+(?:\.\d+)?(?:['’\-&/][^\W_]+)*[°%]?|[.,;:!?()\[\]{}—–]|(?<=\s)-(?=\s)", re.UNICODE
)
_ARROW = re.compile(r"\s*(?:[-=]+>|→|\|)\s*")
_PAUSES = dict.fromkeys("()[]{}—–-", ",")
ENDS = frozenset(".;!?")
# "In: What action should the robot take to pick up the cup? Out:"
_LABEL = (
    r"(?:in|input|target|object|instructions?|task|command|user|human|prompt|goal|language|robot|question|query"
    r"|objective|request|order|system|q|text|step ?\d*|your task|the task|new task|todo)"
)
_TAIL = r"(?:out|output|answer|actions?|assistant|response|a|result|state|robot|agent|plan|reply)"
_HEAD = re.compile(rf"^\W*(?:{_LABEL}\s*(?:\d+\s*)?(?::|=|->|#+)\s*)+", re.IGNORECASE)
_FOOT = re.compile(rf"[\s,;.#]*(?:(?<=[\s,;.?!#]){_TAIL}\s*:.*)+$", re.IGNORECASE | re.DOTALL)
_FRAME = re.compile(
    r"^\W*(?:what|which)\s+(?:action|actions|steps?|motion|motions)?\s*"
    r"(?:should|must|will|does|can|would|do)\s+(?:the|a|an|this|your|i|you|we)?\s*"
    r"(?:\w+\s+){0,3}?(?:take|do|perform|execute|make|follow)\s+(?:next\s+)?(?:in\s+order\s+)?to\s+"
    r"(?P<inside>.+?)\s*\?*\s*$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    """A word. surface: as written. word: for the grammar, in lower case and correct spelling."""

    surface: str
    word: str


def unwrap(text: str) -> str:
    """Return the sentence inside a policy's prompt; other text unchanged."""
    inside = _HEAD.sub("", text)
    if inside != text or _FRAME.match(text):
        shorter = _FOOT.sub("", inside)
        inside = shorter if shorter.strip() else inside
    frame = _FRAME.match(inside)
    return frame["inside"] if frame else inside


def tokens(text: str) -> list[Token]:
    """Split a text into words and marks; brackets and dashes become commas."""
    sentence = []
    for surface in _TOKEN.findall(_ARROW.sub(", ", text.replace("’", "'"))):
        surface = _PAUSES.get(surface, surface)
        lower = surface.lower()
        sentence.append(Token(surface, fix_typo(lower) if len(lower) > 2 else lower))
    return _merge_pairs(sentence)


def _merge_pairs(sentence: list[Token]) -> list[Token]:
    """Merge two words that are one: "left most", "left hand", "upside down", "can not"."""
    result: list[Token] = []
    sentence = _idioms(sentence)
    for token in sentence:
        before = result[-1].word if result else ""
        pair = (before, token.word)
        if token.word == "most" and before in ("left", "right", "top", "bottom", "upper", "lower"):
            word = f"{before}most"
        elif pair in _PAIRS:
            word = _PAIRS[pair]
        else:
            result.append(token)
            continue
        result[-1] = Token(f"{result[-1].surface} {token.surface}", word)
    return result


def _idioms(sentence: list[Token]) -> list[Token]:
    """Replace verbs of several words: "get rid of", "take a look at", "keep away from"."""
    result: list[Token] = []
    i = 0
    while i < len(sentence):
        for size in (4, 3, 2):
            verb = _IDIOMS.get(tuple(token.word for token in sentence[i : i + size]))
            if verb is not None:
                surface = " ".join(token.surface for token in sentence[i : i + size])
                result += [Token(surface, word) for word in verb.split()]
                i += size
                break
        else:
            result.append(sentence[i])
            i += 1
    return result


_IDIOMS = {
    tuple(idiom.split()): verb
    for idiom, verb in (
        ("get rid of", "discard"),
        ("getting rid of", "discard"),
        ("take a look at", "look at"),
        ("have a look at", "look at"),
        ("let go of", "release"),
        ("let go", "release"),
        ("get hold of", "grab"),
        ("get a hold of", "grab"),
        ("take hold of", "grab"),
        ("grab hold of", "grab"),
        ("grab a hold of", "grab"),
        ("back and forth", "sideways"),
        ("left and right", "sideways"),
        ("up and down", "sideways"),
        ("side to side", "sideways"),
        ("make use of", "use"),
        ("take care of", "clean"),
        ("keep away from", "avoid"),
        ("stay away from", "avoid"),
        ("steer clear of", "avoid"),
        ("stay clear of", "avoid"),
        ("watch out for", "avoid"),
        ("look out for", "avoid"),
        ("keep off", "avoid"),
        ("be careful with", "avoid"),
        ("be careful of", "avoid"),
        ("point out", "point at"),
    )
}
_PAIRS = {
    ("left", "hand"): "left-hand",
    ("right", "hand"): "right-hand",
    ("upside", "down"): "upside-down",
    ("inside", "out"): "inside-out",
    ("face", "up"): "face-up",
    ("face", "down"): "face-down",
    ("counter", "clockwise"): "counterclockwise",
    ("anti", "clockwise"): "anticlockwise",
    ("do", "not"): "don't",
    ("can", "not"): "cannot",
    ("must", "not"): "mustn't",
    ("should", "not"): "shouldn't",
    ("in", "to"): "into",
    ("on", "to"): "onto",
    ("center", "most"): "middle",
    ("as", "well"): "too",
    ("at", "once"): "now",
    ("right", "now"): "now",
    ("right", "away"): "now",
    ("bring", "over"): "bring",
}


@lru_cache(maxsize=1)
def _spellings() -> tuple[frozenset[str], dict[str, str]]:
    """Return all known words, and a map to a word from its spellings with one letter missing."""
    vocabulary = set(words.VERBS) | {"form", "pace", "font", "lace", "ease"}
    for group in vars(words).values():
        if isinstance(group, (frozenset, dict)):
            vocabulary.update(word for word in group if isinstance(word, str))
    mending = {w for w in words.VERBS | words.COLORS | _OFTEN if len(w) >= 4} | {
        "the",
        "and",
        "cup",
    }
    shorter: dict[str, str] = {}
    for word in sorted(mending, key=lambda w: (w not in _OFTEN, len(w), w)):
        for i in range(len(word)):
            shorter.setdefault(word[:i] + word[i + 1 :], word)
    return frozenset(vocabulary | _OFTEN), shorter


# Common words, which typos are matched with first.
_OFTEN = frozenset(
    [
        "the",
        "and",
        "put",
        "pick",
        "place",
        "grab",
        "open",
        "close",
        "move",
        "take",
        "bring",
        "push",
        "pull",
        "turn",
        "please",
        "could",
        "would",
        "from",
        "into",
        "onto",
        "with",
        "under",
        "behind",
        "between",
        "next",
        "left",
        "right",
        "over",
        "around",
        "without",
        "toward",
        "towards",
        "front",
        "inside",
        "near",
        "above",
        "below",
        "other",
        "don't",
        "please",
    ]
)
_GRAMMAR = frozenset(
    [
        "from",
        "into",
        "onto",
        "with",
        "under",
        "behind",
        "between",
        "around",
        "without",
        "toward",
        "please",
        "could",
        "beside",
    ]
)


@lru_cache(maxsize=4096)
def fix_typo(word: str) -> str:
    """Correct one wrong, missing, doubled or swapped letter of a known word."""
    vocabulary, shorter = _spellings()
    if word in vocabulary or not word.isalpha() or not word.isascii() or len(word) > 12:
        return word
    stem = verb_of(word)
    if stem:
        return word
    swaps = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)]
    for candidate in swaps:
        if candidate in _OFTEN or (len(word) > 3 and candidate in shorter.values()):
            return candidate
    if len(word) < 4:
        return word
    # A missing letter, a doubled one; a wrong one in a word of grammar.
    if word in shorter and shorter[word][0] == word[0] and shorter[word] in _OFTEN:
        return shorter[word]
    for i in range(len(word)):
        shortened = word[:i] + word[i + 1 :]
        if shortened in _OFTEN and i and word[i] == word[i - 1]:
            return shortened
        candidate = shorter.get(shortened, "")
        alike = candidate in _GRAMMAR and len(candidate) == len(word) and candidate[0] == word[0]
        if alike and sum(a != b for a, b in zip(candidate, word, strict=True)) == 1:
            return candidate
    return word


def is_gerund(word: str) -> bool:
    """Tell whether a word ends as "picking" does, and not as "bring" or "ring" do."""
    return word.endswith("ing") and len(word) > 4 and word not in words.VERBS


@lru_cache(maxsize=4096)
def verb_of(word: str) -> str:
    """Return the verb that a word is a form of, by its ending; empty if it is of no known verb."""
    if word in words.VERBS:
        return word
    if word in words.IRREGULAR:
        return words.IRREGULAR[word]
    for ending in ("ing", "ed", "es", "s"):
        if not word.endswith(ending) or len(word) - len(ending) < 2:
            continue
        stem = word[: -len(ending)]
        for candidate in (stem, f"{stem}e", stem[:-1] if stem[-1:] == stem[-2:-1] else stem):
            if candidate in words.VERBS:
                return candidate
        if ending in ("ed", "es") and stem.endswith("i") and f"{stem[:-1]}y" in words.VERBS:
            return f"{stem[:-1]}y"
    for prefix in ("un", "re", "dis", "de", "over", "mis", "pre"):
        stem = word.removeprefix(prefix)
        if stem != word and len(stem) > 2 and stem in words.VERBS - words.NOUN_TOO:
            return stem
    return ""
