"""Six faults made in a camera's stream, and what is said of each by the training set's pixels.

    python examples/pixel_alarms.py out/alarms             # on the demo's sample bag
    python examples/pixel_alarms.py out/alarms --bag BAG   # on your own

Every other frame is the training set. The folder then has the reference, faults.jpg, and a bag for
each fault, to be replayed with

    siglip-perception replay out/alarms/swapped -o out/swapped \\
        --pixel-reference out/alarms/reference.json
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from siglip_perception.bags.calibration_frames import read_frames
from siglip_perception.bags.replay import write_sample_bag
from siglip_perception.commands.demo import recording
from siglip_perception.images.fingerprint import pixel_fingerprint
from siglip_perception.images.pixel_reference import PixelReference, StreamCheck
from siglip_perception.types import UInt8Array

RATE_HZ = 10
FRAMES = 160
QUALITY = 90


def darker(image: UInt8Array) -> UInt8Array:
    """Expose 1.4 stops less; 2.2 is near enough to sRGB's curve."""
    values: UInt8Array = (image * 2.0 ** (-1.4 / 2.2) + 0.5).astype(np.uint8)
    return values


def half_and_back(image: UInt8Array) -> UInt8Array:
    height, width = image.shape[:2]
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR))


def padded(image: UInt8Array) -> UInt8Array:
    """Cover the top and the bottom, as a driver that pads a wide image to 4:3 does."""
    output = image.copy()
    bar = image.shape[0] // 8
    output[:bar] = output[-bar:] = 0
    return output


def squashed(image: UInt8Array) -> UInt8Array:
    side = image.shape[0]
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC))


FAULTS: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    "honest": lambda image: image,
    "swapped": lambda image: np.ascontiguousarray(image[:, :, ::-1]),
    "darker": darker,
    "blurred": half_and_back,
    "padded": padded,
    "squashed": squashed,
    "compressed": lambda image: simplejpeg.decode_jpeg(
        simplejpeg.encode_jpeg(image, quality=20, colorspace="RGB"), colorspace="RGB"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="new folder for the reference and the bags")
    parser.add_argument("--bag", type=Path, help="a bag of yours instead of the sample bag")
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    bag = args.bag
    if bag is None:
        bag = args.output / "sample"
        recording.write_recording(bag, seed=0)
    frames = read_frames(bag, FRAMES)
    # Every other frame is "training", so that both have all scenes.
    training, live = frames[::2], frames[1::2]
    reference = PixelReference.of(pixel_fingerprint(image) for image in training)
    reference.write(args.output / "reference.json", str(bag))
    sheet = []
    for name, make in FAULTS.items():
        images = [make(image) for image in live]
        first = report(name, images, reference)
        write_bag(args.output / name, images)
        sheet.append(labeled(images[0], first or name))
    rows = [np.hstack(sheet[start : start + 3]) for start in (1, 4)]
    cv2.imwrite(
        str(args.output / "faults.jpg"),
        np.vstack(rows)[:, :, ::-1],
        [cv2.IMWRITE_JPEG_QUALITY, 80],
    )


def report(name: str, images: list[UInt8Array], reference: PixelReference) -> str:
    """Print what is said of a stream and when it was first said; return the first words."""
    check = StreamCheck(reference)
    said: dict[str, tuple[float, str]] = {}
    for number, image in enumerate(images):
        for alarm in check.add(int(number * 1e9 / RATE_HZ), pixel_fingerprint(image)):
            said.setdefault(alarm.kind, (number / RATE_HZ, alarm.text))
    for seconds, text in said.values():
        print(f"{name:<11} after {seconds:.1f} s: {text}")
    if not said:
        print(f"{name:<11} nothing")
    return next((text for _, text in said.values()), "")


def write_bag(path: Path, images: list[UInt8Array]) -> None:
    start = recording.START_NS
    write_sample_bag(
        path,
        (
            (
                start + int(number * 1e9 / RATE_HZ),
                simplejpeg.encode_jpeg(image, quality=QUALITY, colorspace="RGB"),
            )
            for number, image in enumerate(images)
        ),
        [],
    )


def labeled(image: UInt8Array, text: str) -> UInt8Array:
    """A 320 x 264 tile: the picture, and below it what was said."""
    tile = np.full((264, 320, 3), 255, np.uint8)
    scale = min(320 / image.shape[1], 240 / image.shape[0])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    tile[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.putText(
        tile,
        re.split(r"[:(]", text)[0],
        (4, 256),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.35,
        (0, 0, 0),
        1,
        cv2.LINE_AA,
    )
    return tile


if __name__ == "__main__":
    main()
