"""Sources of frames: what the engine reads, whatever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from siglip_perception.errors import PerceptionError
from siglip_perception.images.files import Picture
from siglip_perception.types import Grounding, TokenGrid


class SourceError(PerceptionError):
    """A source cannot be opened, or has stopped giving frames."""


@dataclass(frozen=True)
class NodeAnswer:
    """Results that a live node published for a frame.

    tokens: None where the page does not need them. latency_s: from the image's stamp to the
    arrival of the answer.
    """

    grounding: Grounding | None
    tokens: TokenGrid | None
    latency_s: float | None = None


@dataclass(frozen=True)
class SourceFrame:
    """One frame, undecoded.

    index: its place in a recording; counted from 0 in a live source. time_s: seconds from the
    source's start. name: file, topic or device. decode: its picture; raises ImageError. Call it
    before the source is read again. instruction: the recording's own at that time; None where it
    has none. answer: a live node's, so that no model need run for it.
    """

    index: int
    time_s: float
    name: str
    decode: Callable[[], Picture]
    instruction: str | None = None
    answer: NodeAnswer | None = None


@dataclass(frozen=True)
class Status:
    """One line of diagnostics; level as in diagnostic_msgs/DiagnosticStatus."""

    name: str
    level: int
    message: str
    values: tuple[tuple[str, str], ...] = ()


class Source(Protocol):
    """Interface of all sources. Used from the engine's thread alone.

    title: for the page. kind: "picture", "folder", "video", "bag", "webcam" or "node". cameras:
    their names; one empty name for a single camera.
    """

    title: str
    kind: str
    cameras: Sequence[str]
    notes: Sequence[str]

    def choose(self, camera: str) -> None:
        """Read this one of `cameras` from now on."""

    def close(self) -> None:
        """Release files and devices."""


@runtime_checkable
class RecordedSource(Source, Protocol):
    """A source with random access. count: its frames, at least one."""

    count: int

    def time_s(self, index: int) -> float:
        """Time of a frame, in seconds from the first one's."""

    def read(self, index: int) -> SourceFrame:
        """Return a frame; SourceError where it cannot be read."""


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source of now."""

    def watch(self, tokens: bool | None) -> None:
        """Listen, with or without the tokens; None: nobody looks, cost nothing."""

    def next(self, timeout_s: float) -> SourceFrame | None:
        """Wait for a newer frame; None where none came. SourceError where the source is gone;
        it may be asked again."""

    def instruct(self, text: str) -> bool:
        """Pass an instruction on to where the answers come from; False where this is no node."""

    def statuses(self) -> Sequence[Status]:
        """Return the source's own diagnostics; empty where it has none."""
