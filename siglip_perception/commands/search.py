"""siglip-perception search: frames by a sentence, nearly equal frames, a map of a corpus."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siglip_perception.commands.arguments import (
    check_selection,
    input_folder,
    number,
    output_file,
    output_picture,
)
from siglip_perception.config import ModelSelection
from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements
from siglip_perception.util.files import write_atomically

if TYPE_CHECKING:
    from siglip_perception.features.reader import FeatureFolder
    from siglip_perception.features.search import Hit
    from siglip_perception.types import FloatArray, UInt8Array

_MAP_ROWS = 200_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `siglip-perception search`."""
    parser.add_argument(
        "folder", type=input_folder, metavar="DIR", help="what `features` has written"
    )
    parser.add_argument(
        "text",
        nargs="?",
        default="",
        help='what to look for, "a red cup beside a plate", in English or Korean',
    )
    parser.add_argument(
        "-n",
        "--top",
        type=number(int, 1, 1000),
        default=12,
        metavar="N",
        help="frames to list (default: %(default)s)",
    )
    parser.add_argument(
        "--sheet", type=output_picture, metavar="OUT", help="write them as a contact sheet"
    )
    parser.add_argument(
        "--dedup",
        type=number(float, 0, 1),
        metavar="COSINE",
        help="count frames as one from this cosine on, such as 0.98; without a text: keep one of"
        " each in the whole corpus",
    )
    parser.add_argument(
        "--map", type=output_picture, metavar="OUT", help="write a map of all frames, in 2-D"
    )
    parser.add_argument(
        "--list", type=output_file, metavar="CSV", help="write the frames that are listed or kept"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--model", default="", metavar="FOLDER", help="its SigLIP (default: the one of DIR)"
    )
    parser.add_argument(
        "--index",
        choices=("auto", "exact", "faiss"),
        default="auto",
        help="faiss's graph, kept in DIR, answers beyond a million frames (default: auto)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Search, list, draw."""
    if not args.text.strip() and args.dedup is None and args.map is None:
        raise PerceptionError("Say what to look for, or give --dedup or --map.")
    if args.sheet is not None and not args.text.strip():
        raise PerceptionError("--sheet has an effect only with a text to look for.")
    if args.index == "faiss":
        requirements.require("--index faiss", "faiss")
    requirements.require("The command search", "pyarrow")
    from siglip_perception import features
    from siglip_perception.features.search import FrameFinder, search, unique_rows

    folder = features.open(args.folder)
    if not len(folder):
        raise PerceptionError(f"{args.folder} has no frames yet: finish the command features.")
    finder = FrameFinder(folder)
    hits: list[Hit] = []
    if args.text.strip():
        query = _embed(args, folder)
        hits = search(folder, query, args.top, args.dedup or 0.0, args.index)
        _print_hits(args, folder, hits)
    elif args.dedup is not None:
        hits = unique_rows(folder, args.dedup)
        _print_unique(args, folder, hits)
    if args.list is not None:
        _write_list(args.list, folder, hits)
    if args.sheet is not None:
        _write_sheet(args, folder, finder, hits)
    if args.map is not None:
        _write_map(args, folder, finder)
    for source, reason in finder.missing.items():
        print(f"no pictures from {source}: {reason}", file=sys.stderr)
    return 0


def _embed(args: argparse.Namespace, folder: FeatureFolder) -> FloatArray:
    from siglip_perception.features.search import check_digest, check_pooled

    check_pooled(folder)
    job = folder.job
    # Only the text tower runs, in float32, whatever has encoded the frames.
    selection = ModelSelection(
        args.model or job.model,
        "" if args.model else job.contract,
        "torch",
        args.device,
        grounding_model="" if args.model else job.grounding_model,
    )
    check_selection(selection, with_contract=True, with_objects=True)
    from siglip_perception.perception import Perception

    perception = Perception(**asdict(selection))
    check_digest(folder, perception.pipeline.siglip_digest, selection.model)
    vector: FloatArray = perception.embed(args.text)[0]
    return vector


def _row(folder: FeatureFolder, hit: Hit) -> dict[str, Any]:
    row = folder[hit.place]
    return {
        "cosine": round(hit.cosine, 4),
        "episode": row.episode,
        "episode_name": row.episode_name,
        "frame": row.frame,
        "camera": row.camera,
        "timestamp": row.timestamp,
        "key": row.key,
        "text": row.text,
        "source": row.source,
        "alike": hit.alike,
    }


def _print_hits(args: argparse.Namespace, folder: FeatureFolder, hits: list[Hit]) -> None:
    rows = [_row(folder, hit) for hit in hits]
    if args.json:
        print(json.dumps({"text": args.text, "frames": rows}, ensure_ascii=False, indent=2))
        return
    for row in rows:
        print(f"{_where(row)}{' alike' * bool(row['alike'])}  {_what(row)}".rstrip())


def _print_unique(args: argparse.Namespace, folder: FeatureFolder, hits: list[Hit]) -> None:
    left_out = len(folder) - len(hits)
    if args.json:
        content = {"frames": len(folder), "kept": len(hits), "cosine": args.dedup}
        print(json.dumps(content, indent=2))
        return
    print(
        f"{len(hits)} of {len(folder)} frames differ; {left_out} have a cosine of {args.dedup:g}"
        " or more with one of them"
    )


def _where(row: dict[str, Any]) -> str:
    """Spell a hit: 0.312  episode 3 frame 120 wrist +45, the last the number of rows alike."""
    camera = f" {row['camera']}" if row["camera"] else ""
    alike = f" +{row['alike']}" if row["alike"] else ""
    return f"{row['cosine']:.3f}  episode {row['episode']} frame {row['frame']}{camera}{alike}"


def _what(row: dict[str, Any]) -> str:
    """Return what was said of a frame, or else where it lies in its source."""
    return row["text"] or f"{row['episode_name']} {row['key']}".strip()


def _write_list(path: Path, folder: FeatureFolder, hits: list[Hit]) -> None:
    buffer = io.StringIO()
    rows = [_row(folder, hit) for hit in hits]
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["cosine"])
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(path, buffer.getvalue().encode())
    except OSError as error:
        raise PerceptionError(f"Cannot write {path} ({error.strerror}).") from error
    print(f"wrote {path}")


def _write_sheet(
    args: argparse.Namespace, folder: FeatureFolder, finder: Any, hits: list[Hit]
) -> None:
    from siglip_perception.features.pictures import contact_sheet

    rows = [_row(folder, hit) for hit in hits]
    captions = [(_where(row), _what(row)) for row in rows]
    images = list(finder.images([hit.place for hit in hits]))
    _write_picture(args.sheet, contact_sheet(args.text, images, captions))


def _write_map(args: argparse.Namespace, folder: FeatureFolder, finder: Any) -> None:
    import numpy as np

    from siglip_perception.features.pictures import corpus_map
    from siglip_perception.features.search import project

    vectors = folder.pooled()
    # Evenly over a corpus that is larger than a map can show.
    step = -(-len(vectors) // _MAP_ROWS)
    places = np.arange(0, len(vectors), step)
    groups = [Path(source).name for source in folder.sources()[::step]]
    title = f"{len(folder)} frames of {folder.path.name}"
    picture = corpus_map(
        title,
        project(vectors[places]),
        groups,
        lambda rows: finder.images([int(places[row]) for row in rows]),
    )
    _write_picture(args.map, picture)


def _write_picture(path: Path, picture: UInt8Array) -> None:
    from siglip_perception.commands.run import write_picture

    write_picture(path, picture)
    print(f"wrote {path}")
