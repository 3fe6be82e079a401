"""Content of the output messages: one camera's objects, and several cameras' joined tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from siglip_perception.messages.wire import MessageTypes, objects_message, tokens_message
from siglip_perception.types import Grounding, TokenGrid, join


def published_objects(
    types: MessageTypes, header: Any, grounding: Grounding, *, with_mask: bool
) -> Any:
    """Return a frame's GroundedObjectArray, with the mask only if it is to be published."""
    return objects_message(
        types, header, grounding if with_mask else replace(grounding, mask=None)
    )


@dataclass(frozen=True)
class JoinedTokens:
    """Several cameras' tokens as one sequence, in the cameras' order.

    stamp: the oldest of their images' stamps. frame_id: the first camera's.
    """

    stamp: Any
    frame_id: str
    grid: TokenGrid

    def message(self, types: MessageTypes) -> Any:
        """Return the TokenSequence."""
        header = types.Header(stamp=self.stamp, frame_id=self.frame_id)
        return tokens_message(types, header, self.grid)


class CameraJoin:
    """Collects each camera's newest tokens and joins them once every camera has some."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = tuple(cameras)
        self._waiting: dict[str, tuple[Any, TokenGrid]] = {}

    def add(self, camera: str, header: Any, grid: TokenGrid) -> JoinedTokens | None:
        """Add one camera's tokens; return the joined tokens once every camera has new ones.

        header: the image's. Newer tokens of a camera replace its older ones.
        """
        self._waiting[camera] = header, grid
        if len(self._waiting) < len(self._cameras):
            return None
        entries = [self._waiting[name] for name in self._cameras]
        self._waiting.clear()
        headers = [header for header, _ in entries]
        oldest = min(headers, key=lambda header: (header.stamp.sec, header.stamp.nanosec))
        return JoinedTokens(oldest.stamp, headers[0].frame_id, join([grid for _, grid in entries]))
