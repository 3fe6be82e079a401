"""The commands tokens, ground and replay."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from siglip_perception.commands.arguments import as_options, selection_of
from siglip_perception.config import Settings
from siglip_perception.errors import BackendError, PerceptionError
from siglip_perception.grounding.tracking import TrackingOptions
from siglip_perception.images import overlay
from siglip_perception.images.files import Picture, read_image
from siglip_perception.images.pixel_reference import PixelReference
from siglip_perception.language import instruction
from siglip_perception.perception import Perception, describe, read_instruction
from siglip_perception.types import Grounding, UInt8Array
from siglip_perception.util.files import write_atomically
from siglip_perception.util.progress import progress

if TYPE_CHECKING:
    # Importing PyTorch takes seconds, and rosbags part of one: only for the commands that need it.
    from siglip_perception.bags import replay as bag_replay

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def tokens(args: argparse.Namespace) -> int:
    """Write the tokens of one image to an .npz file."""
    picture = _picture(args)
    _check_folder(args.output)
    with _naming_options():
        grid = load_perception(args).tokens(picture)
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
    """Print the objects that an instruction names in one image; write them as a picture."""
    # Check everything that needs no model first: loading one takes seconds.
    read_instruction(args.instruction)
    picture = _picture(args)
    if args.overlay is not None:
        _check_folder(args.overlay)
        _format(args.overlay)
    with _naming_options():
        result = load_perception(args).look(
            picture, args.instruction, with_tokens=False, with_mask=args.overlay is not None
        )
    if args.overlay is not None:
        write_picture(args.overlay, result.overlay())
    if args.json:
        print(json.dumps(result.as_json(), ensure_ascii=False, indent=2))
    elif result.grounding is not None:
        print("\n".join(describe(result.grounding)))
    return 0


def replay(args: argparse.Namespace) -> int:
    """Replay a bag into a new bag of tokens and objects.

    The bag is examined before the model is loaded, so that its errors appear at once.
    """
    from siglip_perception.bags import replay as bag_replay

    bag_replay.check_paths(args.bag, args.output)
    if args.instruction:
        instruction.parse(args.instruction)
    options = bag_replay.ReplayOptions(
        image_topics=tuple(args.image_topic),
        instruction_topic=args.instruction_topic,
        instruction=args.instruction,
        with_mask=args.mask,
        with_images=args.with_images,
        mono16_white=args.mono16_white,
        grounding_rate=args.grounding_rate,
        overlay=None if args.overlay is None else partial(_write_overlay, args),
        tracking=TrackingOptions() if args.tracking else None,
        depth_topic=args.depth_topic,
        info_topic=args.camera_info_topic,
        pixel_reference=_pixel_reference(args.pixel_reference),
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
            pipeline = load_perception(args).pipeline
            summary = bag_replay.replay_recording(
                recording, selection, args.output, pipeline, options, progress(sys.stderr)
            )
    print("\n".join(_report(summary, args.output)))
    if not pipeline.can_ground:
        print(f"no objects: {as_options(pipeline.grounding_status)}")
    elif summary.instructions and not summary.objects:
        print("no objects: no usable image came after an instruction")
    return 0


def _pixel_reference(path: Path | None) -> PixelReference | None:
    return None if path is None else PixelReference.read(path)


def _picture(args: argparse.Namespace) -> Picture:
    """Read the image that a command names; report repaired faults on stderr."""
    picture = read_image(args.image, mono16_white=args.mono16_white)
    if picture.repairs:
        print(
            f"{args.image} was decoded, though it has faults: {', '.join(picture.repairs)}",
            file=sys.stderr,
        )
    return picture


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_overlay(
    args: argparse.Namespace, camera: str, number: int, image: UInt8Array, grounding: Grounding
) -> None:
    if (number - 1) % args.overlay_every == 0:
        name = f"{camera}_{number:06d}.jpg" if camera else f"{number:06d}.jpg"
        write_picture(args.overlay / name, overlay.draw(image, grounding))


def write_picture(path: Path, image: UInt8Array) -> None:
    """Write uint8 [H, W, 3] RGB as .png or .jpg; raises PerceptionError."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, _format(path), quality=90)
    _write(path, buffer.getvalue())


def load_perception(args: argparse.Namespace) -> Perception:
    """Load the model that a command's options select, with their limits."""
    return Perception(
        **asdict(selection_of(args)),
        threshold=getattr(args, "threshold", None),
        max_objects=min(255, getattr(args, "max_objects", Settings.max_objects)),
        windows=getattr(args, "windows", Settings.windows),
        tokens_dtype=getattr(args, "tokens_dtype", Settings.tokens_dtype),
    )


@contextmanager
def _naming_options() -> Iterator[None]:
    """Reword the error about NaN so that it names the command line's options."""
    try:
        yield
    except BackendError as error:
        if isinstance(error.__cause__, FloatingPointError):
            raise BackendError(
                f"{error.__cause__} Check the weights, or use --precision fp32 --backend torch."
            ) from error
        raise


def _report(summary: bag_replay.Summary, out: Path) -> list[str]:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.dropped.items()))
    drop_text = f" ({reasons})" if reasons else ""
    lines = [
        f"{out}: {summary.images} images in, {summary.tokens} token and {summary.objects} object"
        f" messages out, {sum(summary.dropped.values())} dropped{drop_text}",
    ]
    for topic, drops in sorted(summary.drops.items()):
        for reason, count in sorted(drops.items()):
            lines.append(
                f"  {topic}: {count} dropped as {reason}: {summary.examples[topic, reason]}"
            )
    if summary.repaired:
        faults = ", ".join(f"{fault} {count}" for fault, count in sorted(summary.repaired.items()))
        lines.append(f"images decoded although their files have faults: {faults}")
    for topic, (actual, listed) in sorted(summary.missing.items()):
        lines.append(f"  {topic}: {actual} of the {listed} messages that metadata.yaml lists")
    for topic, count in sorted(summary.unread.items()):
        lines.append(f"  {topic}: {count} messages that cannot be read")
    lines += [f"  {note}" for note in summary.notes]
    lines.append(f"{summary.instructions} instructions accepted, {summary.rejected} rejected")
    lines += [f"  {doubt}" for doubt in summary.doubts.values()]
    if summary.pixels is not None and not summary.pixels:
        lines.append("pixels: as in the training set")
    for remark in (summary.pixels or {}).values():
        lines.append(
            f"pixels: {remark.topic}: {remark.text} ({remark.images} images, from image"
            f" {remark.first} on)"
        )
    if summary.depth:
        outcomes = ", ".join(
            f"{outcome} {count}" for outcome, count in sorted(summary.depth.items())
        )
        lines.append(f"depth of images with objects: {outcomes}")
    for text, phrases in summary.found.items():
        image_counts = ", ".join(f"{phrase} {count}" for phrase, count in phrases.items())
        lines.append(f"  {text!r}: {summary.grounded[text]} images, found in: {image_counts}")
    return lines


def _check_folder(path: Path) -> None:
    """Raise PerceptionError, before the model is loaded, if an output's folder does not exist."""
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
