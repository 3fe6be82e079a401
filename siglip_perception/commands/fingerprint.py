"""`siglip-perception fingerprint DATASET -o FILE`: a training set's pixels in numbers."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from siglip_perception.commands.arguments import number, output_file
from siglip_perception.errors import PerceptionError
from siglip_perception.images.fingerprint import FIELDS, pixel_fingerprint
from siglip_perception.images.pixel_reference import PixelReference, check_count
from siglip_perception.types import FloatArray
from siglip_perception.util.progress import progress

_DEFAULT_PICTURES = 2000
_SEED = 17


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception fingerprint`."""
    parser.add_argument(
        "dataset",
        nargs="+",
        metavar="DATASET",
        help="whatever `train` reads: a folder of pictures, a bag, a table, shards; captions are"
        " not needed",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_file,
        required=True,
        metavar="FILE.json",
        help="the reference, for the node's parameter pixel_reference and replay's"
        " --pixel-reference",
    )
    parser.add_argument(
        "--pictures",
        type=number(int, 8, 1_000_000),
        default=_DEFAULT_PICTURES,
        metavar="N",
        help="pictures to read at most, drawn evenly (default: %(default)s)",
    )
    parser.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="a bag's camera, once for each (default: every camera of the bag)",
    )


def run(args: argparse.Namespace) -> int:
    """Read the pictures, write the reference and print what it says."""
    from siglip_perception.contrastive.data.open import open_data
    from siglip_perception.contrastive.data.source_bag import BagOptions
    from siglip_perception.contrastive.data.sources import BrokenPairError

    with tempfile.TemporaryDirectory(prefix="fingerprint.") as cache:
        bag = BagOptions(tuple(args.image_topic))
        source = open_data(args.dataset, Path(cache), bag, captioned=False)
        check_count(len(source))
        count = min(len(source), args.pictures)
        order = np.random.default_rng(_SEED).permutation(len(source))[:count]
        report, show = source.report, progress(sys.stderr)
        fingerprints: list[FloatArray] = []
        for done, index in enumerate(sorted(order.tolist()), 1):
            try:
                pair = source.read(index)
                if pair.image is None:
                    raise PerceptionError(
                        f"{', '.join(args.dataset)} holds features and no pictures: name the"
                        " pictures that they were made of."
                    )
                fingerprints.append(pixel_fingerprint(pair.image))
            except BrokenPairError as error:
                report.skip(error.reason, error.name, error.detail)
            show(done, count)
    reference = PixelReference.of(fingerprints)
    reference.write(args.output, ", ".join(args.dataset))
    for reason, times in report.skip_counts.items():
        print(f"left out: {times} as {reason}", file=sys.stderr)
    print(f"{args.output}: {reference.pictures} of {len(source)} pictures")
    for field, low, median, high in zip(
        FIELDS, reference.low, reference.median, reference.high, strict=True
    ):
        print(f"  {field:<16} {median:7.2f}   2 % below {low:.2f}, 2 % above {high:.2f}")
    return 0
