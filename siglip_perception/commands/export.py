"""`siglip-perception export`: write ONNX files, or build engines ahead of time."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception.commands.arguments import input_path, number, selection_of
from siglip_perception.errors import BackendError, PerceptionError
from siglip_perception.types import PRECISIONS, Precision
from siglip_perception.util import requirements
from siglip_perception.util.backend_names import refuse_impossible
from siglip_perception.util.files import sha256

if TYPE_CHECKING:
    # These import PyTorch, which takes seconds: only once the arguments are checked.
    from siglip_perception.backends.base.onnx_export import Graph
    from siglip_perception.encoders.encoders import Encoders, Tower
    from siglip_perception.encoders.plan import ModelPlan

# Largest error of an exported fp32 graph, as a share of the output's RMS. Another order of
# summation in 27 blocks of float32 gives 1e-5.
_MAX_ERROR = 1e-4
_FRAMES = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siglip-perception export`."""
    parser.add_argument("--model", default="tabletop", metavar="FOLDER")
    parser.add_argument("--contract", default="", metavar="NAME")
    parser.add_argument("--grounding-model", default="", metavar="FOLDER")
    parser.add_argument("--grounding-contract", default="", metavar="NAME")
    parser.add_argument(
        "--backend",
        choices=("onnx", "openvino", "tensorrt"),
        default="onnx",
        help="onnx: files into --output; the others fill the engine cache (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="auto: fp32 for onnx, else the best of this machine (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="new folder, for onnx")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="images per pass, for onnx (default: any number)"
    )
    parser.add_argument(
        "--calibrate",
        type=input_path,
        metavar="BAG",
        help="for int8: a bag, or a folder of images, from the camera to be used",
    )
    parser.add_argument(
        "--frames",
        type=number(int, 1),
        default=_FRAMES,
        metavar="N",
        help="frames to calibrate with (default: %(default)s)",
    )
    parser.add_argument(
        "--least-cosine",
        type=number(float, -1, 1),
        default=0.99,
        metavar="C",
        help="int8 is refused if a held-out frame's tokens have a lower mean cosine with those"
        " of fp32 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Export or build, and print the result."""
    modules = ["onnx", "onnxscript"]
    if args.backend == "openvino":
        modules += ["openvino"] + ["nncf"] * (args.precision == "int8")
    requirements.require("The export", *modules, kind=BackendError)
    if args.backend == "onnx":
        return _onnx(args)
    refuse_impossible(args.backend, "auto", args.precision)
    if args.precision == "int8":
        return _int8(args)
    return _engines(args)


def _encoders(args: argparse.Namespace) -> tuple[Encoders, ModelPlan]:
    from siglip_perception.encoders.encoders import Encoders
    from siglip_perception.encoders.plan import ModelPlan

    plan = ModelPlan.load(selection_of(args))
    return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers), plan


def _onnx(args: argparse.Namespace) -> int:
    folder: Path | None = args.output
    if folder is None:
        raise PerceptionError("Name a new folder for the ONNX files with --output.")
    if folder.exists():
        raise PerceptionError(f"{folder} exists already: name a new folder.")
    if args.precision == "int8":
        raise PerceptionError("int8 is made with --backend openvino: ONNX is fp32, bf16 or fp16.")
    if args.batch is not None and args.batch < 1:
        raise PerceptionError("--batch has to be 1 or more.")
    from siglip_perception.backends.base.onnx_export import OPSET, cast_products, export

    precision: Precision = "fp32" if args.precision == "auto" else args.precision
    encoders, plan = _encoders(args)
    reads_last = {key: key in encoders.grounding_keys for key in encoders.towers}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            temporary = Path(work) / "whole"
            temporary.mkdir()
            for tower in encoders.towers.values():
                cast_products(tower, precision)
            graphs = export(encoders.towers, reads_last, temporary, args.batch)
            for graph in graphs:
                result = _compare_with_pytorch(graph, encoders.towers, precision)
                print(f"{graph.path.name}: {result}")
            manifest = _manifest(graphs, plan, precision, args.batch)
            (temporary / "export.json").write_text(json.dumps(manifest, indent=2) + "\n")
            temporary.rename(folder)
    except OSError as error:
        raise PerceptionError(f"Cannot write to {folder} ({error.strerror}).") from error
    print(f"{folder}: {len(graphs)} graphs of {plan.contract.name}, {precision}, opset {OPSET}")
    return 0


def _compare_with_pytorch(graph: Graph, towers: Mapping[str, Tower], precision: Precision) -> str:
    """Compare onnxruntime's output of the graph with PyTorch's; return the result in words.

    Raises BackendError if they differ.
    """
    if precision != "fp32":
        return f"written; {precision} is checked by the engine that is built from it"
    try:
        import onnxruntime
    except ImportError:
        return "written, not checked: onnxruntime is not installed"
    import torch

    from siglip_perception.backends.base.onnx_export import INPUT, OUTPUT, BlockRun

    run = BlockRun(towers[graph.tower], graph.start, graph.stop)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(run.example().shape, generator=generator)
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    output = torch.from_numpy(session.run([OUTPUT], {INPUT: values.numpy()})[0])
    with torch.inference_mode():
        reference = run(values)
    error = float((output - reference).abs().max() / reference.square().mean().sqrt())
    if not error <= _MAX_ERROR:
        raise BackendError(
            f"onnxruntime gives another output for {graph.path.name} than PyTorch (error"
            f" {error:.1e} of its RMS): try another version of PyTorch or onnxscript."
        )
    return f"onnxruntime's output equals PyTorch's, largest error {error:.1e} of its RMS"


def _manifest(
    graphs: list[Graph], plan: ModelPlan, precision: Precision, batch: int | None
) -> dict[str, object]:
    from siglip_perception.backends.base.onnx_export import INPUT, OPSET, OUTPUT, RECIPE

    return {
        "contract": plan.contract.name,
        "fingerprint": plan.fingerprint,
        "precision": precision,
        "opset": OPSET,
        "recipe": RECIPE,
        "batch": batch,
        "input": INPUT,
        "output": OUTPUT,
        "graphs": [
            {
                "file": graph.path.name,
                "encoder": graph.tower,
                "blocks": [graph.start, graph.stop],
                "tokens_before_patches": plan.towers[graph.tower].prefix,
                "sha256": sha256(graph.path),
            }
            for graph in graphs
        ],
    }


def _int8(args: argparse.Namespace) -> int:
    from siglip_perception.bags.calibration_frames import read_frames
    from siglip_perception.util.progress import progress

    if args.calibrate is None:
        raise PerceptionError(
            "int8 is calibrated on frames of your own: name a bag or a folder with --calibrate."
        )
    frames = read_frames(args.calibrate, args.frames)
    from siglip_perception.backends.base.cache import EngineCache
    from siglip_perception.backends.openvino import int8

    encoders, _ = _encoders(args)
    cache = EngineCache()
    show_progress = progress(sys.stderr, "graph")
    report = int8.calibrate(encoders, frames, args.least_cosine, cache, show_progress)
    print(f"int8: {report}; in {cache.folder}")
    return 0


def _engines(args: argparse.Namespace) -> int:
    from siglip_perception.backends import choose, start
    from siglip_perception.backends.base.cache import EngineCache

    choice = choose(args.backend, "auto", args.precision)
    encoders, _ = _encoders(args)
    print(f"built and tested: {start(encoders, choice).description}; in {EngineCache().folder}")
    return 0
