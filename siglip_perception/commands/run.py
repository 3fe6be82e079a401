"""What the commands tokens, ground and replay do."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from siglip_perception.bags import replay as bag_replay
from siglip_perception.commands.phrases import mentions_as_json
from siglip_perception.config import Settings
from siglip_perception.errors import BackendError, InstructionError, PerceptionError
from siglip_perception.grounding.tracking import TrackingOptions
from siglip_perception.images import overlay
from siglip_perception.images.files import read_image
from siglip_perception.language import instruction
from siglip_perception.types import Frame, Grounding, Point3, UInt8Array
from siglip_perception.util.files import write_atomically
from siglip_perception.util.progress import progress

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds: only once there is something to run.
    from siglip_perception.pipeline import Pipeline, Query, Result

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def tokens(args: argparse.Namespace) -> int:
    """One image -> an .npz of its tokens."""
    image = _image(args)
    _check_folder(args.output)
    pipeline = _load(args)
    grid = _process(pipeline, image, None).tokens
    if grid is None:
        raise BackendError(f"The backend {pipeline.backend} gave no tokens.")
    buffer = io.BytesIO()
    np.savez(
        buffer,
        tokens=grid.data,
        grid=np.array([grid.rows, grid.cols]),
        contract=np.array(grid.contract),
        fingerprint=np.array(grid.fingerprint),
    )
    _write(args.output, buffer.getvalue())
    print(
        f"{args.output}: {grid.rows} x {grid.cols} tokens of {grid.dim} channels,"
        f" contract {grid.contract}, fingerprint {grid.fingerprint[:12]}"
    )
    return 0


def ground(args: argparse.Namespace) -> int:
    """One image and an instruction -> objects, as text or JSON, and as a picture."""
    asked = instruction.parse(args.instruction)
    if not asked.phrases:
        raise InstructionError(asked.explanation)
    image = _image(args)
    if args.overlay is not None:
        _check_folder(args.overlay)
        _format(args.overlay)
    pipeline = _load(args)
    query = pipeline.query(asked, 1)
    grounding = _process(pipeline, image, query, with_mask=args.overlay is not None).grounding
    if grounding is None:
        raise BackendError(f"The backend {pipeline.backend} gave no objects.")
    if args.overlay is not None:
        write_picture(args.overlay, overlay.draw(image, grounding))
    if args.json:
        print(json.dumps(as_json(grounding), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_sentences(grounding)))
    return 0


def replay(args: argparse.Namespace) -> int:
    """A bag -> a bag of tokens and objects.

    The bag is looked at before the model is loaded, so that what is wrong with it is said at once.
    """
    bag_replay.check_paths(args.bag, args.output)
    if args.instruction:
        instruction.parse(args.instruction)
    options = bag_replay.ReplayOptions(
        image_topics=tuple(args.image_topic),
        instruction_topic=args.instruction_topic,
        instruction=args.instruction,
        with_mask=args.mask,
        mono16_white=args.mono16_white,
        grounding_rate=args.grounding_rate,
        overlay=None if args.overlay is None else partial(_write_overlay, args),
        tracking=TrackingOptions() if args.tracking else None,
        depth_topic=args.depth_topic,
        info_topic=args.camera_info_topic,
    )
    with bag_replay.reading(args.bag) as recording:
        count = len(recording.topics)
        _say(f"{args.bag}: {recording.storage}, {count} topic{'s' if count != 1 else ''}")
        for line in bag_replay.listing(recording):
            _say(line)
        selection = bag_replay.select(recording, options)
        _say(f"images: {', '.join(selection.cameras.names)}")
        for note in selection.notes:
            _say(f"note: {note}")
        if args.overlay is not None:
            try:
                args.overlay.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PerceptionError(
                    f"Cannot write to {args.overlay} ({error.strerror})."
                ) from error
        with bag_replay.deterministic():
            pipeline = _load(args)
            summary = bag_replay.replay_recording(
                recording, selection, args.output, pipeline, options, progress(sys.stderr)
            )
    print("\n".join(_report(summary, args.output)))
    if not pipeline.can_ground:
        print(f"no objects: {pipeline.grounding}")
    elif summary.instructions and not summary.objects:
        print("no objects: no image that could be taken came while an instruction held")
    return 0


def _image(args: argparse.Namespace) -> UInt8Array:
    """The image that a command names; what was mended in its file is said on stderr."""
    picture = read_image(args.image, mono16_white=args.mono16_white)
    if picture.repairs:
        print(
            f"{args.image} was decoded, though it has faults: {', '.join(picture.repairs)}",
            file=sys.stderr,
        )
    return picture.pixels


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_overlay(
    args: argparse.Namespace, camera: str, number: int, image: UInt8Array, grounding: Grounding
) -> None:
    if (number - 1) % args.overlay_every == 0:
        name = f"{camera}_{number:06d}.jpg" if camera else f"{number:06d}.jpg"
        write_picture(args.overlay / name, overlay.draw(image, grounding))


def write_picture(path: Path, image: UInt8Array) -> None:
    """Write uint8 [H, W, 3] RGB as .png or .jpg; PerceptionError where that cannot be."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, _format(path), quality=90)
    _write(path, buffer.getvalue())


def as_json(grounding: Grounding) -> dict[str, Any]:
    """A grounding as JSON values; boxes are [x, y, width, height] in pixels, points in meters."""
    return {
        "instruction": grounding.instruction,
        "contract": grounding.contract,
        "phrases": list(grounding.phrases),
        "presence": [round(value, 6) for value in grounding.presence],
        "mentions": mentions_as_json(grounding.phrases, grounding.mentions),
        "confidence": round(grounding.confidence, 3),
        "objects": [
            {
                "phrase": found.phrase,
                "role": found.role.name.lower(),
                "score": round(found.score, 6),
                "logit": round(found.logit, 6),
                "box": [found.box.x, found.box.y, found.box.width, found.box.height],
                "area": round(found.area, 6),
                "id": found.id,
                "mentions": list(found.mentions),
                "position": _meters(found.position),
                "extent": _meters(found.extent),
            }
            for found in grounding.objects
        ],
    }


def _meters(point: Point3) -> list[float] | None:
    """[x, y, z], or nothing without depth: JSON has no NaN."""
    return [round(value, 4) for value in point] if all(map(math.isfinite, point)) else None


def _load(args: argparse.Namespace) -> Pipeline:
    from siglip_perception.pipeline import Pipeline, PipelineOptions

    options = PipelineOptions(
        model=args.model,
        contract=args.contract,
        backend=args.backend,
        device=args.device,
        precision=args.precision,
        threshold=getattr(args, "threshold", Settings.threshold),
        max_objects=min(255, getattr(args, "max_objects", Settings.max_objects)),
        tokens_dtype=getattr(args, "tokens_dtype", "float32"),
        grounding_model=getattr(args, "grounding_model", ""),
        grounding_contract=getattr(args, "grounding_contract", ""),
    )
    return Pipeline.load(options)


def _process(
    pipeline: Pipeline, image: UInt8Array, query: Query | None, *, with_mask: bool = False
) -> Result:
    try:
        return pipeline.process(
            Frame(image), query, with_tokens=query is None, with_mask=with_mask
        )
    except FloatingPointError as error:
        raise BackendError(
            f"{error} Check the weights, or use --precision fp32 --backend torch."
        ) from error


def _sentences(grounding: Grounding) -> list[str]:
    lines = []
    for phrase, presence in zip(grounding.phrases, grounding.presence, strict=True):
        found = [answer for answer in grounding.objects if answer.phrase == phrase]
        lines.append(f"{phrase}: in view {presence:.2f}" + ("" if found else ", not found"))
        lines += [
            f"  score {answer.score:.2f}, box x {answer.box.x} y {answer.box.y}"
            f" {answer.box.width} x {answer.box.height}"
            + (f", {answer.role.name.lower()}" if answer.role else "")
            for answer in found
        ]
    return lines


def _report(summary: bag_replay.Summary, out: Path) -> list[str]:
    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.dropped.items()))
    lines = [
        f"{out}: {summary.images} images in, {summary.tokens} token and {summary.objects} object"
        f" messages out, {sum(summary.dropped.values())} dropped{f' ({dropped})' * bool(dropped)}",
    ]
    for topic, drops in sorted(summary.drops.items()):
        for reason, count in sorted(drops.items()):
            lines.append(
                f"  {topic}: {count} dropped as {reason}: {summary.examples[topic, reason]}"
            )
    if summary.repaired:
        faults = ", ".join(f"{fault} {count}" for fault, count in sorted(summary.repaired.items()))
        lines.append(f"images decoded although their files have faults: {faults}")
    for topic, (there, promised) in sorted(summary.missing.items()):
        lines.append(f"  {topic}: {there} of the {promised} messages that the bag promises")
    for topic, count in sorted(summary.unread.items()):
        lines.append(f"  {topic}: {count} messages that cannot be read")
    lines += [f"  {note}" for note in summary.notes]
    lines.append(f"{summary.instructions} instructions taken, {summary.rejected} rejected")
    lines += [f"  {doubt}" for doubt in summary.doubts.values()]
    if summary.depth:
        used = ", ".join(f"{what} {count}" for what, count in sorted(summary.depth.items()))
        lines.append(f"depth of images with objects: {used}")
    for text, phrases in summary.found.items():
        seen = ", ".join(f"{phrase} {count}" for phrase, count in phrases.items())
        lines.append(f"  {text!r}: {summary.grounded[text]} images, found in: {seen}")
    return lines


def _check_folder(path: Path) -> None:
    """Say early that an output cannot be written: before the model is loaded."""
    if not path.parent.is_dir():
        raise PerceptionError(f"There is no folder {path.parent} to write {path.name} into.")


def _format(path: Path) -> str:
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PerceptionError(f"Cannot write {path}: name a .png or .jpg file.")
    return kind


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise PerceptionError(f"Cannot write {path} ({error.strerror}).") from error
