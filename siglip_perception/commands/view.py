"""`siglip-perception view`: a page that shows what the pipeline sees."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception.commands.arguments import (
    add_grounding_arguments,
    add_model_arguments,
    input_file,
    number,
)
from siglip_perception.config import INSTRUCTION_TOPIC, Settings
from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements

if TYPE_CHECKING:
    from siglip_perception.pipeline import Pipeline
    from siglip_perception.view.source import LiveSource, RecordedSource

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_NODE = "node"
_EPILOG = """\
SOURCE is a picture, a folder of pictures, a video, a bag, webcam or webcam:1, or node, which is
the node that runs over ROS 2 (node:/robot/siglip_perception for another name). Without SOURCE:
node.

The page is served to this machine alone. With --host, others that have the address that is
printed, with its token, can see the pictures and change the instruction; nothing is encrypted.
docs/viewing.md says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception view`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "source", nargs="?", default=_NODE, metavar="SOURCE", help="what to look at; see below"
    )
    parser.add_argument(
        "-i",
        "--instruction",
        default="",
        metavar="TEXT",
        help="what to look for at first (default: nothing, or the recording's own)",
    )
    parser.add_argument(
        "--port",
        type=number(int, 0, 65535),
        default=None,
        metavar="N",
        help="TCP port, 0 for any free one (default: 8710)",
    )
    parser.add_argument(
        "--host",
        default=_LOOPBACK[0],
        metavar="ADDRESS",
        help="address to serve on; other machines need the token that is printed (default:"
        " %(default)s, this machine alone)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="open no browser where there is a desktop"
    )
    parser.add_argument("--paused", action="store_true", help="do not play a recording at once")
    parser.add_argument(
        "--tracking", action="store_true", help="give objects an id that stays across frames"
    )
    parser.add_argument(
        "--pixel-reference",
        type=input_file,
        metavar="FILE",
        help="the training set's pixels, of `siglip-perception fingerprint`: what differs is told"
        " among the diagnostics (a node has the parameter pixel_reference)",
    )
    parser.add_argument(
        "--fps",
        type=number(float, 0.1, 240),
        default=5.0,
        metavar="HZ",
        help="pictures of a folder a second (default: %(default)g)",
    )
    parser.add_argument(
        "--phrases",
        type=Path,
        metavar="FILE",
        help="text file, a phrase on each line, that a clicked thing is compared with (default:"
        " the things and colors of a tabletop)",
    )
    parser.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="images of a bag, once for each camera (default: every camera)",
    )
    parser.add_argument(
        "--instruction-topic",
        default=INSTRUCTION_TOPIC,
        metavar="TOPIC",
        help="std_msgs/String of a bag with what to look for (default: %(default)s)",
    )
    parser.add_argument(
        "--mono16-white",
        type=number(int, 0, 65535),
        default=Settings.mono16_white,
        metavar="WHITE",
        help="value of 16-bit gray images that is white (default: none, they are refused)",
    )
    add_model_arguments(parser)
    add_grounding_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    requirements.require("The view", "starlette", "uvicorn", "websockets")
    from siglip_perception.grounding.tracking import TrackingOptions
    from siglip_perception.images.pixel_reference import PixelReference
    from siglip_perception.language.instruction import parse
    from siglip_perception.view import server as view_server
    from siglip_perception.view.engine import Engine, EngineOptions
    from siglip_perception.view.phrases import common_phrases, read_phrases

    parse(args.instruction)
    phrases = common_phrases() if args.phrases is None else read_phrases(args.phrases)
    port = view_server.DEFAULT_PORT if args.port is None else args.port
    source = _open(args)
    try:
        bound = view_server.listen(args.host, port)
    except view_server.ViewServerError:
        source.close()
        raise
    tracking = TrackingOptions() if args.tracking else None
    reference = None if args.pixel_reference is None else PixelReference.read(args.pixel_reference)
    options = EngineOptions(args.instruction, phrases, not args.paused, tracking, reference)
    token = "" if args.host in _LOOPBACK else view_server.new_token()
    from siglip_perception.commands.run import load_perception

    def load() -> Pipeline:
        return load_perception(args).pipeline

    server = view_server.ViewServer(partial(Engine, source, load, options), token)
    address = view_server.page_address(bound, token)

    def started() -> None:
        print(f"{source.title}: {address} (Ctrl-C ends it)", flush=True)
        for note in source.notes:
            print(f"note: {note}", file=sys.stderr)
        if token:
            print(
                "Whoever has this address can see the pictures and change the instruction, and"
                " nothing is encrypted: give it to nobody else, and use it on your own network"
                " alone.",
                file=sys.stderr,
            )
        if not args.no_browser and _has_desktop():
            webbrowser.open(address)

    try:
        server.serve(bound, started)
    except KeyboardInterrupt:
        return 0
    return 0


def _open(args: argparse.Namespace) -> RecordedSource | LiveSource:
    word = str(args.source)
    if word == _NODE or word.startswith(f"{_NODE}:"):
        return _open_node(word.partition(":")[2])
    from siglip_perception.bags.recorder import ReplayOptions
    from siglip_perception.view.open_source import open_source

    options = ReplayOptions(
        image_topics=tuple(args.image_topic),
        instruction_topic=args.instruction_topic,
        instruction=args.instruction,
        mono16_white=args.mono16_white,
    )
    return open_source(word, options, args.fps)


def _open_node(name: str) -> LiveSource:
    from siglip_perception.util import ros

    try:
        ros.require("The view of a node")
    except PerceptionError as error:
        raise PerceptionError(
            f"{str(error).rstrip('.')}; or name a picture, a folder, a video, a bag or webcam to"
            " look at without ROS 2."
        ) from error
    from siglip_perception.node.view_source import NodeSource

    return NodeSource(name)


def _has_desktop() -> bool:
    """Tell whether a browser would have a screen to open on."""
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
