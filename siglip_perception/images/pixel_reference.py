"""A training set's pixels in numbers, and the comparison of a live stream with them, in words."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siglip_perception.errors import PerceptionError
from siglip_perception.images.fingerprint import FIELDS
from siglip_perception.types import FloatArray
from siglip_perception.util.files import write_atomically

# Seconds of a stream that are judged together, and the frames that it takes at least.
WINDOW_SECONDS = 2.0
MIN_FRAMES = 3
# Fewer pictures do not tell how a set varies.
MIN_PICTURES = 8
_FORMAT = 1
_MAX_BYTES = 1 << 20
_MAX_EXAMPLES = 128
_QUANTILES = (0.02, 0.5, 0.98)
# What a set is taken to vary by at least, on each side of its median, and how far beyond its range
# an alarm is raised: brightness in stops, the others as in FIELDS. Honest streams of other scenes
# stay within; test/images/test_pixel_reference.py counts those that do not.
_SLACK: Mapping[str, tuple[float, float]] = {
    "brightness": (0.8, 0.4),
    "sharpness": (0.25, 0.15),
    "blocks": (0.6, 0.15),
    "band": (0.0, 0.02),
    "aspect": (0.0, 0.06),
}
# Colors are swapped if the stream with red and blue exchanged is this many times closer to the
# set's pictures than it is itself, and is itself this far from them.
_SWAP_RATIO, _SWAP_DISTANCE = 0.4, 0.25
_NEIGHBORS = 3
# Pictures whose colors are this close show the same things; only with these the light is compared,
# and a difference of less than so many stops is none.
_MATCH_DISTANCE, _MATCH_STOPS = 0.3, 1.0
_NO_MATCH = 99.0
_COLORS = ("red", "yellow", "green_hue", "cyan", "blue", "magenta", "red_blue", "green")
_SIDES = ("top", "bottom", "left", "right")
_INDEX = {name: number for number, name in enumerate(FIELDS)}


class PixelReferenceError(PerceptionError):
    """A reference of training pixels that is missing or unusable; one sentence says what to do."""


@dataclass(frozen=True)
class Alarm:
    """A difference of a stream from the training set. kind: its name, such as "dark"."""

    kind: str
    text: str


def check_count(pictures: int) -> None:
    """Raise PixelReferenceError for too few pictures to make a reference of."""
    if pictures < MIN_PICTURES:
        raise PixelReferenceError(
            f"A reference needs at least {MIN_PICTURES} pictures, and there are {pictures}: give a"
            " larger set."
        )


@dataclass(frozen=True)
class PixelReference:
    """Pixel statistics of a training set.

    pictures: how many were read. low, median, high: of each of FIELDS, the 2nd, 50th and 98th
    percentile. examples: colors of some pictures, float32 [n, 8], as _colors() returns them.
    light: brightness of the examples, stops, float32 [n]. light_margin: stops by which a picture
        may differ from those of the same colors.
    """

    pictures: int
    low: FloatArray
    median: FloatArray
    high: FloatArray
    examples: FloatArray
    light: FloatArray
    light_margin: float

    @classmethod
    def of(cls, fingerprints: Iterable[FloatArray]) -> PixelReference:
        """Summarize the fingerprints of a set's pictures; PixelReferenceError for too few."""
        rows = list(fingerprints)
        check_count(len(rows))
        table = np.stack(rows)
        low, median, high = np.quantile(table, _QUANTILES, axis=0).astype(np.float32)
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), _MAX_EXAMPLES)).astype(int)
        examples, light = _colors(table[chosen]), table[chosen, _INDEX["brightness"]]
        return cls(len(rows), low, median, high, examples, light, _light_margin(examples, light))

    @classmethod
    def read(cls, path: Path) -> PixelReference:
        """Read a file that `siglip-perception fingerprint` wrote. Raises PixelReferenceError."""
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise PixelReferenceError(
                    f"{path} is larger than 1 MiB and no reference of pixels: name the file that"
                    " `siglip-perception fingerprint` wrote."
                )
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise PixelReferenceError(
                f"Cannot read the pixel reference {path} ({error.strerror}): name the file that"
                " `siglip-perception fingerprint` wrote."
            ) from error
        except (ValueError, RecursionError) as error:
            raise PixelReferenceError(
                f"{path} is not JSON and no reference of pixels: name the file that"
                " `siglip-perception fingerprint` wrote."
            ) from error
        return _parse(content, path)

    def write(self, path: Path, source: str) -> None:
        """Write the reference as JSON. source: the set's name, for the reader."""
        content = {
            "format": _FORMAT,
            "source": source,
            "pictures": self.pictures,
            "fields": {
                name: [
                    round(float(values[number]), 4)
                    for values in (self.low, self.median, self.high)
                ]
                for name, number in _INDEX.items()
            },
            "examples": [[round(float(value), 3) for value in row] for row in self.examples],
            "light": [round(float(value), 3) for value in self.light],
            "light_margin": round(self.light_margin, 3),
        }
        write_atomically(path, (json.dumps(content) + "\n").encode())

    def compare(self, fingerprints: FloatArray) -> tuple[Alarm, ...]:
        """Compare a window of a stream, float32 [frames, len(FIELDS)], with the set."""
        live = np.median(fingerprints, axis=0)
        blocks = self._blocks(live)
        alarms = [
            self._channels(fingerprints),
            self._brightness(live, fingerprints),
            # Strong compression blurs, too, and is the cause.
            self._sharpness(live) if blocks is None else blocks,
            self._bands(live),
            self._aspect(live),
        ]
        return tuple(alarm for alarm in alarms if alarm is not None)

    def _channels(self, fingerprints: FloatArray) -> Alarm | None:
        colors = _colors(fingerprints).mean(axis=0)
        itself, exchanged = self._distance(colors), self._distance(_exchanged(colors))
        if itself > _SWAP_DISTANCE and exchanged < _SWAP_RATIO * itself:
            return Alarm(
                "channels",
                "channels look swapped: with red and blue exchanged the colors are the training"
                " set's (RGB taken as BGR?)",
            )
        return None

    def _distance(self, colors: FloatArray) -> float:
        """Mean distance to the nearest pictures of the set."""
        return _nearest(self.examples, colors)[1]

    def _excess(self, live: FloatArray, names: tuple[str, ...], slack: str) -> float:
        """How far the mean of some fields lies outside the set's range; 0 within."""
        value, low, median, high = (
            float(np.mean([values[_INDEX[name]] for name in names]))
            for values in (live, self.low, self.median, self.high)
        )
        spread, margin = _SLACK[slack]
        low, high = min(low, median - spread), max(high, median + spread)
        if value < low - margin:
            return value - median
        return value - median if value > high + margin else 0.0

    def _brightness(self, live: FloatArray, fingerprints: FloatArray) -> Alarm | None:
        """Compare the light with the pictures of the same colors, or else with the whole set.

        Another exposure leaves the colors of linear light as they are, so it hides no match.
        """
        numbers, distance = _nearest(self.examples, _colors(fingerprints).mean(axis=0))
        stops = float(live[_INDEX["brightness"]] - np.median(self.light[numbers]))
        if distance > _MATCH_DISTANCE or abs(stops) <= self.light_margin:
            stops = self._excess(live, ("brightness",), "brightness")
        if not stops:
            return None
        word = "darker" if stops < 0 else "brighter"
        return Alarm(word, f"{word} by {abs(stops):.1f} stops than the training set")

    def _sharpness(self, live: FloatArray) -> Alarm | None:
        excess = self._excess(live, ("sharpness_across", "sharpness_down"), "sharpness")
        if excess < 0:
            return Alarm(
                "blurry",
                "blurrier than the training set: resized with antialias, or out of focus?",
            )
        if excess > 0:
            return Alarm(
                "sharp", "sharper or noisier than the training set: resized without antialias?"
            )
        return None

    def _blocks(self, live: FloatArray) -> Alarm | None:
        if self._excess(live, ("blocks_across", "blocks_down"), "blocks") > 0:
            return Alarm(
                "jpeg", "JPEG blocks that the training set did not have: a lower JPEG quality?"
            )
        return None

    def _bands(self, live: FloatArray) -> Alarm | None:
        more, fewer = [], []
        margin = _SLACK["band"][1]
        for side in _SIDES:
            number = _INDEX[f"band_{side}"]
            if live[number] > self.high[number] + margin:
                more.append(f"{100 * live[number]:.0f} % at the {side}")
            elif live[number] < self.low[number] - margin:
                fewer.append(f"{100 * self.median[number]:.0f} % at the {side}")
        if more:
            color = _color_word(float(live[_INDEX["band_level"]]))
            return Alarm(
                "band",
                f"a {color} band that training did not have ({' and '.join(more)}): padded?",
            )
        if fewer:
            return Alarm(
                "no_band",
                f"no band, and training had one ({' and '.join(fewer)}): padding left out?",
            )
        return None

    def _aspect(self, live: FloatArray) -> Alarm | None:
        if not self._excess(live, ("aspect",), "aspect"):
            return None
        ratio, usual = (2 ** float(values[_INDEX["aspect"]]) for values in (live, self.median))
        return Alarm(
            "aspect",
            f"width / height is {ratio:.2f} and was {usual:.2f} in training: squashed or cropped?",
        )


class StreamCheck:
    """Judges a stream by its last seconds. reference: the training set's."""

    def __init__(self, reference: PixelReference) -> None:
        self.reference = reference
        self._window: deque[tuple[int, FloatArray]] = deque()
        self.alarms: tuple[Alarm, ...] = ()

    def add(self, time_ns: int, fingerprint: FloatArray) -> tuple[Alarm, ...]:
        """Add a frame by its time of capture; return what now differs from the training set."""
        if self._window and time_ns < self._window[-1][0]:
            self.forget()
        self._window.append((time_ns, fingerprint))
        span_ns = int(WINDOW_SECONDS * 1e9)
        while len(self._window) > MIN_FRAMES and time_ns - self._window[0][0] > span_ns:
            self._window.popleft()
        if len(self._window) >= MIN_FRAMES:
            self.alarms = self.reference.compare(np.stack([item for _, item in self._window]))
        return self.alarms

    def forget(self) -> None:
        """Begin anew, as after a jump in time."""
        self._window.clear()
        self.alarms = ()


def _nearest(examples: FloatArray, colors: FloatArray) -> tuple[npt.NDArray[np.intp], float]:
    """Find the pictures with the nearest colors: their numbers, and their mean distance."""
    distances = np.abs(examples - colors).sum(axis=1)
    numbers = np.argsort(distances)[:_NEIGHBORS]
    return numbers, float(distances[numbers].mean())


def _light_margin(examples: FloatArray, light: FloatArray) -> float:
    """By how many stops the set's own pictures differ from others of the same colors, and more."""
    differences = []
    for number in range(len(examples)):
        others = np.delete(examples, number, axis=0)
        numbers, distance = _nearest(others, examples[number])
        if distance <= _MATCH_DISTANCE:
            expected = np.median(np.delete(light, number)[numbers])
            differences.append(abs(float(light[number] - expected)))
    if not differences:
        return _NO_MATCH
    margin = float(np.quantile(differences, _QUANTILES[2])) + _SLACK["brightness"][1]
    return max(_MATCH_STOPS, margin)


def _colors(fingerprints: FloatArray) -> FloatArray:
    """Select what tells colors, [n, 8]; stops of color weigh half."""
    values = fingerprints[:, [_INDEX[name] for name in _COLORS]].astype(np.float32)
    values[:, 6:] *= 0.5
    return values


def _exchanged(colors: FloatArray) -> FloatArray:
    """Colors of the same pictures with red and blue exchanged, [8]."""
    red, yellow, green, cyan, blue, magenta, red_blue, greenness = colors
    return np.array([blue, cyan, green, yellow, red, magenta, -red_blue, greenness], np.float32)


def _color_word(level: float) -> str:
    return "black" if level < 0.08 else "white" if level > 0.92 else "uniform"


def _parse(content: Any, path: Path) -> PixelReference:
    error = PixelReferenceError(
        f"{path} is no reference of pixels of this version: write it again with"
        " `siglip-perception fingerprint`."
    )
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise error
    try:
        entries = content["fields"]
        rows = np.array([entries[name] for name in FIELDS], np.float32).T
        examples = np.array(content["examples"], np.float32)
        light = np.array(content["light"], np.float32)
        pictures, margin = int(content["pictures"]), float(content["light_margin"])
    except (KeyError, TypeError, ValueError, OverflowError) as reason:
        raise error from reason
    if rows.shape != (3, len(FIELDS)) or examples.shape[1:] != (len(_COLORS),):
        raise error
    if light.shape != (len(examples),) or not len(examples) or (rows[0] > rows[2]).any():
        raise error
    if not all(np.isfinite(values).all() for values in (rows, examples, light)):
        raise error
    if not margin > 0:
        raise error
    return PixelReference(pictures, rows[0], rows[1], rows[2], examples, light, margin)
