"""Sentences with what they name, and how well they are read.

    python test/scoring.py test/language/sentences_en.txt

A line of such a file is `sentence | ROLE phrase {key=value; key=value} | ROLE phrase ...`.
ROLE: T target, P place, U unknown (a landmark, a source, an instrument, something forbidden).
Phrases stand in the order of first mention, each once. Keys, only where the sentence says so:
rel: types.Link; of: the phrase that a landmark tells apart; step: where there are several;
which: left, largest, last, all, 2, "2 from left".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siglip_perception.errors import InstructionError
from siglip_perception.language.instruction import Instruction, parse
from siglip_perception.types import Role

_ROLES = {"T": Role.TARGET, "P": Role.PLACE, "U": Role.UNKNOWN}
_LETTERS = {role: letter for letter, role in _ROLES.items()}


@dataclass(frozen=True)
class Item:
    """One phrase of a sentence; empty keys say nothing. step: 1 where the sentence has one."""

    phrase: str
    role: Role
    rel: str = ""
    step: int = 1
    which: str = ""
    of: str = ""
    other_role: Role | None = None  # of a later mention: "open the drawer", "put it in the drawer"

    def __str__(self) -> str:
        keys = [
            f"{key}={getattr(self, key)}" for key in ("rel", "which", "of") if getattr(self, key)
        ]
        keys += [f"step={self.step}"] if self.step > 1 else []
        return f"{_LETTERS[self.role]} {self.phrase}" + (f" {{{'; '.join(keys)}}}" if keys else "")


@dataclass(frozen=True)
class Score:
    """Failing lines, one a sentence, by what is wrong in it; sentences: how many there are."""

    sentences: int
    roles: tuple[str, ...]
    relations: tuple[str, ...]
    steps: tuple[str, ...]
    which: tuple[str, ...]

    def share(self, failing: Sequence[str]) -> float:
        """Share of sentences, in [0, 1], that do not fail."""
        return 1 - len(failing) / max(self.sentences, 1)


def load(path: Path) -> list[tuple[str, list[Item]]]:
    """Sentences with what they name."""
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("# "):
            continue
        sentence, *parts = line.split("|")
        cases.append(
            (
                sentence.strip().replace("\\n", "\n"),
                [_item(part) for part in parts if part.strip()],
            )
        )
    return cases


def _item(part: str) -> Item:
    text, _, rest = part.strip().partition("{")
    role, _, phrase = text.strip().partition(" ")
    keys = dict(pair.strip().split("=", 1) for pair in rest.strip(" }").split(";") if pair.strip())
    return Item(
        phrase.strip(),
        _ROLES[role],
        keys.get("rel", ""),
        int(keys.get("step", "1")),
        keys.get("which", ""),
        keys.get("of", ""),
    )


def items(read: Instruction) -> list[Item]:
    """Return the reading, each phrase once, by its first mention."""
    result: dict[int, Item] = {}
    for mention in read.mentions:
        if mention.phrase in result:
            continue
        which = mention.which
        if mention.rank:
            which = f"{mention.rank} from {which}" if which else str(mention.rank)
        of = read.mentions[mention.of] if mention.of is not None else None
        result[mention.phrase] = Item(
            read.phrases[mention.phrase],
            mention.role,
            mention.link.value if mention.link else "",
            mention.step,
            which,
            read.phrases[of.phrase] if of is not None else "",
            read.roles[mention.phrase],
        )
    return list(result.values())


def score(cases: Sequence[tuple[str, list[Item]]]) -> Score:
    """Read every sentence and compare. `of` counts only where the gold line states it."""
    roles, relations, steps, which = [], [], [], []
    for sentence, gold in cases:
        try:
            read = items(parse(sentence))
        except InstructionError as error:
            roles.append(f"{sentence}: {error}")
            continue
        shown = [" | ".join(map(str, entry)) for entry in (gold, read)]
        line = f"{sentence}\n    gold {shown[0]}\n    read {shown[1]}"
        by_phrase = {item.phrase: item for item in read}
        if {item.phrase for item in gold} != set(by_phrase) or any(
            item.role not in (by_phrase[item.phrase].role, by_phrase[item.phrase].other_role)
            for item in gold
        ):
            roles.append(line)
            continue
        pairs = [(item, by_phrase[item.phrase]) for item in gold]
        if any(a.rel != b.rel or (a.of and a.of != b.of) for a, b in pairs):
            relations.append(line)
        if any(a.step != b.step for a, b in pairs):
            steps.append(line)
        if any(a.which != b.which for a, b in pairs):
            which.append(line)
    return Score(len(cases), tuple(roles), tuple(relations), tuple(steps), tuple(which))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="+", help="sentences with what they name")
    parser.add_argument("--quiet", action="store_true", help="print the figures only")
    args = parser.parse_args()
    for path in args.file:
        result = score(load(path))
        known_count = result.sentences - len(result.roles)
        print(f"{path.name}: {result.sentences} sentences")
        for name in ("roles", "relations", "steps", "which"):
            failing = getattr(result, name)
            of = result.sentences if name == "roles" else known_count
            label = "phrases and roles" if name == "roles" else name
            print(f"  {label}: {of - len(failing)} of {of} ({1 - len(failing) / max(of, 1):.1%})")
        if not args.quiet:
            for name in ("roles", "relations", "steps", "which"):
                for line in getattr(result, name):
                    print(f"{name}: {line}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
