"""ONNX export of the encoders: the graphs that every engine is built from.

One file for each range of blocks that the outputs need: up to the contract's tap, and from there
to the last block, which the grounding reads. Positions are interpolated and LayerScale is folded
before, and nothing in the graph depends on the image's size, so there is no Resize, no IsNaN, no
If. The precision is in the graph (strongly typed): with bf16 or fp16 the matrix products have it;
the residual stream, LayerNorm and positions stay float32.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from siglip_perception.backends.base.precision import DTYPES
from siglip_perception.encoders.encoders import Tower
from siglip_perception.encoders.transformer import Linear
from siglip_perception.errors import BackendError
from siglip_perception.types import Precision
from siglip_perception.util import requirements

# Increment when the same weights give another graph: cached engines of an older one are stale.
RECIPE = 1
# LayerNormalization came with 17; TensorRT 10.3 (JetPack 6) and all later parsers read 18.
OPSET = 18
INPUT, OUTPUT = "values", "hidden"


@dataclass(frozen=True)
class Graph:
    """One exported range of blocks.

    tower: key of the encoder in the plan.
    start, stop: its blocks, `stop` excluded. The input is pixels float32 [B, 3, S, S] if start is
        0, else the residual stream [B, T, D]; the output is the residual stream, float32 [B, T,
        D].
    path: the .onnx file; its weights are beside it, in a file of the same name plus .data.
    """

    tower: str
    start: int
    stop: int
    path: Path


class BlockRun(nn.Module):
    """Blocks `start` to `stop` of a tower as a module of its own."""

    def __init__(self, tower: Tower, start: int, stop: int) -> None:
        super().__init__()
        self.tower, self._start, self._stop = tower, start, stop

    def forward(self, values: Tensor) -> Tensor:
        return self.tower.run_blocks(values, self._start, self._stop)

    def example(self, batch: int = 1) -> Tensor:
        """Return zeros of the input's shape."""
        tower = self.tower
        if self._start:
            return torch.zeros(batch, tower.tokens, tower.dim)
        side = tower.input.square.size
        return torch.zeros(batch, 3, side, side)


def cast_products(tower: Tower, precision: Precision) -> None:
    """Cast the products of a tower to the precision; the rest stays float32."""
    dtype = DTYPES[precision]
    for part in tower.modules():
        if isinstance(part, Linear):
            part.to(dtype)


def export(
    towers: Mapping[str, Tower], reads_last: Mapping[str, bool], folder: Path, batch: int | None
) -> list[Graph]:
    """Write the graphs of towers that are neither prepared nor packed into an empty folder.

    reads_last: key of a tower -> True to export up to its last block. batch: images in a pass;
        None: any.

    Raises BackendError if the exporter is not installed or a file cannot be written.
    """
    return [
        export_blocks(towers[key], key, start, stop, folder, batch)
        for key, to_end in reads_last.items()
        for start, stop in towers[key].block_ranges(to_end)
    ]


def export_blocks(
    tower: Tower, key: str, start: int, stop: int, folder: Path, batch: int | None
) -> Graph:
    """Write one graph; see export."""
    path = folder / f"{key}.{start}-{stop}.onnx"
    run = BlockRun(tower, start, stop).eval()
    # Two images if any number is allowed: the exporter takes a batch of one for a constant.
    example = run.example(batch or 2)
    dynamic = None if batch else {"values": {0: torch.export.Dim("batch", min=1, max=64)}}
    try:
        with torch.no_grad(), _quietly():
            program = torch.onnx.export(
                run,
                (example,),
                opset_version=OPSET,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=dynamic,
                verbose=False,
            )
            if program is None:
                raise BackendError("PyTorch's ONNX exporter gave no graph.")
            program.save(path, external_data=True)
    except ImportError as error:
        raise BackendError(
            f"The ONNX export cannot import what it needs ({error}):"
            f" {requirements.install_command('onnx', 'onnxscript')}."
        ) from error
    except OSError as error:
        raise BackendError(f"Cannot write to {folder} ({error.strerror}).") from error
    return Graph(key, start, stop, path)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporter's messages about torchvision's operators and its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
