"""Messages to a page: a frame with all that was seen in it, and the state of the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import simplejpeg

from siglip_perception.images.overlay import PALETTE
from siglip_perception.types import GroundedObject, Grounding, UInt8Array
from siglip_perception.view.source import Status

# Longer side of the picture that is sent, in pixels.
MAX_SIDE = 1280
_QUALITY = 80


@dataclass(frozen=True)
class Update:
    """A message for every page; a newer one of its kind takes its place.

    kind: "frame" or "state". data: bytes of a frame, text of a state. frame: the frame's number.
    """

    kind: str
    data: bytes | str
    frame: int = 0


@dataclass(frozen=True)
class Seen:
    """The frame on view: what was looked at, and what came of it.

    image: uint8 [H, W, 3]. blobs: name -> (facts, bytes) of the panels' pictures.
    """

    number: int
    index: int
    time_s: float
    name: str
    image: UInt8Array
    grounding: Grounding | None
    outlines: Sequence[Sequence[Sequence[int]]] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    latency_s: float | None = None
    notes: Sequence[str] = ()
    blobs: Mapping[str, tuple[Mapping[str, Any], bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """All that is not a frame's own.

    model: "loading", "ready", "failed" or "none"; model_text: what runs it, or what is wrong.
    index: the frame on view of `count`, None in a live source. following: the recording's own
    instructions are taken. instruction: the text that holds. detail: what is wrong or doubtful
    about it. threshold: None: each language's own. trouble: what is wrong with the source or the
    newest frame. pin: the point that is looked at, in shares of the picture. facts: of the model
    and its contract.
    """

    title: str
    kind: str
    cameras: Sequence[str]
    camera: str
    count: int | None
    playing: bool
    following: bool
    model: str
    model_text: str
    threshold: float | None
    instruction: str
    detail: str
    detail_level: int
    trouble: str
    pin: tuple[float, float] | None
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    statuses: Sequence[Status]


def frame_update(seen: Seen) -> Update:
    """Pack a frame: uint32 length of the JSON (little-endian), the JSON, the blobs it lists."""
    blobs: list[tuple[dict[str, Any], bytes]] = [({"name": "picture"}, encode_jpeg(seen.image))]
    blobs += [({"name": name, **facts}, data) for name, (facts, data) in seen.blobs.items()]
    head = {
        "type": "frame",
        "frame": seen.number,
        "index": seen.index,
        "time": round(seen.time_s, 3),
        "name": seen.name,
        "width": int(seen.image.shape[1]),
        "height": int(seen.image.shape[0]),
        "notes": list(seen.notes),
        "timings": {key: round(value * 1000, 2) for key, value in seen.timings.items()},
        "latency": None if seen.latency_s is None else round(seen.latency_s * 1000, 2),
        **_grounding_json(seen),
        "blobs": [{**facts, "size": len(data)} for facts, data in blobs],
    }
    text = json.dumps(head, ensure_ascii=False, allow_nan=False).encode()
    parts = [len(text).to_bytes(4, "little"), text, *(data for _, data in blobs)]
    return Update("frame", b"".join(parts), seen.number)


def _grounding_json(seen: Seen) -> dict[str, Any]:
    grounding = seen.grounding
    if grounding is None:
        return {"instruction": "", "phrases": [], "presence": [], "objects": []}
    shapes = seen.outlines or [[]] * len(grounding.objects)
    return {
        "instruction": grounding.instruction,
        "phrases": list(grounding.phrases),
        "presence": [round(value, 4) for value in grounding.presence],
        "objects": [
            {**_object_json(item, grounding.phrases), "outline": outline}
            for item, outline in zip(grounding.objects, shapes, strict=True)
        ],
    }


def _object_json(item: GroundedObject, phrases: Sequence[str]) -> dict[str, Any]:
    box = item.box
    position = [round(value, 3) for value in item.position]
    return {
        "phrase": phrases.index(item.phrase) if item.phrase in phrases else 0,
        "text": item.phrase,
        "score": round(item.score, 4),
        "role": item.role.name.lower(),
        "box": [box.x, box.y, box.width, box.height],
        "id": item.id,
        "lost": round(item.lost, 2),
        "position": position if all(map(math.isfinite, position)) else None,
    }


def state_update(state: State) -> Update:
    """Pack the state as JSON."""
    body = {
        "type": "state",
        **asdict(state),
        "palette": ["#{:02x}{:02x}{:02x}".format(*color) for color in PALETTE],
    }
    return Update("state", json.dumps(body, ensure_ascii=False, allow_nan=False))


def error_text(sentence: str) -> str:
    """Pack a sentence that answers one page's request."""
    return json.dumps({"type": "error", "text": sentence}, ensure_ascii=False)


def encode_jpeg(image: UInt8Array, max_side: int = MAX_SIDE) -> bytes:
    """Encode uint8 [H, W, 3] RGB, made smaller where a side is longer than `max_side`."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_QUALITY))
