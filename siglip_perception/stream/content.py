"""Content of the output messages: a camera's objects; tokens joined over cameras and frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from siglip_perception.messages.wire import MessageTypes, objects_message, tokens_message
from siglip_perception.types import Grounding, TokenGrid, join

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Pipeline


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


class HistoryJoin:
    """Joins each sequence of tokens with those of the frames before, as the contract says."""

    def __init__(self, length: int, before_first: TokenGrid | None = None) -> None:
        """Create an empty history.

        length: frames of a sequence. before_first: one camera's tokens that stand for the frames
        before the first one; None: the first frame's own.
        """
        self._length = length
        self._before_first = before_first
        self._frames: dict[str, deque[TokenGrid]] = {}
        self._episodes: dict[str, Hashable] = {}

    @classmethod
    def of(cls, pipeline: Pipeline) -> HistoryJoin:
        contract = pipeline.contract
        has_mean = contract.history > 1 and contract.history_start == "mean"
        return cls(contract.history, pipeline.mean_color_tokens() if has_mean else None)

    def add(self, camera: str, grid: TokenGrid, episode: Hashable) -> TokenGrid:
        """Add the newest tokens; return them behind those of the frames before, the oldest first.

        camera: its name; "" for all cameras' joined tokens.
        episode: another one than the last, such as a new instruction or a jump in time, begins
        with an empty history, as the policy's own run does.
        The pixels' fingerprint stays the newest frame's.
        """
        if self._length == 1:
            return grid
        frames = self._frames.get(camera)
        if frames is None or self._episodes[camera] != episode:
            start = grid
            if self._before_first is not None:
                start = join([self._before_first] * (grid.rows // self._before_first.rows))
            frames = deque([start] * (self._length - 1), maxlen=self._length)
            self._frames[camera], self._episodes[camera] = frames, episode
        frames.append(grid)
        return replace(join(list(frames)), pixel_fingerprint=grid.pixel_fingerprint)
