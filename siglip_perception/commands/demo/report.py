"""What the demo shows for it: a table, what is wrong, a sheet of pictures and a moving one."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from siglip_perception.types import Box

# Pictures of the sheet, for each instruction, and their size there.
COLUMNS = 3
TILE = (480, 360)
GAP = 8
# The moving picture shows every so many frames.
STEP = 2
RIGHT_IOU = 0.5
# While the policy still loads on the same cores; what comes later is how the node runs.
START_S = 2.0
# Share of all the looks at a phrase that have to find it where it is, for the demo to be well.
ENOUGH_RIGHT = 0.5
_BACKGROUND = (250, 250, 250)


@dataclass(frozen=True)
class Found:
    """What was found for one phrase of one instruction.

    frames: frames that were looked at for the phrase; seen: those in which it was found; right:
    those in which the best box lies on the object (IoU with where it was drawn 0.5 or more).
    box: [x, y, width, height] in pixels, where the score was best; empty: never found.
    """

    instruction: str
    phrase: str
    frames: int
    seen: int
    right: int
    score: float
    box: tuple[int, ...]


@dataclass(frozen=True)
class Results:
    """What the player wrote down (see node/bag_player.py), and the truth of each frame."""

    raw: Mapping[str, Any]
    truth: Sequence[Mapping[str, Box]]

    def count(self, key: str) -> int:
        """A counter of the camera in the node's last diagnostics."""
        return int(self.raw["camera"].get(key, 0))

    @property
    def played(self) -> int:
        return int(self.raw["played"])

    @property
    def lost(self) -> int:
        """Frames that the middleware lost on their way to the node."""
        return self.played - self.count("received")

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that the node dropped, by reason."""
        prefix = "dropped."
        found = {key: value for key, value in self.raw["camera"].items() if key.startswith(prefix)}
        return {key.removeprefix(prefix): int(value) for key, value in sorted(found.items())}

    @property
    def rate_hz(self) -> float:
        times = [entry["received_s"] for entry in self.raw["tokens"]]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def waits_ms(self) -> list[float]:
        """From sending a frame to having its tokens, in ascending order, without the start."""
        answered = [entry for entry in self.raw["tokens"] if entry["sent_s"] is not None]
        begin = min((entry["sent_s"] for entry in answered), default=0.0) + START_S
        return sorted(
            1000 * (entry["received_s"] - entry["sent_s"])
            for entry in answered
            if entry["sent_s"] >= begin
        )

    def found(self) -> list[Found]:
        """For each instruction, in the order in which they were given, each of its phrases."""
        rows = []
        for instruction in self.raw["instructions"]:
            answers = self._answers(instruction)
            phrases = dict.fromkeys(phrase for entry in answers for phrase in entry["phrases"])
            for phrase in phrases:
                hits = [_best(entry, phrase) for entry in answers]
                seen = [hit for hit in hits if hit is not None]
                best = max(seen, key=lambda hit: float(hit["score"]), default=None)
                score, box = (best["score"], tuple(best["box"])) if best else (math.nan, ())
                right = sum(self._is_right(entry, phrase) for entry in answers)
                rows.append(Found(instruction, phrase, len(answers), len(seen), right, score, box))
        return rows

    def _is_right(self, entry: Mapping[str, Any], phrase: str) -> bool:
        hit, true = _best(entry, phrase), self.truth[entry["frame"]].get(phrase)
        return hit is not None and true is not None and Box(*hit["box"]).iou(true) >= RIGHT_IOU

    def pictures(self, instruction: str) -> list[int]:
        """Frames with a picture that were looked at for the instruction."""
        frames = {entry["frame"] for entry in self._answers(instruction)}
        return [frame for frame in self.raw["pictures"] if frame in frames]

    def _answers(self, instruction: str) -> list[Mapping[str, Any]]:
        return [
            entry
            for entry in self.raw["groundings"]
            if entry["instruction"] == instruction and entry["frame"] is not None
        ]

    def problems(self) -> list[str]:
        """What is wrong, a sentence each; empty: all is well."""
        wrong = []
        received, published = self.count("received"), self.count("published")
        dropped, in_flight = sum(self.dropped.values()), self.count("in_flight")
        if not self.raw["tokens"]:
            wrong.append("No tokens arrived.")
        if received != published + dropped + in_flight:
            wrong.append(
                f"The node does not account for {received - published - dropped - in_flight}"
                f" of {received} frames."
            )
        if self.lost < 0:
            wrong.append(f"The node received {-self.lost} frames more than were played.")
        if self.raw["unmatched"]:
            wrong.append(f"{self.raw['unmatched']} results have the stamp of no frame played.")
        if not all(entry["finite"] for entry in self.raw["tokens"]):
            wrong.append("Some tokens are not finite.")
        rows = self.found()
        wrong += [
            f'Nothing was found for the instruction "{instruction}".'
            for instruction in self.raw["instructions"]
            if not any(row.seen for row in rows if row.instruction == instruction)
        ]
        there = [row for row in rows if any(row.phrase in truth for truth in self.truth)]
        looks, right = sum(row.frames for row in there), sum(row.right for row in there)
        if right < ENOUGH_RIGHT * looks:
            wrong.append(f"Only {right} of {looks} looks found the object where it was drawn.")
        wrong += [
            f'Nothing was published for the instruction "{instruction}".'
            for instruction in self.raw["instructions"]
            if not self._answers(instruction)
        ]
        return wrong


def _best(entry: Mapping[str, Any], phrase: str) -> Mapping[str, Any] | None:
    hits = [item for item in entry["objects"] if item["phrase"] == phrase]
    return max(hits, key=lambda item: float(item["score"]), default=None)


def table(results: Results) -> list[str]:
    """The lines that the demo ends with."""
    camera, tokens = results.raw["camera"], results.raw["tokens"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in results.dropped.items())
    lines = [
        f"frames    {results.played} played, {results.lost} lost by the middleware,"
        f" {results.count('received')} received",
        f"          {results.count('published')} published,"
        f" {sum(results.dropped.values())} dropped{f' ({reasons})' if reasons else ''}",
        f"rate      {results.rate_hz:.1f} Hz",
        f"latency   p50 {camera.get('latency_p50_ms')} ms, p99 {camera.get('latency_p99_ms')} ms,"
        " from a frame's arrival to publishing",
    ]
    if waits := results.waits_ms():
        middle, late = (waits[min(int(q * len(waits)), len(waits) - 1)] for q in (0.5, 0.99))
        lines.append(
            f"          p50 {middle:.1f} ms, p99 {late:.1f} ms, from sending to having the tokens,"
            f" after the first {START_S:g} s"
        )
    if tokens:
        first = tokens[0]
        lines.append(
            f"tokens    {first['shape'][0]} x {first['shape'][1]} {first['dtype']},"
            f" contract {first['contract']}, fingerprint {first['fingerprint'][:12]}"
        )
    lines.append("")
    header = ("instruction", "phrase", "found in", "right in", "best score", "its box")
    rows = [header, *map(_cells, results.found())]
    widths = [max(_width(row[i]) for row in rows) for i in range(len(header))]
    previous = ""
    for row in rows:
        shown = ("" if row[0] == previous else row[0], *row[1:])
        previous = row[0]
        cells = (text + " " * (n - _width(text)) for text, n in zip(shown, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lines.append(
        f"right: IoU with where the object was drawn {RIGHT_IOU} or more. box: x, y, w, h"
    )
    return lines


def _cells(row: Found) -> tuple[str, ...]:
    score = f"{row.score:.2f}" if row.box else "-"
    return (
        row.instruction,
        row.phrase,
        f"{row.seen} of {row.frames}",
        f"{row.right} of {row.seen}",
        score,
        ", ".join(map(str, row.box)) or "-",
    )


def _width(text: str) -> int:
    """Columns that the text takes on a terminal; Korean syllables take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def write_sheet(results: Results, frames: Path, path: Path) -> None:
    """A row of pictures for each instruction, spread over the time in which it held."""
    rows = [_spread(results.pictures(text), COLUMNS) for text in results.raw["instructions"]]
    width, height = TILE[0] + GAP, TILE[1] + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, len(rows) * height + GAP), _BACKGROUND)
    for i, row in enumerate(rows):
        for j, frame in enumerate(row):
            with Image.open(_picture(frames, frame)) as picture:
                tile = picture.convert("RGB").resize(TILE, Image.Resampling.LANCZOS)
            sheet.paste(tile, (GAP + j * width, GAP + i * height))
    sheet.save(path)


def write_animation(results: Results, frames: Path, path: Path, rate_hz: float) -> None:
    """An animated WebP of the pictures, at the pace of the camera."""
    first, *others = _tiles(frames, results.raw["pictures"][::STEP])
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=round(1000 * STEP / rate_hz),
        loop=0,
        quality=70,
        method=0,
    )


def _tiles(frames: Path, numbers: Iterable[int]) -> list[Image.Image]:
    tiles = []
    for number in numbers:
        with Image.open(_picture(frames, number)) as picture:
            tiles.append(picture.convert("RGB").resize(TILE, Image.Resampling.BILINEAR))
    return tiles


def _picture(frames: Path, number: int) -> Path:
    return frames / f"{number:06d}.jpg"


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """`count` of the numbers, from the middles of as many equal spans."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[(2 * i + 1) * len(numbers) // (2 * count)] for i in range(count)]
