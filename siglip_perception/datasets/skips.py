"""A record of what a data set holds that cannot be used: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from siglip_perception.errors import DatasetError

MAX_NAMES = 10_000
_EXAMPLES = 3
_LONGEST_NAME = 300


class SkipReport:
    """Items that are left out of a data set, and items that are used with a remark, by reason.

    An item is named once for each reason, however often it comes again. Of each reason at most
    MAX_NAMES names are kept; beyond them every occurrence counts.
    strict: leaving an item out raises DatasetError instead.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._skips = _Reasons()
        self._notes = _Reasons()

    def skip(self, reason: str, name: str, detail: str = "") -> None:
        """Leave an item out; DatasetError in strict mode."""
        if self.strict:
            raise DatasetError(
                f"{describe(name, reason, detail)}; without --strict it is skipped."
            )
        self._skips.add(reason, name, detail)

    def note(self, reason: str, name: str, detail: str = "") -> None:
        """Remark on an item that is used, or on a file that is no part of the data."""
        self._notes.add(reason, name, detail)

    def count(self, reason: str, times: int) -> None:
        """Leave out items without a name, such as frames of a bag; never an error."""
        self._skips.unnamed[reason] = self._skips.unnamed.get(reason, 0) + times

    def merge(self, other: SkipReport | Mapping[str, Any]) -> None:
        """Add another report, or one that as_json() gave."""
        content = other.as_json() if isinstance(other, SkipReport) else other
        self._skips.merge(content["skipped"])
        self._notes.merge(content["noted"])

    @property
    def skip_counts(self) -> dict[str, int]:
        """How many items are left out, by reason."""
        return self._skips.counts()

    @property
    def note_counts(self) -> dict[str, int]:
        """How many items have a remark, by reason."""
        return self._notes.counts()

    @property
    def total(self) -> int:
        """How many items are left out."""
        return sum(self.skip_counts.values())

    def names(self, reason: str) -> list[str]:
        """The items that are left out for that reason, in the order in which they came."""
        return list(self._skips.named.get(reason, ()))

    def as_json(self) -> dict[str, Any]:
        """JSON values: total, and for `skipped` and `noted` each reason's count and items."""
        return {
            "total": self.total,
            "skipped": self._skips.as_json(),
            "noted": self._notes.as_json(),
        }

    def lines(self) -> list[str]:
        """The report for a person, with examples; no lines where there is nothing to say."""
        lines = []
        if self.total:
            lines += [f"left out: {self.total}", *self._skips.lines()]
        if self.note_counts:
            lines += [f"remarks: {sum(self.note_counts.values())}", *self._notes.lines()]
        return lines

    def summary(self) -> str:
        """Reasons and counts of what is left out, in one line; "" where nothing is."""
        return ", ".join(f"{reason} {count}" for reason, count in self.skip_counts.items())

    def first(self) -> str:
        """The first item that was left out, in words; "" where none was."""
        for reason, items in self._skips.named.items():
            for name, detail in items.items():
                return describe(name, reason, detail)
        return ""


class _Reasons:
    """named: for each reason the details by name. unnamed: how many more there are."""

    def __init__(self) -> None:
        self.named: dict[str, dict[str, str]] = {}
        self.unnamed: dict[str, int] = {}

    def add(self, reason: str, name: str, detail: str) -> None:
        items = self.named.setdefault(reason, {})
        if len(items) < MAX_NAMES or name in items:
            items.setdefault(name, detail)
        else:
            self.unnamed[reason] = self.unnamed.get(reason, 0) + 1

    def merge(self, content: Mapping[str, Any]) -> None:
        for reason, entry in content.items():
            for item in entry["items"]:
                self.add(reason, item["name"], item["detail"])
            more = entry["count"] - len(entry["items"])
            if more:
                self.unnamed[reason] = self.unnamed.get(reason, 0) + more

    def counts(self) -> dict[str, int]:
        reasons = dict.fromkeys((*self.named, *self.unnamed))
        return {r: len(self.named.get(r, ())) + self.unnamed.get(r, 0) for r in reasons}

    def as_json(self) -> dict[str, Any]:
        return {
            reason: {
                "count": count,
                "items": [
                    {"name": name, "detail": detail}
                    for name, detail in self.named.get(reason, {}).items()
                ],
            }
            for reason, count in self.counts().items()
        }

    def lines(self) -> Iterable[str]:
        for reason, count in self.counts().items():
            yield f"  {reason}: {count}"
            items = list(self.named.get(reason, {}).items())
            for name, detail in items[:_EXAMPLES]:
                yield f"    {printable(name)}{f' ({printable(detail)})' if detail else ''}"
            more = count - min(len(items), _EXAMPLES)
            if items and more:
                yield f"    and {more} more"


def describe(name: str, reason: str, detail: str = "") -> str:
    """Name, reason and detail of an item, fit to begin or to end a sentence."""
    return f"{printable(name)}: {reason}{f' ({printable(detail)})' if detail else ''}"


def printable(text: str) -> str:
    """Text of a data set, fit for a line of a terminal: no control or surrogate characters."""
    cut = text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
