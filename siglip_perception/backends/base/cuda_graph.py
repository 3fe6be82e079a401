"""CUDA graphs from a frame on the GPU to the features, and a stream for each of two towers.

A pass is hundreds of kernels; launching them one by one takes longer than running them. Two graphs
replace the launches. One resizes and normalizes frames of one size into buffers that the encoders
read; one runs the encoders for one combination of outputs. Each is captured once, compared with
the same kernels launched one by one, and kept. Larger batches run eagerly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from siglip_perception.backends.base.selftest import least_cosine
from siglip_perception.encoders.encoders import Encoders, Features, Job
from siglip_perception.images.preprocess import DeviceFrames, EncoderInput

_LOGGER = logging.getLogger(__name__)
# Eager passes before a capture, as PyTorch advises: libraries set themselves up in the first ones.
_WARM_UP_PASSES = 3
# Least cosine of a graph's outputs with those of the same kernels launched one by one.
_MIN_COSINE = 0.999
# Sizes of frames that get a graph; frames of further sizes are resized eagerly.
_MAX_FRAME_SIZES = 8
# Largest batch, one frame a camera, that gets a graph.
_MAX_BATCH = 4
# Differences of normalized pixels between a graph and its kernels: less than a gray level, more
# than a gray level, and the share of pixels that may round the other way.
_PIXEL_TOLERANCE, _MAX_PIXEL_ERROR, _MAX_OUTLIER_SHARE = 0.006, 0.03, 0.001
# Number of frames, tokens requested or not, frames grounded or not, with DINO's features or not.
Variant = tuple[int, bool, bool, bool]
# Height and width of a frame, and its row in the batch.
Slot = tuple[int, int, int]
# Held while engines are loaded on another thread and while a graph is captured: a call that waits
# for the whole device breaks every capture on it, in any mode. Frames wait for neither.
capture_lock = threading.Lock()
T = TypeVar("T")


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """Create a CUDA stream that does not wait for the default one."""
    return torch.cuda.Stream(device)


class StreamPool:
    """Runs towers side by side: the first on the current stream, each other on its own.

    Memory that a job allocates on its own stream may be used on the current one afterwards without
    record_stream(): only a later call allocates on that stream again, and it begins by waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []

    def __call__(self, jobs: Sequence[Job]) -> list[tuple[Tensor, Tensor]]:
        current = torch.cuda.current_stream(self._device)
        while len(self._streams) < len(jobs) - 1:
            self._streams.append(new_stream(self._device))
        side_jobs = list(zip(self._streams, jobs[1:], strict=False))
        outputs, forked = [], []
        try:
            for stream, job in side_jobs:
                stream.wait_stream(current)
                forked.append(stream)
                with torch.cuda.stream(stream):
                    outputs.append(job())
            outputs[:0] = [job() for job in jobs[:1]]
        except BaseException:
            # A capture with an unjoined stream cannot even be ended. The first error is the one
            # that counts: in a broken capture the joins fail, too.
            for stream in forked:
                with suppress(RuntimeError):
                    current.wait_stream(stream)
            raise
        for stream in forked:
            current.wait_stream(stream)
        return outputs


@dataclass(frozen=True)
class _EncoderGraph:
    """A graph of the encoders and its outputs; it reads the buffers that all graphs share."""

    graph: torch.cuda.CUDAGraph
    outputs: Features


@dataclass(frozen=True)
class _ResizeGraph:
    """A graph that computes the encoders' inputs from a frame in one slot, and its input.

    is_correct: False if it gave other pixels; then it is kept but not run: destroying a graph
        makes PyTorch free workspaces that other graphs on its stream still use.
    """

    graph: torch.cuda.CUDAGraph
    inputs: DeviceFrames
    is_correct: bool


class GraphedEncoders:
    """Encoders on a CUDA device, called as they are; used from one thread.

    trouble: why nothing runs as a graph; empty if graphs run.
    """

    def __init__(self, encoders: Encoders, device: torch.device) -> None:
        self.trouble = ""
        self._encoders = encoders
        self._device = device
        self._encoders.run_all = StreamPool(device)
        # Not the default stream: on that one TensorRT synchronizes with all others.
        self._stream = new_stream(device)
        # Shared by all graphs, so that they need the memory of the largest only: no two run at
        # once.
        self._pool: Any = None
        self._buffers: dict[EncoderInput, Tensor] = {}
        self._encoder_graphs: dict[Variant, _EncoderGraph] = {}
        self._resize_graphs: dict[Slot, _ResizeGraph] = {}

    @torch.inference_mode()
    def __call__(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        *,
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool = True,
    ) -> Features:
        """Run as Encoders do; outputs are valid until the next call, on the current stream."""
        batch = _images(inputs)
        grounds = bool(grounding_rows)
        variant = (batch, with_tokens, grounds, grounds and with_dino)
        grounds_all = not grounding_rows or list(grounding_rows) == list(range(batch))
        if (
            self.trouble
            or not (with_tokens or grounding_rows)
            or batch > _MAX_BATCH
            or not grounds_all
        ):
            return self._run_eagerly(inputs, with_tokens, grounding_rows, with_dino)
        if variant not in self._encoder_graphs:
            self._try_capture(
                self._encoder_graphs, variant, lambda: self._capture_pass(inputs, variant)
            )
        encoder_graph = self._encoder_graphs.get(variant)
        if encoder_graph is None or not self._feed(inputs):
            return self._run_eagerly(inputs, with_tokens, grounding_rows, with_dino)
        encoder_graph.graph.replay()
        return encoder_graph.outputs

    def _feed(self, inputs: Mapping[EncoderInput, Tensor]) -> bool:
        """Copy images into the buffers that the graphs read; False if that made trouble."""
        if not isinstance(inputs, DeviceFrames):
            for encoder_input, values in self._buffers.items():
                values[: len(inputs[encoder_input])].copy_(
                    inputs[encoder_input], non_blocking=True
                )
            return True
        frames = inputs.frames
        return all(
            self._feed_frame(inputs.with_frames([frame]) if len(frames) > 1 else inputs, row)
            for row, frame in enumerate(frames)
        )

    def _feed_frame(self, inputs: DeviceFrames, row: int) -> bool:
        """Feed a single frame into row `row` of the buffers."""
        frame = inputs.frames[0]
        slot = (frame.shape[0], frame.shape[1], row)
        sizes = {key[:2] for key in self._resize_graphs}
        if not inputs.on_device or (slot[:2] not in sizes and len(sizes) >= _MAX_FRAME_SIZES):
            self._copy_in(inputs, row)
            return True
        if slot not in self._resize_graphs:
            self._try_capture(self._resize_graphs, slot, lambda: self._capture_resize(inputs, row))
            if self.trouble:
                return False
        resize_graph = self._resize_graphs.get(slot)
        if resize_graph is None or not resize_graph.is_correct:
            self._copy_in(inputs, row)
        else:
            resize_graph.inputs.frames[0].copy_(frame, non_blocking=True)
            resize_graph.graph.replay()
        return True

    def _copy_in(self, inputs: DeviceFrames, row: int) -> None:
        for encoder_input, values in self._buffers.items():
            values[row].copy_(inputs[encoder_input][0], non_blocking=True)

    def _run_eagerly(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool,
    ) -> Features:
        with self._on_side_stream():
            features = self._encoders(
                inputs,
                with_tokens=with_tokens,
                grounding_rows=grounding_rows,
                with_dino=with_dino,
            )
        current = torch.cuda.current_stream(self._device)
        for values in (features.tokens, features.siglip, features.dino, *features.host_outputs):
            if values is not None:
                values.record_stream(current)
        return features

    @contextmanager
    def _on_side_stream(self) -> Iterator[None]:
        """Run the body on a stream that is not the default; the current one waits for it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def _try_capture(
        self, graphs: dict[Any, Any], key: object, capture: Callable[[], object]
    ) -> None:
        """Capture a graph and keep it; a failure is logged once and does not end the pass."""
        if not capture_lock.acquire(blocking=False):
            return
        try:
            graphs[key] = capture()
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if isinstance(error, torch.OutOfMemoryError):
                reason = "the GPU's memory does not hold one"
            self._drop_all(f"no CUDA graph: {reason}")
            _LOGGER.warning(
                "A pass cannot be captured as a CUDA graph (%s): kernels are launched one by one.",
                reason,
            )
            _LOGGER.debug("The capture failed:", exc_info=True)
        except BaseException:
            self._drop_all("no CUDA graph: its capture was interrupted")
            raise
        finally:
            capture_lock.release()
        if self.trouble:
            # CUDA reports the last error to whoever asks next; that must not be the next frame.
            with suppress(Exception):
                torch.zeros(1, device=self._device)
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _drop_all(self, trouble: str) -> None:
        """Drop all graphs, which share memory, and capture no more."""
        self.trouble = trouble
        self._encoder_graphs.clear()
        self._resize_graphs.clear()
        self._buffers.clear()
        self._pool = None

    def _capture_pass(
        self, inputs: Mapping[EncoderInput, Tensor], variant: Variant
    ) -> _EncoderGraph:
        batch, with_tokens, grounds, with_dino = variant
        rows = list(range(batch)) if grounds else []
        if not self._buffers:
            self._buffers = {
                encoder_input: inputs[encoder_input].new_zeros(
                    _MAX_BATCH, *inputs[encoder_input].shape[1:]
                )
                for encoder_input in self._encoders.inputs
            }
        buffers = {
            encoder_input: values[:batch] for encoder_input, values in self._buffers.items()
        }
        # Test values in place of the frame, which an encoder may turn into infinity.
        for values in buffers.values():
            steps = torch.linspace(-2.0, 2.0, values.numel(), device=values.device)
            values.copy_(steps.view_as(values))

        def run() -> Features:
            return self._encoders(
                buffers, with_tokens=with_tokens, grounding_rows=rows, with_dino=with_dino
            )

        graph, plain, outputs = self._record(run)
        if least_cosine(outputs, plain) < _MIN_COSINE:
            raise RuntimeError("the captured pass gives other tokens")
        return _EncoderGraph(graph, outputs)

    def _capture_resize(self, inputs: DeviceFrames, row: int) -> _ResizeGraph:
        frame_copy = inputs.with_frames([frame.clone() for frame in inputs.frames])
        graph, _, _ = self._record(lambda: self._copy_in(frame_copy.uncached(), row))
        for encoder_input, values in self._buffers.items():
            error = (values[row] - inputs[encoder_input][0]).abs()
            if (
                float((error > _PIXEL_TOLERANCE).float().mean()) > _MAX_OUTLIER_SHARE
                or float(error.max()) > _MAX_PIXEL_ERROR
            ):
                height, width = inputs.frames[0].shape[:2]
                _LOGGER.warning(
                    "A CUDA graph gives other pixels of frames of %dx%d: they are scaled without.",
                    width,
                    height,
                )
                return _ResizeGraph(graph, frame_copy, is_correct=False)
        return _ResizeGraph(graph, frame_copy, is_correct=True)

    def _record(self, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T, T]:
        """Capture `run`, replay it: the graph, the result of an eager run, the graph's outputs."""
        for _ in range(_WARM_UP_PASSES):
            with self._on_side_stream():
                plain = run()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self._stream):
            # Other threads may allocate memory meanwhile: only this one's calls are captured.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = run()
            except BaseException:
                # End it whatever it raises: CUDA keeps an error of the capture otherwise.
                with suppress(Exception):
                    self._end(graph)
                raise
            self._end(graph)
        graph.replay()
        return graph, plain, outputs

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture; raises if CUDA has invalidated it.

        Until 2.12 PyTorch's allocator is not told then that the capture is over, and would never
        again free memory that two streams have used.
        """
        try:
            graph.capture_end()
        except BaseException:
            for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
                if hasattr(torch._C, name):
                    with suppress(RuntimeError):
                        getattr(torch._C, name)(self._stream.device_index, self._pool)
                    break
            raise


def _images(inputs: Mapping[EncoderInput, Tensor]) -> int:
    if isinstance(inputs, DeviceFrames):
        return len(inputs.frames)
    return len(next(iter(inputs.values())))
