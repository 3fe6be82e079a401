"""The pace of a recording that plays."""

from __future__ import annotations

from siglip_perception.view.source import RecordedSource

LATE_S = 0.15
"""How late a frame may be shown, in seconds: after one that takes long, the next ones catch up."""


def frame_to_show(source: RecordedSource, upcoming: int, due_s: float) -> int:
    """Return the first frame from `upcoming` on that is not too late; the last one otherwise.

    due_s: time in the recording, in seconds, that playing has come to.
    """
    while upcoming + 1 < source.count and source.time_s(upcoming) < due_s - LATE_S:
        upcoming += 1
    return upcoming
