"""One CUDA graph from a frame on the GPU to the features, and two streams for two towers.

Preprocessing and encoders are hundreds of kernels; launched one by one they take longer than the
GPU takes to run them. A graph is captured once for each size of frames and combination of outputs
and then launched whole, between buffers of its own. Batches of more frames run as they are, kernel
by kernel. What comes after it, such as the cast of the tokens, is launched while it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from siglip_perception.backends.selftest import least_cosine
from siglip_perception.encoders import Encoders, Features, Job
from siglip_perception.preprocess import EncoderInput, Uploaded

_LOGGER = logging.getLogger(__name__)
# PyTorch's own advice before a capture: libraries set themselves up in the first passes.
_WARM_UP = 3
# Of what the graph gives with what the same kernels give one by one.
_LEAST_COSINE = 0.999
# Graphs that are kept, the last used: two cameras of different sizes take six. Each has the memory
# of a pass.
_MOST = 8
# Height and width of the frame; whether tokens are asked for; whether it is grounded.
Variant = tuple[int, int, bool, bool]


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """A CUDA stream of PyTorch's pool, which does not wait for the default one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Lanes:
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
        found = []
        for stream, job in beside:
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                found.append(job())
        found[:0] = [job() for job in jobs[:1]]
        for stream, _ in beside:
            here.wait_stream(stream)
        return found


@dataclass(frozen=True)
class _Captured:
    """A graph with what it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Uploaded
    outputs: Features


class GraphedEncoders:
    """Encoders on a CUDA device, called as they are; used from one thread.

    trouble: why passes are not captured, in words; empty where they are.
    """

    def __init__(self, encoders: Encoders, device: torch.device) -> None:
        self.trouble = ""
        self._encoders = encoders
        self._device = device
        self._encoders.run_all = Lanes(device)
        # TensorRT synchronises with all other streams when it runs on the default one.
        self._stream = new_stream(device)
        self._captured: dict[Variant, _Captured] = {}

    @torch.inference_mode()
    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features:
        """See Encoders; what is returned is the caller's own.

        A frame that is Uploaded is run by a graph, other inputs are not.
        """
        asked = with_tokens or bool(grounded)
        if not asked or self.trouble or not isinstance(inputs, Uploaded):
            return self._plain(inputs, with_tokens, grounded)
        if len(inputs.frames) > 1 or not inputs.steady:
            return self._plain(inputs, with_tokens, grounded)
        height, width = inputs.frames[0].shape[:2]
        variant = (height, width, with_tokens, bool(grounded))
        captured = self._captured.pop(variant, None) or self._try_capture(inputs, variant)
        if captured is None:
            return self._plain(inputs, with_tokens, grounded)
        self._captured[variant] = captured
        captured.inputs.frames[0].copy_(inputs.frames[0], non_blocking=True)
        captured.graph.replay()
        found = captured.outputs
        return Features(*map(_copy, (found.tokens, found.siglip, found.dino)))

    def _plain(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        with_tokens: bool,
        grounded: Sequence[int],
    ) -> Features:
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            found = self._encoders(inputs, with_tokens=with_tokens, grounded=grounded)
        here.wait_stream(self._stream)
        for values in (found.tokens, found.siglip, found.dino):
            if values is not None:
                values.record_stream(here)
        return found

    def _try_capture(self, inputs: Uploaded, variant: Variant) -> _Captured | None:
        """None where it fails, which is said once and does not end the pass."""
        try:
            while len(self._captured) >= _MOST:
                torch.cuda.synchronize(self._device)
                del self._captured[next(iter(self._captured))]
            return self._capture(inputs, variant)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a library may refuse to be captured as it likes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self.trouble = f"no CUDA graph: {reason}"
            self._captured.clear()
            _LOGGER.warning(
                "A pass cannot be captured as a CUDA graph (%s): kernels are launched one by one.",
                reason,
            )
            torch.cuda.synchronize(self._device)
            return None

    def _capture(self, inputs: Uploaded, variant: Variant) -> _Captured:
        *_, with_tokens, read = variant
        rows = [0] if read else []
        own = inputs.over([frame.clone() for frame in inputs.frames])
        for _ in range(_WARM_UP):
            plain = self._plain(own.over(own.frames), with_tokens, rows)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # Another thread may allocate memory meanwhile, as it loads engines: only this thread's
        # calls belong to the capture.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            outputs = self._encoders(own, with_tokens=with_tokens, grounded=rows)
        graph.replay()
        if least_cosine(outputs, plain) < _LEAST_COSINE:
            raise RuntimeError("the captured pass gives other tokens")
        return _Captured(graph, own, outputs)


def _copy(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.clone()
