"""What a frame has besides its pixels: its depth, and what was in the frames before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from siglip_perception.config import Settings
from siglip_perception.grounding.tracking import Tracker, TrackingOptions
from siglip_perception.stream.depth_feed import DepthFeed
from siglip_perception.types import Frame, Grounding


class Continuity:
    """Each camera's depth feed and tracker. Call it on the worker's thread.

    feed: a camera's depth feed. now_ns: the node's clock, for frames without a stamp.
    """

    def __init__(self, feed: Callable[[str], DepthFeed], now_ns: Callable[[], int]) -> None:
        self._feed = feed
        self._now_ns = now_ns
        self._trackers: dict[str, Tracker] = {}

    def with_depth(self, frame: Frame, settings: Settings) -> Frame:
        """The frame with the way to its depth, where that is wanted."""
        if not settings.depth_enabled:
            return frame
        depth = partial(
            self._feed(frame.camera).depth,
            frame.stamp_ns,
            frame.width,
            frame.height,
            settings.depth_tolerance,
        )
        return replace(frame, depth=depth)

    def tracked(self, frame: Frame, result: Any, settings: Settings) -> Any:
        """The pipeline's result with ids in its grounding, where they are wanted."""
        grounding: Grounding | None = result.grounding
        if not settings.tracking_enabled:
            self._trackers.clear()
            return result
        if grounding is None:
            return result
        followed = self._trackers.setdefault(frame.camera, Tracker()).update(
            grounding,
            frame.stamp_ns or self._now_ns(),
            (frame.width, frame.height),
            TrackingOptions(settings.tracking_max_lost, settings.tracking_smoothing),
            settings.max_objects,
        )
        return replace(result, grounding=followed)
