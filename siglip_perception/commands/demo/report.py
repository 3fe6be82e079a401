"""Report of the demo: a table, the problems, a sheet of pictures and an animation."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from siglip_perception.types import Box

# Pictures per instruction on the sheet, and their size.
COLUMNS = 3
TILE = (480, 360)
GAP = 8
# The animation shows every STEP-th frame.
STEP = 2
# Least IoU with the drawn object of a box that counts as right.
MIN_IOU = 0.5
# Start of the recording, in seconds, that latencies leave out: the policy still loads then.
START_S = 2.0
# Least share of the frames with a phrase's object in which its best box is right.
MIN_RIGHT_SHARE = 0.5
_BACKGROUND = (250, 250, 250)


@dataclass(frozen=True)
class PhraseResult:
    """Result for one phrase of one instruction.

    frames: frames grounded with the phrase; hits: those with an object; right_hits: those whose
        best box has an IoU of at least MIN_IOU with the drawn object.
    score, box: of the best hit; box is [x, y, width, height] in pixels, empty without a hit.
    """

    instruction: str
    phrase: str
    frames: int
    hits: int
    right_hits: int
    score: float
    box: tuple[int, ...]


@dataclass(frozen=True)
class Results:
    """The player's results (see node/bag_player.py) and the true boxes of each frame."""

    raw: Mapping[str, Any]
    truth: Sequence[Mapping[str, Box]]

    def count(self, key: str) -> int:
        """Return a counter of the camera from the node's last diagnostics."""
        return int(self.raw["camera"].get(key, 0))

    @property
    def frame_count(self) -> int:
        """Number of frames that the player sent."""
        return int(self.raw["played"])

    @property
    def lost(self) -> int:
        """Number of frames that the middleware lost on their way to the node."""
        return self.frame_count - self.count("received")

    @property
    def dropped(self) -> dict[str, int]:
        """Number of frames that the node dropped, by reason."""
        prefix = "dropped."
        return {
            key.removeprefix(prefix): int(value)
            for key, value in sorted(self.raw["camera"].items())
            if key.startswith(prefix)
        }

    @property
    def rate_hz(self) -> float:
        times = [entry["received_s"] for entry in self.raw["tokens"]]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def waits_ms(self) -> list[float]:
        """Return the times from sending a frame to receiving its tokens, sorted, after START_S."""
        entries = [entry for entry in self.raw["tokens"] if entry["sent_s"] is not None]
        begin = min((entry["sent_s"] for entry in entries), default=0.0) + START_S
        return sorted(
            1000 * (entry["received_s"] - entry["sent_s"])
            for entry in entries
            if entry["sent_s"] >= begin
        )

    def phrase_results(self) -> list[PhraseResult]:
        """Return a result for each phrase of each instruction, in order."""
        rows = []
        for instruction in self.raw["instructions"]:
            answers = self._answers(instruction)
            phrases = dict.fromkeys(phrase for entry in answers for phrase in entry["phrases"])
            for phrase in phrases:
                hits = [hit for entry in answers if (hit := _best(entry, phrase)) is not None]
                best = max(hits, key=lambda hit: float(hit["score"]), default=None)
                score, box = (best["score"], tuple(best["box"])) if best else (math.nan, ())
                right_hits = sum(self._is_right(entry, phrase) for entry in answers)
                rows.append(
                    PhraseResult(
                        instruction, phrase, len(answers), len(hits), right_hits, score, box
                    )
                )
        return rows

    def _is_right(self, entry: Mapping[str, Any], phrase: str) -> bool:
        hit, true = _best(entry, phrase), self.truth[entry["frame"]].get(phrase)
        return hit is not None and true is not None and Box(*hit["box"]).iou(true) >= MIN_IOU

    def pictures(self, instruction: str) -> list[int]:
        """Return the frames with a picture that were grounded with the instruction."""
        frames = {entry["frame"] for entry in self._answers(instruction)}
        return [frame for frame in self.raw["pictures"] if frame in frames]

    def _answers(self, instruction: str) -> list[Mapping[str, Any]]:
        return [
            entry
            for entry in self.raw["groundings"]
            if entry["instruction"] == instruction and entry["frame"] is not None
        ]

    def problems(self) -> list[str]:
        """Return a sentence for each problem; empty if there is none."""
        sentences = []
        received_count, published_count = self.count("received"), self.count("published")
        dropped_count, in_flight = sum(self.dropped.values()), self.count("in_flight")
        if not self.raw["tokens"]:
            sentences.append("No tokens arrived.")
        missing_count = received_count - published_count - dropped_count - in_flight
        if missing_count:
            sentences.append(
                f"The node does not account for {missing_count} of {received_count} frames."
            )
        if self.lost < 0:
            sentences.append(f"The node received {-self.lost} frames more than were played.")
        if self.raw["unmatched"]:
            sentences.append(f"{self.raw['unmatched']} results have the stamp of no frame played.")
        if not all(entry["finite"] for entry in self.raw["tokens"]):
            sentences.append("Some tokens are not finite.")
        results = self.phrase_results()
        sentences += [
            f'Nothing was found for the instruction "{instruction}".'
            for instruction in self.raw["instructions"]
            if not any(row.hits for row in results if row.instruction == instruction)
        ]
        visible = [row for row in results if any(row.phrase in truth for truth in self.truth)]
        frames = sum(row.frames for row in visible)
        right_hits = sum(row.right_hits for row in visible)
        if right_hits < MIN_RIGHT_SHARE * frames:
            sentences.append(
                f"The best box was right in only {right_hits} of {frames} frames with the object."
            )
        sentences += [
            f'Nothing was published for the instruction "{instruction}".'
            for instruction in self.raw["instructions"]
            if not self._answers(instruction)
        ]
        return sentences


def _best(entry: Mapping[str, Any], phrase: str) -> Mapping[str, Any] | None:
    hits = [item for item in entry["objects"] if item["phrase"] == phrase]
    return max(hits, key=lambda item: float(item["score"]), default=None)


def table(results: Results) -> list[str]:
    """Return the lines of the summary."""
    camera, tokens = results.raw["camera"], results.raw["tokens"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in results.dropped.items())
    lines = [
        f"frames    {results.frame_count} played, {results.lost} lost by the middleware,"
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
    if results.frame_count:
        spent = {
            name: 1000 * seconds / results.frame_count
            for name, seconds in results.raw["processor_s"].items()
        }
        lines.append(
            f"processor {', '.join(f'{name} {ms:.1f}' for name, ms in spent.items())}: ms a frame,"
            " all cores (the player is the camera and records)"
        )
    if tokens:
        first = tokens[0]
        lines.append(
            f"tokens    {first['shape'][0]} x {first['shape'][1]} {first['dtype']},"
            f" contract {first['contract']}, fingerprint {first['fingerprint'][:12]}"
        )
    lines.append("")
    header = ("instruction", "phrase", "found in", "right in", "best score", "its box")
    rows = [header, *map(_cells, results.phrase_results())]
    widths = [max(_width(row[i]) for row in rows) for i in range(len(header))]
    previous = ""
    for row in rows:
        columns = ("" if row[0] == previous else row[0], *row[1:])
        previous = row[0]
        cells = (text + " " * (n - _width(text)) for text, n in zip(columns, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lines.append(f"right: IoU of {MIN_IOU} or more with the drawn object. box: x, y, w, h")
    return lines


def _cells(row: PhraseResult) -> tuple[str, ...]:
    score = f"{row.score:.2f}" if row.box else "-"
    return (
        row.instruction,
        row.phrase,
        f"{row.hits} of {row.frames}",
        f"{row.right_hits} of {row.hits}",
        score,
        ", ".join(map(str, row.box)) or "-",
    )


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal; Korean syllables take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def write_sheet(results: Results, frames: Path, path: Path) -> None:
    """Write a sheet with a row of pictures for each instruction, spread over its time."""
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
    """Write an animated WebP of the pictures, at the camera's rate."""
    first, *remaining = _tiles(frames, results.raw["pictures"][::STEP])
    first.save(
        path,
        save_all=True,
        append_images=remaining,
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
    """Return `count` of the numbers, from the middles of as many equal spans."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[(2 * i + 1) * len(numbers) // (2 * count)] for i in range(count)]
