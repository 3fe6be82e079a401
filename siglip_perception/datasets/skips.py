"""Record unusable items of a data set by reason, so that nothing is skipped silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from siglip_perception.errors import DatasetError

MAX_NAMES = 10_000
_EXAMPLES = 3
_LONGEST_NAME = 300


class SkipReport:
    """Items skipped in a data set, and items used with a remark, by reason.

    An item counts once per reason, however often it recurs. At most MAX_NAMES names are stored per
    reason; beyond that every occurrence counts.
    strict: skipping an item raises DatasetError.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._skips = _Reasons()
        self._notes = _Reasons()

    def skip(self, reason: str, name: str, detail: str = "") -> None:
        """Skip an item; raise DatasetError in strict mode."""
        if self.strict:
            raise DatasetError(
                f"{describe(name, reason, detail)}; without --strict it is skipped."
            )
        self._skips.add(reason, name, detail)

    def note(self, reason: str, name: str, detail: str = "") -> None:
        """Note a remark on an item that is used, or on a file that is not part of the data."""
        self._notes.add(reason, name, detail)

    def count(self, reason: str, times: int) -> None:
        """Skip unnamed items, such as frames of a bag; never raises."""
        self._skips.extra_counts[reason] = self._skips.extra_counts.get(reason, 0) + times

    def merge(self, other: SkipReport | Mapping[str, Any]) -> None:
        """Add another report, or the output of as_json()."""
        content = other.as_json() if isinstance(other, SkipReport) else other
        self._skips.merge(content["skipped"])
        self._notes.merge(content["noted"])

    @property
    def skip_counts(self) -> dict[str, int]:
        """Number of skipped items by reason."""
        return self._skips.counts()

    @property
    def note_counts(self) -> dict[str, int]:
        """Number of items with a remark by reason."""
        return self._notes.counts()

    @property
    def total(self) -> int:
        """Total number of skipped items."""
        return sum(self.skip_counts.values())

    def names(self, reason: str) -> list[str]:
        """List the items skipped for that reason, in order of occurrence."""
        return list(self._skips.items_by_reason.get(reason, ()))

    def as_json(self) -> dict[str, Any]:
        """Convert to JSON: total, and count and items per reason of `skipped` and `noted`."""
        return {
            "total": self.total,
            "skipped": self._skips.as_json(),
            "noted": self._notes.as_json(),
        }

    def lines(self) -> list[str]:
        """Format the report for people, with examples; no lines if there is nothing to report."""
        lines = []
        if self.total:
            lines += [f"left out: {self.total}", *self._skips.lines()]
        if self.note_counts:
            lines += [f"remarks: {sum(self.note_counts.values())}", *self._notes.lines()]
        return lines

    def summary(self) -> str:
        """Format reasons and counts of skipped items in one line; "" if there are none."""
        return ", ".join(f"{reason} {count}" for reason, count in self.skip_counts.items())

    def first(self) -> str:
        """Describe the first skipped item; "" if there is none."""
        for reason, items in self._skips.items_by_reason.items():
            for name, detail in items.items():
                return describe(name, reason, detail)
        return ""


class _Reasons:
    """items_by_reason: details by name, per reason. extra_counts: items beyond those."""

    def __init__(self) -> None:
        self.items_by_reason: dict[str, dict[str, str]] = {}
        self.extra_counts: dict[str, int] = {}

    def add(self, reason: str, name: str, detail: str) -> None:
        items = self.items_by_reason.setdefault(reason, {})
        if len(items) < MAX_NAMES or name in items:
            items.setdefault(name, detail)
        else:
            self.extra_counts[reason] = self.extra_counts.get(reason, 0) + 1

    def merge(self, content: Mapping[str, Any]) -> None:
        for reason, entry in content.items():
            for item in entry["items"]:
                self.add(reason, item["name"], item["detail"])
            rest = entry["count"] - len(entry["items"])
            if rest:
                self.extra_counts[reason] = self.extra_counts.get(reason, 0) + rest

    def counts(self) -> dict[str, int]:
        reasons = dict.fromkeys((*self.items_by_reason, *self.extra_counts))
        return {
            r: len(self.items_by_reason.get(r, ())) + self.extra_counts.get(r, 0) for r in reasons
        }

    def as_json(self) -> dict[str, Any]:
        return {
            reason: {
                "count": count,
                "items": [
                    {"name": name, "detail": detail}
                    for name, detail in self.items_by_reason.get(reason, {}).items()
                ],
            }
            for reason, count in self.counts().items()
        }

    def lines(self) -> Iterable[str]:
        for reason, count in self.counts().items():
            yield f"  {reason}: {count}"
            items = list(self.items_by_reason.get(reason, {}).items())
            for name, detail in items[:_EXAMPLES]:
                yield f"    {printable(name)}{f' ({printable(detail)})' if detail else ''}"
            rest = count - min(len(items), _EXAMPLES)
            if items and rest:
                yield f"    and {rest} more"


def describe(name: str, reason: str, detail: str = "") -> str:
    """Format name, reason and detail of an item as part of a sentence."""
    return f"{printable(name)}: {reason}{f' ({printable(detail)})' if detail else ''}"


def printable(text: str) -> str:
    """Make text of a data set safe to print: escapes control and surrogate characters."""
    cut = text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
