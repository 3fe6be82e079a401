"""`siglip-perception phrases`: print how a sentence is read."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from siglip_perception.language.instruction import Instruction, parse
from siglip_perception.language.mentions_json import mentions_as_json
from siglip_perception.types import Link, Mention, Relation, Role

_LINKS_WITHOUT_OBJECT = frozenset({Link.FROM, Link.WITH})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception phrases`."""
    parser.add_argument("instruction", help='"put the red cup left of the bowl", or a list')
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a sentence's phrases, with their roles, steps, places and choices among several."""
    instruction = parse(args.instruction)
    if args.json:
        print(json.dumps(as_json(instruction), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_sentences(instruction)) or "no phrase")
        if instruction.explanation:
            print(instruction.explanation, file=sys.stderr)
    return 0


def as_json(instruction: Instruction) -> dict[str, Any]:
    """Return the instruction as JSON values.

    `relations` has an entry for each relation that chooses among several objects, `mentions` one
    for each mention of a phrase in the sentence.
    """
    return {
        "instruction": instruction.text,
        "phrases": list(instruction.phrases),
        "roles": [role.name.lower() for role in instruction.roles],
        "relations": [
            {
                "phrase": instruction.phrases[mention.phrase],
                "role": mention.role.name.lower(),
                "where": relation.where.value,
                "of": _landmarks(instruction, relation),
                "rank": relation.rank,
                "many": mention.many,
            }
            for mention in instruction.mentions
            for relation in mention.relations
        ],
        "changed": instruction.changed,
        "mentions": mentions_as_json(instruction.phrases, instruction.mentions),
        "steps": max((mention.step for mention in instruction.mentions), default=0),
        "confidence": round(instruction.confidence, 3),
        "explanation": instruction.explanation,
    }


def _landmarks(instruction: Instruction, relation: Relation) -> list[str]:
    return [instruction.phrases[instruction.mentions[i].phrase] for i in relation.landmarks]


def _sentences(instruction: Instruction) -> list[str]:
    several = any(mention.step > 1 for mention in instruction.mentions)
    return [_sentence(instruction, mention, several) for mention in instruction.mentions]


def _sentence(instruction: Instruction, mention: Mention, several: bool) -> str:
    parts = [instruction.phrases[mention.phrase]]
    if mention.role:
        parts.append(mention.role.name.lower())
    if several:
        parts.append(f"step {mention.step}")
    if mention.which or mention.rank:
        parts.append(_choice_text(mention))
    if mention.link is not None or mention.of is not None:
        parts.append(_link(instruction, mention))
    if mention.confidence < 1:
        parts.append(f"confidence {mention.confidence:.2g}")
    return ", ".join(parts)


def _choice_text(mention: Mention) -> str:
    if not mention.rank:
        return f"which: {mention.which}"
    return f"which: number {mention.rank}" + (f" from {mention.which}" if mention.which else "")


def _link(instruction: Instruction, mention: Mention) -> str:
    """Return "on it: cup" for a place or a landmark of the cup; "with it" for an instrument."""
    link = "there" if mention.link is None else f"{mention.link.value} it"
    of = "" if mention.of is None else instruction.phrases[instruction.mentions[mention.of].phrase]
    if mention.link in _LINKS_WITHOUT_OBJECT and mention.role is not Role.PLACE:
        return link
    return f"{link}: {of}" if of else link
