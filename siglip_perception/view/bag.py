"""A bag as a recording with random access, read no further than it is looked at."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from siglip_perception.bags.files import reading
from siglip_perception.bags.messages import (
    BagTopic,
    decode_image,
    deserialize,
    image_type,
    typestore,
)
from siglip_perception.bags.recorder import ReplayOptions
from siglip_perception.bags.replay import select
from siglip_perception.bags.storage import EVER
from siglip_perception.bags.topics import camera_names
from siglip_perception.errors import ImageError
from siglip_perception.images.files import Picture
from siglip_perception.view.source import SourceError, SourceFrame


class BagImages:
    """One camera of a bag at a time, with the instructions that were recorded.

    options: which topics, as for a replay. Raises BagError, as a replay does, where the bag has
    nothing to show.
    """

    kind = "bag"

    def __init__(self, path: Path, options: ReplayOptions) -> None:
        self.title = path.name or str(path.resolve())
        self._options = options
        self._stack = ExitStack()
        try:
            self._recording = self._stack.enter_context(reading(path))
            selection = select(self._recording, options)
        except BaseException:
            self._stack.close()
            raise
        self.notes: Sequence[str] = tuple(
            note for note in selection.notes if "no objects are looked for" not in note
        )
        names = camera_names(selection.cameras.names)
        self._topics: dict[str, list[BagTopic]] = {}
        for topic in selection.cameras.topics:
            self._topics.setdefault(names[topic.name], []).append(topic)
        self.cameras: Sequence[str] = tuple(self._topics)
        self._spoken = selection.instructions
        self._store = typestore()
        self.choose(self.cameras[0])

    def choose(self, camera: str) -> None:
        self._images = self._topics[camera]
        self.count = max(sum(topic.count for topic in self._images), 1)
        self._times: list[int] = []
        self._instructions: list[tuple[int, str]] = []
        self._newest: tuple[int, BagTopic, bytes] | None = None
        self._entries = self._walk(0, EVER)
        self._advance(0)

    def time_s(self, index: int) -> float:
        self._advance(index)
        return (self._times[index] - self._times[0]) / 1e9

    def read(self, index: int) -> SourceFrame:
        self._advance(index)
        if self._newest is None or self._newest[0] != index:
            self._entries = self._walk(index, self._times[index])
            self._newest = next(self._entries)
        _, topic, data = self._newest
        return SourceFrame(
            index,
            self.time_s(index),
            topic.name,
            partial(self._decode, topic, data),
            self._instruction(self._times[index]),
        )

    def close(self) -> None:
        self._stack.close()

    def _advance(self, index: int) -> None:
        """Read on until the time of this frame is known."""
        while len(self._times) <= index:
            if self._newest is not None and self._newest[0] < len(self._times) - 1:
                # It was sent back; what is known already need not be read again.
                self._entries = self._walk(len(self._times) - 1, self._times[-1])
                self._newest = next(self._entries)
            entry = next(self._entries, None)
            if entry is None:
                self.count = max(len(self._times), 1)
                raise SourceError(
                    f"{self.title} has no image {index}: it holds {len(self._times)} that can be"
                    " read."
                )
            self._newest = entry

    def _walk(self, index: int, start_ns: int) -> Iterator[tuple[int, BagTopic, bytes]]:
        """Yield (index, topic, bytes) of the images from this one on; start_ns: its time."""
        skipped = bisect_equal(self._times, index)
        for topic, stamp, data in self._recording.messages(
            [*self._images, *self._spoken], start_ns
        ):
            if topic in self._spoken:
                self._hear(topic, stamp, data)
                continue
            if stamp == start_ns and skipped:
                skipped -= 1
                continue
            if index == len(self._times):
                self._times.append(stamp)
            yield index, topic, data
            index += 1

    def _hear(self, topic: BagTopic, stamp: int, data: bytes) -> None:
        if self._instructions and stamp < self._instructions[-1][0]:
            return
        try:
            text = str(deserialize(self._store, topic, data).data)
        except ImageError:
            return
        self._instructions.append((stamp, text))

    def _instruction(self, time_ns: int) -> str | None:
        place = bisect_right(self._instructions, time_ns, key=lambda entry: entry[0])
        return self._instructions[place - 1][1] if place else None

    def _decode(self, topic: BagTopic, data: bytes) -> Picture:
        message: Any = deserialize(self._store, topic, data)
        options = self._options
        return decode_image(message, image_type(topic), options.max_pixels, options.mono16_white)


def bisect_equal(times: Sequence[int], index: int) -> int:
    """Count the frames before this one that have its time, which must be known or the next."""
    if index >= len(times):
        return 0
    first = index
    while first > 0 and times[first - 1] == times[index]:
        first -= 1
    return index - first
