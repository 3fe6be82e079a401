"""`siglip-perception phrases`: what a sentence is understood to ask for."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from siglip_perception.language.instruction import Instruction, parse
from siglip_perception.language.mentions_json import mentions_as_json
from siglip_perception.types import Link, Mention, Relation, Role

_TOWARDS = frozenset({Link.FROM, Link.WITH})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception phrases`."""
    parser.add_argument("instruction", help='"put the red cup left of the bowl", or a list')
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the phrases of a sentence with roles, steps, places and which of several is meant."""
    understood = parse(args.instruction)
    if args.json:
        print(json.dumps(as_json(understood), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_sentences(understood)) or "no phrase")
        if understood.explanation:
            print(understood.explanation, file=sys.stderr)
    return 0


def as_json(understood: Instruction) -> dict[str, Any]:
    """JSON values. `relations` has an entry for each relation that chooses among several objects,
    `mentions` one for each place of the sentence that names a phrase."""
    return {
        "instruction": understood.text,
        "phrases": list(understood.phrases),
        "roles": [role.name.lower() for role in understood.roles],
        "relations": [
            {
                "phrase": understood.phrases[mention.phrase],
                "role": mention.role.name.lower(),
                "where": relation.where.value,
                "of": _landmarks(understood, relation),
                "rank": relation.rank,
                "many": mention.many,
            }
            for mention in understood.mentions
            for relation in mention.relations
        ],
        "changed": understood.changed,
        "mentions": mentions_as_json(understood.phrases, understood.mentions),
        "steps": max((mention.step for mention in understood.mentions), default=0),
        "confidence": round(understood.confidence, 3),
        "explanation": understood.explanation,
    }


def _landmarks(understood: Instruction, relation: Relation) -> list[str]:
    return [understood.phrases[understood.mentions[i].phrase] for i in relation.landmarks]


def _sentences(understood: Instruction) -> list[str]:
    several = any(mention.step > 1 for mention in understood.mentions)
    return [_sentence(understood, mention, several) for mention in understood.mentions]


def _sentence(understood: Instruction, mention: Mention, several: bool) -> str:
    parts = [understood.phrases[mention.phrase]]
    if mention.role:
        parts.append(mention.role.name.lower())
    if several:
        parts.append(f"step {mention.step}")
    if mention.which or mention.rank:
        parts.append(_which(mention))
    if mention.link is not None or mention.of is not None:
        parts.append(_link(understood, mention))
    if mention.confidence < 1:
        parts.append(f"confidence {mention.confidence:.2g}")
    return ", ".join(parts)


def _which(mention: Mention) -> str:
    if not mention.rank:
        return f"which: {mention.which}"
    return f"which: number {mention.rank}" + (f" from {mention.which}" if mention.which else "")


def _link(understood: Instruction, mention: Mention) -> str:
    """ "on it: cup" for a place or a landmark of the cup; "with it" for an instrument."""
    link = "there" if mention.link is None else f"{mention.link.value} it"
    of = "" if mention.of is None else understood.phrases[understood.mentions[mention.of].phrase]
    if mention.link in _TOWARDS and mention.role is not Role.PLACE:
        return link
    return f"{link}: {of}" if of else link
