"""Captures of CUDA graphs and their buffers, with a stand-in for CUDA's own calls.

The stand-in notes each operation of a capture and runs it again on the same tensors, as a graph
does. What only a GPU can show, such as what may be captured at all, is not shown here.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from models import write_random_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from siglip_perception.backends.base import cuda_graph
from siglip_perception.backends.base.cuda_graph import GraphedEncoders, StreamPool
from siglip_perception.backends.base.selftest import frames
from siglip_perception.backends.base.serving import Serving
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders, Features
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.grounding.region_head import RegionHead
from siglip_perception.grounding.regions import cosines
from siglip_perception.images.preprocess import DeviceFrames, Preprocessor
from siglip_perception.types import UInt8Array

CPU = torch.device("cpu")


class Stream:
    """Knows for whom it has waited."""

    device_index = 0

    def __init__(self, device: torch.device | None = None) -> None:
        self.awaited_streams: list[Stream] = []

    def wait_stream(self, second: Stream) -> None:
        self.awaited_streams.append(second)


class Kernels(TorchDispatchMode):
    """Notes every operation with the tensors that it reads and writes, and runs them again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        results = function(*arguments, **options)
        storages = {
            tensor.untyped_storage().data_ptr() for tensor in tensors((arguments, options))
        }
        instance = [
            (number, tensor)
            for number, tensor in enumerate(tensors(results))
            if tensor.untyped_storage().data_ptr() not in storages  # a view, or written in place
        ]
        self.launches.append((function, arguments, options, instance))
        return results

    def again(self, offset: float) -> None:
        for function, arguments, options, instance in self.launches:
            results = tensors(function(*arguments, **options))
            for number, tensor in instance:
                tensor.copy_(
                    results[number] + offset if tensor.is_floating_point() else results[number]
                )


def tensors(values: Any) -> list[Tensor]:
    return [tensor for tensor in tree_leaves(values) if isinstance(tensor, Tensor)]


@dataclass
class Graph:
    """A recorded pass; `cuda.error` comes where `cuda.position` says."""

    cuda: Cuda
    replays: int = 0
    ends: int = 0
    kernels: Kernels = field(default_factory=Kernels)
    recording: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert pool == POOL
        assert capture_error_mode == "thread_local"
        if self.cuda.error is not None and self.cuda.position == "begin":
            raise self.cuda.error
        self.cuda.capturing = True
        self.recording.enter_context(self.kernels)

    def capture_end(self) -> None:
        assert self.cuda.capturing, "CUDA would keep an error"
        self.cuda.capturing = False
        self.ends += 1
        self.recording.close()
        if self.cuda.error is not None:
            raise self.cuda.error

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            self.kernels.again(self.cuda.offset)


POOL = (0, 1)


@dataclass
class Cuda:
    """Stand-in for torch.cuda. error: raised by a capture; at: "begin", "run" or "end"."""

    streams: list[Stream] = field(default_factory=lambda: [Stream()])
    graphs: list[Graph] = field(default_factory=list)
    error: Exception | None = None
    position: str = "begin"
    capturing: bool = False
    offset: float = 0.0
    pools_left: list[object] = field(default_factory=list)

    def make_graph(self) -> Graph:
        self.graphs.append(Graph(self))
        return self.graphs[-1]

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    folder = tmp_path_factory.mktemp("models") / "random"
    write_random_model(folder)
    plan = ModelPlan.load(ModelSelection(str(folder)))
    return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    instance = Cuda()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: instance.streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", instance.stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", instance.make_graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch._C, "_cuda_endAllocateToPool", lambda device, pool: instance.pools_left.append(pool)
    )
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda values, stream: None)
    return instance


@pytest.fixture
def graph_encoders(encoders: Encoders, cuda: Cuda) -> GraphedEncoders:
    return GraphedEncoders(encoders.served_by(encoders.towers), CPU)


def inputs(encoders: Encoders, first: int, stop: int) -> DeviceFrames:
    return upload(encoders, frames(stop)[first:stop])


def upload(encoders: Encoders, images: list[UInt8Array]) -> DeviceFrames:
    """Stand in for a GPU's preprocessing; the frames stay on the CPU."""
    return Preprocessor(encoders.inputs, CPU).with_frames(
        [torch.from_numpy(item) for item in images]
    )


def clone_features(features: Features) -> Features:
    """A copy that outlives the next pass."""
    tokens, siglip, dino = (None if v is None else v.clone() for v in tensors_of(features))
    return Features(tokens, siglip, dino)


def tensors_of(features: Features) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return features.tokens, features.siglip, features.dino


def assert_same(actual: Features, expected: Features) -> None:
    for name in ("tokens", "siglip", "dino"):
        actual_value, expected_value = getattr(actual, name), getattr(expected, name)
        assert (actual_value is None) == (expected_value is None)
        if expected_value is not None:
            torch.testing.assert_close(actual_value, expected_value)


@pytest.mark.parametrize(
    ("with_tokens", "grounding_rows"), [(True, [0]), (True, []), (False, [0])]
)
def test_a_graph_gives_each_frame_its_own_tokens(
    encoders: Encoders,
    cuda: Cuda,
    graph_encoders: GraphedEncoders,
    with_tokens: bool,
    grounding_rows: list[int],
) -> None:
    batches = [inputs(encoders, index, index + 1) for index in range(3)]
    features = [
        clone_features(
            graph_encoders(frame_inputs, with_tokens=with_tokens, grounding_rows=grounding_rows)
        )
        for frame_inputs in batches
    ]
    for frame_inputs, values in zip(batches, features, strict=True):
        assert_same(
            values, encoders(frame_inputs, with_tokens=with_tokens, grounding_rows=grounding_rows)
        )
    # The encoders' and that of the frames' size; one each to hold it against the plain pass.
    assert [graph.replays for graph in cuda.graphs] == [4, 4]


def test_each_combination_of_outputs_is_captured_once(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    frame_inputs = inputs(encoders, 0, 1)
    for _ in range(2):
        for with_tokens, grounding_rows in ((True, [0]), (True, []), (False, [0])):
            graph_encoders(frame_inputs, with_tokens=with_tokens, grounding_rows=grounding_rows)
    assert len(cuda.graphs) == 4  # with that of the frames' size, of which they all are fed
    for _ in range(2):
        whole = graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[0], with_dino=False)
    assert whole.siglip is not None
    assert whole.dino is None
    assert len(cuda.graphs) == 5
    graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[], with_dino=False)
    assert graph_encoders(frame_inputs, with_tokens=False, grounding_rows=[]) == Features(
        None, None, None
    )
    assert len(cuda.graphs) == 5


def test_frames_of_each_size_have_a_graph_up_to_a_number_of_sizes(
    encoders: Encoders,
    cuda: Cuda,
    graph_encoders: GraphedEncoders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graph, "_MAX_FRAME_SIZES", 2)
    sizes = {"a": (480, 640), "b": (240, 320), "c": (300, 200)}
    for name, graphs in (("a", 2), ("b", 3), ("a", 3), ("c", 3), ("b", 3), ("a", 3)):
        height, width = sizes[name]
        frame_inputs = upload(encoders, [frames(1)[0][:height, :width].copy()])
        features = graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[0])
        assert_same(features, encoders(frame_inputs, with_tokens=True, grounding_rows=[0]))
        assert len(cuda.graphs) == graphs


def test_pixels_that_are_no_frame_are_run_by_the_same_graph(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    for first in range(2):
        pixels = Preprocessor(encoders.inputs, CPU)(frames(2)[first : first + 1])
        features = graph_encoders(pixels, with_tokens=True, grounding_rows=[])
        assert_same(features, encoders(pixels, with_tokens=True, grounding_rows=[]))
    assert [graph.replays for graph in cuda.graphs] == [3]


def test_a_sliver_is_scaled_by_the_host_and_not_captured(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    frame_inputs = upload(encoders, [frames(1)[0][:20].copy()])
    assert_same(
        graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[]),
        encoders(frame_inputs, with_tokens=True, grounding_rows=[]),
    )
    assert len(cuda.graphs) == 1
    assert graph_encoders.trouble == ""


def test_a_frame_of_which_the_encoders_make_infinity_does_not_end_the_graphs(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    pixels = Preprocessor(encoders.inputs, CPU)(frames(1))
    nan_inputs = {
        frame_inputs: torch.full_like(values, torch.inf) for frame_inputs, values in pixels.items()
    }
    features = graph_encoders(nan_inputs, with_tokens=True, grounding_rows=[])
    assert features.tokens is not None
    assert not features.tokens.isfinite().any()
    assert_same(
        graph_encoders(pixels, with_tokens=True, grounding_rows=[]),
        encoders(pixels, with_tokens=True, grounding_rows=[]),
    )
    assert (graph_encoders.trouble, len(cuda.graphs)) == ("", 1)


class Waits(TorchDispatchMode):
    """Refuses what makes a host wait for its GPU, which no graph may hold.

    That is a value that Python takes, a tensor whose size depends on values, a copy from one
    device to another.
    """

    # An index that is a list is a tensor on the host, one that is a mask is counted.
    REFUSED = (
        "_local_scalar_dense",
        "nonzero",
        "masked_",
        "equal",
        "unique",
        "lift_fresh",
        "index",
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = str(function).split(".")[1]
        options = options or {}
        moved_path = "copy" in name and options.get("device") is not None
        waits = name.startswith(self.REFUSED) or moved_path
        assert not waits, f"{name} in the pass"
        return function(*arguments, **options)


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: float(values.sum()),
        lambda values: values[values > 0],
        lambda values: values[[0, 2]],
        lambda values: values + torch.tensor([1.0]),
        lambda values: values.to("meta"),
    ],
    ids=["a value", "a mask", "a list", "a constant", "a device"],
)
def test_waiting_is_seen(wait: Callable[[Tensor], object]) -> None:
    values = torch.ones(3)
    with Waits(), pytest.raises(AssertionError, match="in the pass"):
        wait(values)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("images", "with_tokens", "grounding_rows"),
    [(1, True, [0]), (1, True, []), (1, False, [0]), (3, True, [0, 2]), (3, False, [1])],
)
def test_nothing_in_a_pass_waits_for_the_gpu(
    encoders: Encoders, device: str, images: int, with_tokens: bool, grounding_rows: list[int]
) -> None:
    """meta has no values: whatever would take some to the host, as .cpu() and .numpy(), fails."""
    far = torch.device(device)
    towers = {key: copy.deepcopy(tower).to(far) for key, tower in encoders.towers.items()}
    head = SiglipMultiheadAttentionPoolingHead(
        SiglipVisionConfig(hidden_size=towers["siglip"].dim, num_attention_heads=4)
    )
    pool = RegionHead(head.to(far), torch.float32)
    image = torch.zeros(480, 640, 3, dtype=torch.uint8, device=far)
    several = Preprocessor(encoders.inputs, far).with_frames([image] * images)
    with torch.inference_mode(), Waits():
        features = encoders.served_by(towers)(
            several, with_tokens=with_tokens, grounding_rows=grounding_rows
        )
        if features.siglip is not None and features.dino is not None:
            assert len(features.siglip) == len(features.dino) == len(grounding_rows)
            pool(features.siglip[0], cosines(features.dino[0])[:3])


def test_a_batch_grounded_in_part_or_of_many_cameras_runs_as_it_is(
    encoders: Encoders,
    cuda: Cuda,
    graph_encoders: GraphedEncoders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graph, "_MAX_BATCH", 2)
    for count, grounding_rows in ((2, [1]), (3, [])):
        several = inputs(encoders, 0, count)
        features = graph_encoders(several, with_tokens=True, grounding_rows=grounding_rows)
        assert_same(features, encoders(several, with_tokens=True, grounding_rows=grounding_rows))
    assert not cuda.graphs


@pytest.mark.parametrize("grounding_rows", [[], [0, 1]])
def test_frames_of_several_cameras_are_one_graph_whatever_their_sizes(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders, grounding_rows: list[int]
) -> None:
    pictures = frames(3)
    small = pictures[2][:240, :320].copy()
    batches = [
        upload(encoders, images)
        for images in ([pictures[0], small], [pictures[1], small], [small, pictures[0]])
    ]
    features = [
        clone_features(graph_encoders(batch, with_tokens=True, grounding_rows=grounding_rows))
        for batch in batches
    ]
    for batch, values in zip(batches, features, strict=True):
        assert_same(values, encoders(batch, with_tokens=True, grounding_rows=grounding_rows))
    # The pass; a frame of each size in each place.
    assert len(cuda.graphs) == 5
    single = upload(encoders, [small])
    assert_same(
        graph_encoders(single, with_tokens=True, grounding_rows=grounding_rows[:1]),
        encoders(single, with_tokens=True, grounding_rows=grounding_rows[:1]),
    )
    assert len(cuda.graphs) == 6


def test_what_leaves_for_the_host_is_made_in_the_graph(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    graph_encoders._encoders.finish = lambda features: (
        torch.zeros(1) if features.tokens is None else features.tokens.half(),
    )
    batches = [inputs(encoders, index, index + 1) for index in range(2)]
    for frame_inputs in batches:
        (cast_tokens,) = graph_encoders(
            frame_inputs, with_tokens=True, grounding_rows=[]
        ).host_outputs
        tokens = encoders(frame_inputs, with_tokens=True, grounding_rows=[]).tokens
        assert tokens is not None
        torch.testing.assert_close(cast_tokens, tokens.half())
    assert [graph.replays for graph in cuda.graphs] == [3, 3]


@pytest.mark.parametrize("at", ["begin", "run", "end"])
@pytest.mark.parametrize(
    ("error", "log_text"),
    [
        (
            RuntimeError("operation not permitted when stream is capturing\nmore"),
            "operation not permitted when stream is capturing",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "the GPU's memory does not hold one"),
    ],
)
def test_a_capture_that_fails_is_told_once_and_passes_go_on(
    encoders: Encoders,
    cuda: Cuda,
    graph_encoders: GraphedEncoders,
    caplog: pytest.LogCaptureFixture,
    at: str,
    error: Exception,
    log_text: str,
) -> None:
    cuda.error, cuda.position = error, at
    break_in_capture(graph_encoders, cuda)
    frame_inputs = inputs(encoders, 0, 1)
    serving = Serving(graph_encoders, "torch on H200, bf16", ["why"])
    for _ in range(3):
        assert_same(
            serving(frame_inputs, with_tokens=True, grounding_rows=[0]),
            encoders(frame_inputs, with_tokens=True, grounding_rows=[0]),
        )
    assert serving.description == f"torch on H200, bf16 (why; no CUDA graph: {log_text})"
    assert caplog.text.count("cannot be captured") == 1
    assert len(cuda.graphs) == 1
    # Neither PyTorch's allocator nor the thread is left in the capture.
    assert cuda.pools_left == ([] if at == "begin" else [POOL])
    assert len(cuda.streams) == 1
    assert not cuda.capturing
    assert cuda_graph.capture_lock.acquire(blocking=False)
    cuda_graph.capture_lock.release()


def break_in_capture(graph_encoders: GraphedEncoders, cuda: Cuda) -> None:
    """Make the encoders fail in a capture, where `cuda` is to fail there."""
    run = graph_encoders._encoders.run_all

    def run_all(jobs: Any) -> Any:
        if cuda.capturing and cuda.position == "run" and cuda.error is not None:
            raise cuda.error
        return run(jobs)

    graph_encoders._encoders.run_all = run_all


def test_a_capture_that_is_interrupted_ends_the_pass_and_all_graphs(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    frame_inputs = inputs(encoders, 0, 1)
    graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[])
    break_in_capture(graph_encoders, cuda)
    cuda.position = "run"
    cuda.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[0])
    assert not graph_encoders._encoder_graphs
    cuda.error = None
    assert_same(
        graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[]),
        encoders(frame_inputs, with_tokens=True, grounding_rows=[]),
    )
    assert graph_encoders.trouble == "no CUDA graph: its capture was interrupted"


def test_nothing_is_captured_while_engines_are_loaded(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    frame_inputs = inputs(encoders, 0, 1)
    with cuda_graph.capture_lock:
        features = graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[])
        assert_same(features, encoders(frame_inputs, with_tokens=True, grounding_rows=[]))
        assert not cuda.graphs
    graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[])
    assert len(cuda.graphs) == 2
    assert graph_encoders.trouble == ""


def test_a_pass_without_a_graph_waits_for_its_frame_and_is_waited_for(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    current = cuda.streams[0]
    copies: Any = graph_encoders._stream  # a Stream of this file
    images_seen: list[bool] = []
    run = graph_encoders._encoders.run_all

    def run_all(jobs: Any) -> Any:
        images_seen.append(
            cuda.streams[-1] is copies
            and copies.awaited_streams == [current]
            and not current.awaited_streams
        )
        return run(jobs)

    graph_encoders._encoders.run_all = run_all
    graph_encoders(inputs(encoders, 0, 2), with_tokens=True, grounding_rows=[1])
    assert images_seen == [True]
    assert current.awaited_streams == [copies]


def test_a_size_whose_graph_gives_other_pixels_is_scaled_without(
    encoders: Encoders,
    cuda: Cuda,
    graph_encoders: GraphedEncoders,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = (inputs(encoders, index, index + 1) for index in range(2))
    small = upload(encoders, [frames(1)[0][:100, :100].copy()])
    graph_encoders(first, with_tokens=True, grounding_rows=[])
    cuda.offset = 0.1
    with torch.inference_mode():
        graph_encoders._feed(small)  # its graph is captured, and is off
    cuda.offset = 0.0
    for frame_inputs in (small, second, small):
        features = graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[])
        assert_same(features, encoders(frame_inputs, with_tokens=True, grounding_rows=[]))
    assert caplog.text.count("gives other pixels of frames of 100x100") == 1
    assert [graph.replays for graph in cuda.graphs] == [5, 3, 1]
    assert graph_encoders.trouble == ""


def test_a_size_whose_capture_fails_gives_the_frames_own_tokens(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    first, second = (inputs(encoders, index, index + 1) for index in range(2))
    graph_encoders(first, with_tokens=True, grounding_rows=[])
    cuda.error = RuntimeError("no more")
    small = upload(encoders, [frames(1)[0][:100, :100].copy()])
    for frame_inputs in (small, second):
        features = graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[])
        assert_same(features, encoders(frame_inputs, with_tokens=True, grounding_rows=[]))
    assert graph_encoders.trouble == "no CUDA graph: no more"


def test_a_graph_that_gives_other_tokens_does_not_serve(
    encoders: Encoders, cuda: Cuda, graph_encoders: GraphedEncoders
) -> None:
    cuda.offset = 100.0
    frame_inputs = inputs(encoders, 0, 1)
    assert_same(
        graph_encoders(frame_inputs, with_tokens=True, grounding_rows=[]),
        encoders(frame_inputs, with_tokens=True, grounding_rows=[]),
    )
    assert graph_encoders.trouble == "no CUDA graph: the captured pass gives other tokens"


def test_towers_run_side_by_side_and_are_joined(cuda: Cuda) -> None:
    lanes = StreamPool(CPU)
    current = cuda.streams[0]
    target: list[Stream] = []

    def job(value: float) -> Any:
        def run() -> tuple[Tensor, Tensor]:
            target.append(cuda.streams[-1])
            return torch.tensor(value), torch.empty(0)

        return run

    for _ in range(2):
        features = lanes([job(1.0), job(2.0), job(3.0)])
        assert [float(values) for values, _ in features] == [1.0, 2.0, 3.0]
    second, third, first = target[:3]
    assert first is current
    assert len({id(stream) for stream in target}) == 3
    assert second.awaited_streams == third.awaited_streams == [current, current]
    assert current.awaited_streams == [second, third, second, third]
    assert lanes([]) == []


def test_a_tower_that_fails_leaves_no_stream_unjoined(cuda: Cuda) -> None:
    def fail() -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        StreamPool(CPU)([fail, lambda: (torch.ones(1), torch.empty(0))])
    current = cuda.streams[0]
    assert [len(stream.awaited_streams) for stream in current.awaited_streams] == [1]
    assert current.awaited_streams[0].awaited_streams == [current]
