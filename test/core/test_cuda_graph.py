"""What is captured, when, and between which buffers: CUDA's own calls are stood in for.

The stand-in records a pass and runs it again on the same tensors, as a graph does. What only a GPU
can show, such as what may be captured at all, is not shown here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from models import write_random_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from siglip_perception.backends import cuda_graph
from siglip_perception.backends.cuda_graph import GraphedEncoders, Lanes
from siglip_perception.backends.selftest import frames
from siglip_perception.backends.serving import Serving
from siglip_perception.encoders import Encoders, Features
from siglip_perception.grounding import cosines
from siglip_perception.plan import Plan
from siglip_perception.pooling import RegionHead
from siglip_perception.preprocess import Preprocessor, Uploaded
from siglip_perception.types import UInt8Array

CPU = torch.device("cpu")


class Stream:
    """Knows for whom it has waited."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


@dataclass
class Graph:
    """A recorded pass."""

    cuda: Cuda
    again: Any = None
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.again()


@dataclass
class Cuda:
    """What stands in for torch.cuda."""

    streams: list[Stream] = field(default_factory=lambda: [Stream()])
    graphs: list[Graph] = field(default_factory=list)
    capturing: Graph | None = None
    error: Exception | None = None
    offset: float = 0.0

    def make_graph(self) -> Graph:
        self.graphs.append(Graph(self))
        return self.graphs[-1]

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.streams.append(stream)
        yield
        self.streams.pop()

    @contextlib.contextmanager
    def graph(self, graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        if self.error is not None:
            raise self.error
        self.capturing = graph
        with self.stream(stream):
            yield
        self.capturing = None


class Recorded:
    """Encoders whose pass a graph can run again, on the same frames into the same outputs."""

    def __init__(self, encoders: Encoders, cuda: Cuda) -> None:
        self._encoders, self._cuda = encoders, cuda

    @property
    def run_all(self) -> Any:
        return self._encoders.run_all

    @run_all.setter
    def run_all(self, value: Any) -> None:
        self._encoders.run_all = value

    def __call__(self, inputs: Uploaded, **asked: Any) -> Features:
        if self._cuda.capturing is not None:
            # What was computed before is not in the graph.
            assert not inputs._squares
        outputs = self._encoders(inputs, **asked)
        if self._cuda.capturing is not None:

            def again() -> None:
                with torch.inference_mode():
                    anew = self._encoders(inputs.over(inputs.frames), **asked)
                    for name in ("tokens", "siglip", "dino"):
                        if getattr(outputs, name) is not None:
                            getattr(outputs, name).copy_(getattr(anew, name) + self._cuda.offset)

            self._cuda.capturing.again = again
        return outputs


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    folder = tmp_path_factory.mktemp("models") / "random"
    write_random_model(folder)
    plan = Plan.make(str(folder), "", "", "")
    return Encoders(plan.contract, plan.towers, plan.tokens, plan.grounding)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made.streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", made.stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", made.make_graph)
    monkeypatch.setattr(torch.cuda, "graph", made.graph)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda values, stream: None)
    return made


@pytest.fixture
def graphed(encoders: Encoders, cuda: Cuda) -> GraphedEncoders:
    return GraphedEncoders(Recorded(encoders.served_by(encoders.towers), cuda), CPU)  # type: ignore[arg-type]


def inputs(encoders: Encoders, first: int, stop: int) -> Uploaded:
    return upload(encoders, frames(stop)[first:stop])


def upload(encoders: Encoders, images: list[UInt8Array]) -> Uploaded:
    """As on a GPU, but that the frames stay where they are."""
    return Preprocessor(encoders.inputs, CPU).over([torch.from_numpy(one) for one in images])


def assert_same(found: Features, wanted: Features) -> None:
    for name in ("tokens", "siglip", "dino"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("with_tokens", "grounded"), [(True, [0]), (True, []), (False, [0])])
def test_a_graph_gives_each_frame_its_own_tokens(
    encoders: Encoders,
    cuda: Cuda,
    graphed: GraphedEncoders,
    with_tokens: bool,
    grounded: list[int],
) -> None:
    fed = [inputs(encoders, index, index + 1) for index in range(3)]
    found = [graphed(one, with_tokens=with_tokens, grounded=grounded) for one in fed]
    # Held against each other only now: a later frame must not have written over an earlier one.
    for one, values in zip(fed, found, strict=True):
        assert_same(values, encoders(one, with_tokens=with_tokens, grounded=grounded))
    assert [graph.replays for graph in cuda.graphs] == [4]  # one to hold it against the plain pass


def test_each_combination_of_outputs_is_captured_once(
    encoders: Encoders, cuda: Cuda, graphed: GraphedEncoders
) -> None:
    one = inputs(encoders, 0, 1)
    for _ in range(2):
        for with_tokens, grounded in ((True, [0]), (True, []), (False, [0])):
            graphed(one, with_tokens=with_tokens, grounded=grounded)
    assert len(cuda.graphs) == 3
    assert graphed(one, with_tokens=False, grounded=[]) == Features(None, None, None)
    assert len(cuda.graphs) == 3


def test_frames_of_each_size_have_a_graph_and_the_last_used_are_kept(
    encoders: Encoders, cuda: Cuda, graphed: GraphedEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "_MOST", 2)
    sizes = {"a": (480, 640), "b": (240, 320), "c": (300, 200)}
    for name, graphs in (("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)):
        height, width = sizes[name]
        one = upload(encoders, [frames(1)[0][:height, :width].copy()])
        found = graphed(one, with_tokens=True, grounded=[0])
        assert_same(found, encoders(one, with_tokens=True, grounded=[0]))
        assert len(cuda.graphs) == graphs


def test_a_sliver_which_the_host_scales_is_not_captured(
    encoders: Encoders, cuda: Cuda, graphed: GraphedEncoders
) -> None:
    one = upload(encoders, [frames(1)[0][:20].copy()])
    assert_same(
        graphed(one, with_tokens=True, grounded=[]), encoders(one, with_tokens=True, grounded=[])
    )
    assert not cuda.graphs
    assert graphed.trouble == ""


class Waits(TorchDispatchMode):
    """Refuses what makes a host wait for its GPU, which no graph may hold.

    That is a value that Python takes, a tensor whose size depends on values, a copy from one
    device to another.
    """

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh")

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = str(function).split(".")[1]
        options = options or {}
        chosen = arguments[1] if name.startswith("index") and len(arguments) > 1 else ()
        by_mask = isinstance(chosen, (list, tuple)) and any(
            isinstance(one, Tensor) and one.dtype == torch.bool for one in chosen
        )
        moved = "copy" in name and options.get("device") is not None
        waits = name.startswith(self.REFUSED) or by_mask or moved
        assert not waits, f"{name} in the pass"
        return function(*arguments, **options)


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: float(values.sum()),
        lambda values: values[values > 0],
        lambda values: values + torch.tensor([1.0]),
        lambda values: values.to("meta"),
    ],
    ids=["a value", "a mask", "a constant", "a device"],
)
def test_waiting_is_seen(wait: Callable[[Tensor], object]) -> None:
    values = torch.ones(3)
    with Waits(), pytest.raises(AssertionError, match="in the pass"):
        wait(values)


@pytest.mark.parametrize(("with_tokens", "grounded"), [(True, [0]), (True, []), (False, [0])])
def test_nothing_in_a_pass_waits_for_the_gpu(
    encoders: Encoders, with_tokens: bool, grounded: list[int]
) -> None:
    one = inputs(encoders, 0, 1)
    head = SiglipMultiheadAttentionPoolingHead(
        SiglipVisionConfig(hidden_size=encoders.towers["siglip"].dim, num_attention_heads=4)
    )
    pool = RegionHead(head, torch.float32)
    with torch.inference_mode(), Waits():
        found = encoders(one, with_tokens=with_tokens, grounded=grounded)
        if found.siglip is not None and found.dino is not None:
            cosine = cosines(found.dino)
            pool(found.siglip[0], cosine[0, :3])


def test_other_batches_run_as_they_are(
    encoders: Encoders, cuda: Cuda, graphed: GraphedEncoders
) -> None:
    two = inputs(encoders, 0, 2)
    found = graphed(two, with_tokens=True, grounded=[1])
    assert_same(found, encoders(two, with_tokens=True, grounded=[1]))
    assert not cuda.graphs


def test_a_capture_that_fails_is_told_once_and_passes_go_on(
    encoders: Encoders,
    cuda: Cuda,
    graphed: GraphedEncoders,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda.error = RuntimeError("operation not permitted when stream is capturing\nmore")
    one = inputs(encoders, 0, 1)
    serving = Serving(graphed, "torch on H200, bf16", ["why"])
    for _ in range(3):
        assert_same(
            serving(one, with_tokens=True, grounded=[0]),
            encoders(one, with_tokens=True, grounded=[0]),
        )
    assert serving.says == (
        "torch on H200, bf16 (why; no CUDA graph: operation not permitted when stream is"
        " capturing)"
    )
    assert caplog.text.count("cannot be captured") == 1
    assert len(cuda.graphs) == 1


def test_a_graph_that_gives_other_tokens_does_not_serve(
    encoders: Encoders, cuda: Cuda, graphed: GraphedEncoders
) -> None:
    cuda.offset = 100.0
    one = inputs(encoders, 0, 1)
    assert_same(
        graphed(one, with_tokens=True, grounded=[]), encoders(one, with_tokens=True, grounded=[])
    )
    assert graphed.trouble == "no CUDA graph: the captured pass gives other tokens"


def test_no_memory_is_not_taken_for_a_capture_that_fails(
    encoders: Encoders, cuda: Cuda, graphed: GraphedEncoders
) -> None:
    cuda.error = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(torch.OutOfMemoryError):
        graphed(inputs(encoders, 0, 1), with_tokens=True, grounded=[])
    assert graphed.trouble == ""


def test_towers_run_side_by_side_and_are_joined(cuda: Cuda) -> None:
    lanes = Lanes(CPU)
    here = cuda.streams[0]
    on: list[Stream] = []

    def job(value: float) -> Any:
        def run() -> tuple[Tensor, Tensor]:
            on.append(cuda.streams[-1])
            return torch.tensor(value), torch.empty(0)

        return run

    for _ in range(2):
        found = lanes([job(1.0), job(2.0), job(3.0)])
        assert [float(values) for values, _ in found] == [1.0, 2.0, 3.0]
    second, third, first = on[:3]
    assert first is here
    assert len({id(stream) for stream in on}) == 3
    assert second.waited == third.waited == [here, here]
    assert here.waited == [second, third, second, third]
    assert lanes([]) == []
