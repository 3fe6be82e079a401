"""`siglip-perception phrases`: what a sentence is understood to ask for."""

from __future__ import annotations

import argparse
import json
from typing import Any

from siglip_perception.language.instruction import Instruction, parse
from siglip_perception.types import Mention, Relation, Where

_ALONE = {
    Where.LEFT: "the leftmost",
    Where.RIGHT: "the rightmost",
    Where.ABOVE: "the uppermost",
    Where.ON: "the uppermost",
    Where.BELOW: "the lowest",
    Where.FRONT: "the nearest",
    Where.NEAR: "the nearest",
    Where.BEHIND: "the farthest",
    Where.FAR: "the farthest",
    Where.MIDDLE: "the one in the middle",
    Where.BETWEEN: "the one in the middle",
    Where.IN: "the one in the middle",
    Where.LARGEST: "the largest",
    Where.SMALLEST: "the smallest",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception phrases`."""
    parser.add_argument("instruction", help='"put the red cup left of the bowl", or a list')
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the phrases of a sentence, with their roles and what tells one of several apart."""
    understood = parse(args.instruction)
    if args.json:
        print(json.dumps(as_json(understood), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_sentences(understood)) or "no phrase")
    return 0


def as_json(understood: Instruction) -> dict[str, Any]:
    """JSON values; `relations` has an entry for each relation of each mention."""
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
    }


def _landmarks(understood: Instruction, relation: Relation) -> list[str]:
    return [understood.phrases[understood.mentions[i].phrase] for i in relation.landmarks]


def _sentences(understood: Instruction) -> list[str]:
    lines = []
    for mention in understood.mentions:
        words = [understood.phrases[mention.phrase]]
        if mention.role:
            words.append(mention.role.name.lower())
        words += [_told(understood, mention, relation) for relation in mention.relations]
        lines.append(", ".join(words))
    return lines


def _told(understood: Instruction, mention: Mention, relation: Relation) -> str:
    if relation.landmarks:
        return f"{relation.where.value}: {' and '.join(_landmarks(understood, relation))}"
    rank = f" (number {relation.rank})" if relation.rank > 1 else ""
    return _ALONE[relation.where] + (" ones" if mention.many else rank)
