"""The program siglip-perception: the pipeline without ROS, with a command for each use."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from siglip_perception import __version__
from siglip_perception.commands.arguments import (
    Parser,
    add_grounding_arguments,
    add_model_arguments,
    as_options,
    check_model,
    input_file,
    number,
    output_file,
    output_folder,
    output_picture,
)
from siglip_perception.config import INSTRUCTION_TOPIC, Settings
from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements
from siglip_perception.util.threads import spin_briefly

COMMANDS = {
    "tokens": "fused tokens of one image -> .npz",
    "ground": "find what an instruction names in one image",
    "phrases": "what an instruction is understood to name, without a model or an image",
    "replay": "run the pipeline over a bag -> a bag of tokens and objects",
    "view": "a page that shows what is seen: of a node, a webcam, a bag, a video or pictures",
    "fetch": "get a model's weights over the network; no other command uses it",
    "contracts": "the token contracts: what each states, and where that was read",
    "pixels": "what each encoder of a contract is fed for one image -> .npz",
    "parity": "compare the tokens with those of timm's or transformers' own models",
    "fingerprint": "a training set's pixels in numbers, for the node and replay to compare with",
    "doctor": "what is installed here, what is missing and how to get it",
    "scenes": "render training scenes ahead of time, by MuJoCo -> shards",
    "features": "a whole corpus through the encoders -> tokens and vectors in parquet, resumable",
    "search": "find the frames of such a corpus that a sentence describes",
    "train": "train SigLIP or DINOv2 on your own data, or the embedded model on scenes",
    "evaluate": "measure how well a model grounds, on generated scenes or on your own images",
    "calibrate": "make scores probabilities, on twenty annotated pictures of yours",
    "experiment": "answer one question about contrastive learning by measuring",
    "export": "ONNX of the encoders, or their engines built ahead of time; int8 on your frames",
    "bench": "compare with transformers and timm: latency, use of the machine, accuracy",
    "demo": "the whole main job over ROS 2, on a sample bag",
    "robot": "a simulated arm that acts on what the node sees, over ROS 2",
}
# Commands with arguments of their own; each module is imported only for its command.
_DELEGATED = {
    "phrases": "siglip_perception.commands.phrases",
    "view": "siglip_perception.commands.view",
    "fetch": "siglip_perception.commands.fetch",
    "contracts": "siglip_perception.commands.contracts",
    "pixels": "siglip_perception.commands.pixels",
    "parity": "siglip_perception.commands.parity",
    "fingerprint": "siglip_perception.commands.fingerprint",
    "scenes": "siglip_perception.commands.scenes",
    "features": "siglip_perception.commands.features",
    "search": "siglip_perception.commands.search",
    "train": "siglip_perception.commands.train",
    "evaluate": "siglip_perception.commands.evaluate",
    "calibrate": "siglip_perception.commands.calibrate",
    "experiment": "siglip_perception.commands.experiment",
    "demo": "siglip_perception.commands.demo",
    "robot": "siglip_perception.commands.robot",
    "export": "siglip_perception.commands.export",
    "bench": "siglip_perception.commands.bench",
}
# Commands that check their models themselves: not at all, or after the data.
_OWN_CHECK = ("fetch", "evaluate", "calibrate", "train", "features", "search")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 2, with one line, for an error of the user."""
    spin_briefly()
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), "")
    if command != "fetch":
        # Before the first import of the Hub's library, which reads the variable.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        code = _run(command_parser(command).parse_args(words))
        sys.stdout.flush()
        return code
    except PerceptionError as error:
        print(f"siglip-perception: {as_options(str(error))}", file=sys.stderr)
        return 2
    except ImportError as error:
        sentence = requirements.explain_import_error(error)
        if sentence is None:
            raise
        print(f"siglip-perception: {sentence}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output has closed it; without this, Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("siglip-perception: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    if args.command not in _OWN_CHECK:
        check_model(args)
    if args.command in _DELEGATED:
        return int(importlib.import_module(_DELEGATED[args.command]).run(args))
    if args.command == "doctor":
        from siglip_perception.commands import doctor

        return doctor.run(args.model, as_json=args.json)
    from siglip_perception.commands import run

    programs = {"tokens": run.tokens, "ground": run.ground, "replay": run.replay}
    return programs[args.command](args)


def command_parser(command: str) -> Parser:
    parser = Parser(
        prog="siglip-perception",
        description="Fused SigLIP and DINOv2 tokens, and the objects that an instruction names.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {
        name: subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for name, text in COMMANDS.items()
    }
    _tokens(commands["tokens"])
    _ground(commands["ground"])
    _replay(commands["replay"])
    doctor = commands["doctor"]
    doctor.add_argument("--model", default="tabletop", help="model to check (default: tabletop)")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    if command in _DELEGATED:
        importlib.import_module(_DELEGATED[command]).add_arguments(commands[command])
    return parser


def _tokens(parser: argparse.ArgumentParser) -> None:
    _image(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=output_file,
        required=True,
        metavar="TOKENS.npz",
        help="arrays tokens float32 [rows * cols, dim], grid [rows, cols], contract, fingerprint",
    )


def _ground(parser: argparse.ArgumentParser) -> None:
    _image(parser)
    parser.add_argument("instruction", help='"pick up the red cup", or a list: "red cup. plate."')
    add_model_arguments(parser)
    add_grounding_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON; boxes are [x, y, w, h]")
    parser.add_argument(
        "--overlay",
        type=output_picture,
        metavar="OUT",
        help="write the marked image, .png or .jpg",
    )


def _image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image",
        type=Path,
        metavar="IMAGE",
        help="JPEG, PNG, WebP, TIFF, BMP, GIF or PNM file; turned upright as its EXIF says",
    )
    parser.add_argument(
        "--mono16-white",
        type=number(int, 0, 65535),
        default=Settings.mono16_white,
        metavar="VALUE",
        help="gray value that is white in a 16-bit gray file, 1 to 65535 (default: such a file "
        "is refused)",
    )


_REPLAY_EPILOG = """\
BAG is a rosbag2 folder of any version, or one file of it: MCAP or sqlite3, packed with zstd or
not, cut off by a crash or not. Its topics are listed on stderr before the model is loaded.
Cameras are all topics of sensor_msgs/Image and CompressedImage, and of foxglove.CompressedImage
and RawImage, but depth (16UC1, 32FC1). Of one camera's transports one is taken, raw before
compressed. docs/bags.md says more.

OUT holds /siglip_perception/tokens and /siglip_perception/objects; of several cameras
/siglip_perception/CAMERA/tokens and so on. The summary counts what was dropped, by topic and
reason. Exit code 2, and no OUT, where nothing could be taken.
"""


def _replay(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _REPLAY_EPILOG
    parser.add_argument(
        "bag", type=Path, metavar="BAG", help="rosbag2 folder, or its .mcap or .db3 file"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the new bag"
    )
    add_model_arguments(parser)
    add_grounding_arguments(parser)
    parser.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="images to take, once for each camera (default: every camera of the bag)",
    )
    parser.add_argument(
        "--mono16-white",
        type=number(int, 0, 65535),
        default=Settings.mono16_white,
        metavar="WHITE",
        help="value of 16-bit gray images (mono16, 16UC1) that is white, 1 to 65535"
        " (default: none, they are dropped)",
    )
    parser.add_argument(
        "--instruction-topic",
        default=INSTRUCTION_TOPIC,
        metavar="TOPIC",
        help="std_msgs/String with what to look for (default: %(default)s)",
    )
    parser.add_argument(
        "--instruction",
        default="",
        metavar="TEXT",
        help="what to look for until the bag's first instruction (default: nothing)",
    )
    parser.add_argument(
        "--pixel-reference",
        type=input_file,
        metavar="FILE",
        help="compare the images with a training set's pixels: the file that"
        " `siglip-perception fingerprint` wrote",
    )
    parser.add_argument(
        "--tokens-dtype",
        choices=("float32", "float16", "bfloat16"),
        default=Settings.tokens_dtype,
        help="element type of the tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--grounding-rate",
        type=number(float, 0, 1000),
        default=Settings.grounding_rate,
        metavar="HZ",
        help="images a second, by their stamps, in which objects are looked for"
        " (default: 0, in all)",
    )
    parser.add_argument("--mask", action="store_true", help="write masks into the objects, too")
    parser.add_argument(
        "--with-images",
        action="store_true",
        help="write the pictures, their overlays and annotations, too: a viewer shows the new bag"
        " complete (docs/viewing.md)",
    )
    parser.add_argument(
        "--tracking", action="store_true", help="give objects an id that stays across frames"
    )
    parser.add_argument(
        "--depth-topic",
        default="",
        metavar="TOPIC",
        help="sensor_msgs/Image of registered depth, 16UC1 (mm) or 32FC1 (m): objects get a"
        " position; one camera only, and with --camera-info-topic",
    )
    parser.add_argument(
        "--camera-info-topic",
        default="",
        metavar="TOPIC",
        help="sensor_msgs/CameraInfo of the depth images",
    )
    parser.add_argument(
        "--overlay", type=output_folder, metavar="DIR", help="write marked images as JPEG into DIR"
    )
    parser.add_argument(
        "--overlay-every",
        type=number(int, 1),
        default=10,
        metavar="N",
        help="write one of every N images with objects (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
