"""CUDA graphs from a frame on the GPU to the features, and two streams for two towers.

A pass is hundreds of kernels; launched one by one they take longer than the GPU takes to run
them. Two graphs are launched in their place: one resizes and normalizes frames of one size into
buffers that the encoders are fed from, one runs the encoders for a combination of outputs. Each is
recorded once, held against the same kernels launched one by one, and kept. Batches of more frames
run as they are. What comes after, such as the cast of the tokens, is launched while they run.
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

from siglip_perception.backends.selftest import least_cosine
from siglip_perception.encoders.encoders import Encoders, Features, Job
from siglip_perception.images.preprocess import DeviceFrames, EncoderInput

_LOGGER = logging.getLogger(__name__)
# PyTorch's own advice before a capture: libraries set themselves up in the first passes.
_WARM_UP = 3
# Of what the graph gives with what the same kernels give one by one.
_LEAST_COSINE = 0.999
# Sizes of frames that get a graph; what comes beyond is launched kernel by kernel.
_SIZES = 8
# Frames in a batch, one a camera, up to which a batch gets a graph.
_CAMERAS = 4
# Of normalized pixels, between a graph and its kernels: what is less than a gray level, what is
# none any more, and the share of pixels that may round the other way.
_CLOSE, _FAR, _SHARE = 0.006, 0.03, 0.001
# How many frames, whether tokens are asked for, and whether the frames are grounded.
Variant = tuple[int, bool, bool]
# Height and width of a frame, and its place in the batch.
Slot = tuple[int, int, int]
# Held while engines are loaded on another thread, and while a graph is captured: a call that waits
# for the whole device breaks every capture on it, whatever its mode. Frames wait for neither.
undisturbed = threading.Lock()
T = TypeVar("T")


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """A CUDA stream of PyTorch's pool, which does not wait for the default one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class StreamPool:
    """Runs towers side by side: the first on the stream that is current, each other on its own.

    Memory that a job takes on a stream of its own may be used on the current one afterwards with
    no more ado: that stream takes it again only in a later call, which begins by waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []

    def __call__(self, jobs: Sequence[Job]) -> list[tuple[Tensor, Tensor]]:
        here = torch.cuda.current_stream(self._device)
        while len(self._streams) < len(jobs) - 1:
            self._streams.append(new_stream(self._device))
        beside = list(zip(self._streams, jobs[1:], strict=False))
        found, forked = [], []
        try:
            for stream, job in beside:
                stream.wait_stream(here)
                forked.append(stream)
                with torch.cuda.stream(stream):
                    found.append(job())
            found[:0] = [job() for job in jobs[:1]]
        except BaseException:
            # A capture with a stream unjoined cannot even be ended. The error that counts is the
            # first: in a capture that is broken the joins fail, too.
            for stream in forked:
                with suppress(RuntimeError):
                    here.wait_stream(stream)
            raise
        for stream in forked:
            here.wait_stream(stream)
        return found


@dataclass(frozen=True)
class _Pass:
    """A graph of the encoders, with what it writes; it reads the buffers that all passes share."""

    graph: torch.cuda.CUDAGraph
    outputs: Features


@dataclass(frozen=True)
class _Scaled:
    """A graph that makes the encoders' inputs of a frame in one slot, with what it reads.

    right: whether it serves. One that does not is kept: with a graph PyTorch frees workspaces that
    others on its stream still use.
    """

    graph: torch.cuda.CUDAGraph
    inputs: DeviceFrames
    right: bool


class GraphedEncoders:
    """Encoders on a CUDA device, called as they are; used from one thread.

    trouble: why nothing is run as a graph, in words; empty where it is.
    """

    def __init__(self, encoders: Encoders, device: torch.device) -> None:
        self.trouble = ""
        self._encoders = encoders
        self._device = device
        self._encoders.run_all = StreamPool(device)
        # TensorRT synchronizes with all other streams when it runs on the default one.
        self._stream = new_stream(device)
        # Of all graphs, whose memory is then that of the largest: no two run at a time.
        self._pool: Any = None
        self._fed: dict[EncoderInput, Tensor] = {}
        self._passes: dict[Variant, _Pass] = {}
        self._scaled: dict[Slot, _Scaled] = {}

    @torch.inference_mode()
    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features:
        """See Encoders; what is returned holds until the next call, on the current stream."""
        batch = _images(inputs)
        variant = (batch, with_tokens, bool(grounded))
        uniform = not grounded or list(grounded) == list(range(batch))
        if self.trouble or not (with_tokens or grounded) or batch > _CAMERAS or not uniform:
            return self._plain(inputs, with_tokens, grounded)
        if variant not in self._passes:
            self._keep(self._passes, variant, lambda: self._capture_pass(inputs, variant))
        captured = self._passes.get(variant)
        if captured is None or not self._feed(inputs):
            return self._plain(inputs, with_tokens, grounded)
        captured.graph.replay()
        return captured.outputs

    def _feed(self, inputs: Mapping[EncoderInput, Tensor]) -> bool:
        """Bring images into the buffers that the passes read; False where that made trouble."""
        if not isinstance(inputs, DeviceFrames):
            for one, values in self._fed.items():
                values[: len(inputs[one])].copy_(inputs[one], non_blocking=True)
            return True
        frames = inputs.frames
        return all(
            self._feed_frame(inputs.with_frames([frame]) if len(frames) > 1 else inputs, row)
            for row, frame in enumerate(frames)
        )

    def _feed_frame(self, inputs: DeviceFrames, row: int) -> bool:
        """_feed() of a single frame, into row `row` of the buffers."""
        frame = inputs.frames[0]
        slot = (frame.shape[0], frame.shape[1], row)
        sizes = {key[:2] for key in self._scaled}
        if not inputs.on_device or (slot[:2] not in sizes and len(sizes) >= _SIZES):
            self._copy_in(inputs, row)
            return True
        if slot not in self._scaled:
            self._keep(self._scaled, slot, lambda: self._capture_scaling(inputs, row))
            if self.trouble:
                return False
        scaled = self._scaled.get(slot)
        if scaled is None or not scaled.right:
            self._copy_in(inputs, row)
        else:
            scaled.inputs.frames[0].copy_(frame, non_blocking=True)
            scaled.graph.replay()
        return True

    def _copy_in(self, inputs: DeviceFrames, row: int) -> None:
        for one, values in self._fed.items():
            values[row].copy_(inputs[one][0], non_blocking=True)

    def _plain(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        with_tokens: bool,
        grounded: Sequence[int],
    ) -> Features:
        with self._aside():
            found = self._encoders(inputs, with_tokens=with_tokens, grounded=grounded)
        here = torch.cuda.current_stream(self._device)
        for values in (found.tokens, found.siglip, found.dino, *found.leaving):
            if values is not None:
                values.record_stream(here)
        return found

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream that is not the default one; what is current waits for it."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            here.wait_stream(self._stream)

    def _keep(self, kept: dict[Any, Any], key: object, capture: Callable[[], object]) -> None:
        """Keep what is captured; that it fails is said once and does not end the pass."""
        if not undisturbed.acquire(blocking=False):
            return
        try:
            kept[key] = capture()
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
            undisturbed.release()
        if self.trouble:
            # CUDA keeps the last error until somebody asks; that must not be the next frame.
            with suppress(Exception):
                torch.zeros(1, device=self._device)
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _drop_all(self, trouble: str) -> None:
        """From here on no graph is run, nor captured: they share memory, and go together."""
        self.trouble = trouble
        self._passes.clear()
        self._scaled.clear()
        self._fed.clear()
        self._pool = None

    def _capture_pass(self, inputs: Mapping[EncoderInput, Tensor], variant: Variant) -> _Pass:
        batch, with_tokens, read = variant
        rows = list(range(batch)) if read else []
        if not self._fed:
            self._fed = {
                one: inputs[one].new_zeros(_CAMERAS, *inputs[one].shape[1:])
                for one in self._encoders.inputs
            }
        fed = {one: values[:batch] for one, values in self._fed.items()}
        # Not the frame at hand, of which an encoder may make infinity.
        for values in fed.values():
            steps = torch.linspace(-2.0, 2.0, values.numel(), device=values.device)
            values.copy_(steps.view_as(values))

        def run() -> Features:
            return self._encoders(fed, with_tokens=with_tokens, grounded=rows)

        graph, plain, outputs = self._record(run)
        if least_cosine(outputs, plain) < _LEAST_COSINE:
            raise RuntimeError("the captured pass gives other tokens")
        return _Pass(graph, outputs)

    def _capture_scaling(self, inputs: DeviceFrames, row: int) -> _Scaled:
        own = inputs.with_frames([frame.clone() for frame in inputs.frames])
        graph, _, _ = self._record(lambda: self._copy_in(own.uncached(), row))
        for one, values in self._fed.items():
            off = (values[row] - inputs[one][0]).abs()
            if float((off > _CLOSE).float().mean()) > _SHARE or float(off.max()) > _FAR:
                height, width = inputs.frames[0].shape[:2]
                _LOGGER.warning(
                    "A CUDA graph gives other pixels of frames of %dx%d: they are scaled without.",
                    width,
                    height,
                )
                return _Scaled(graph, own, right=False)
        return _Scaled(graph, own, right=True)

    def _record(self, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T, T]:
        """A graph of `run`, replayed once; what `run` gave before; what the graph writes."""
        for _ in range(_WARM_UP):
            with self._aside():
                plain = run()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self._stream):
            # Another thread may allocate memory meanwhile: only this one's calls are captured.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = run()
            except BaseException:
                # Once, whatever it raises: of a capture that has ended CUDA keeps an error.
                with suppress(Exception):
                    self._end(graph)
                raise
            self._end(graph)
        graph.replay()
        return graph, plain, outputs

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture; it raises where CUDA has given it up.

        Until 2.12 PyTorch's allocator does not learn then that the capture is over; left so, it
        would free nothing any more that two streams have used.
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
