"""Engines that are built while frames flow: none is lost, and what serves is always told.

The TensorRT of these tests is a stand-in that runs ONNX on the CPU.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from models import write_random_model
from torch import Tensor

from siglip_perception.backends import BackendChoice, _proven_on_gpu, start
from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.base.cuda_graph import capture_lock
from siglip_perception.backends.base.serving import Serving
from siglip_perception.backends.tensorrt import probe
from siglip_perception.backends.tensorrt.background_build import BackgroundServing, builder_command
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders, Features
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import EncoderInput

FAKE = Path(__file__).parent / "fake_tensorrt"
ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
# A child that says how far it is when it is asked to, and ends when stdin does.
SLOW = """
import sys
print('{"share": 0.4, "what": "blocks"}', flush=True)
sys.stdin.read()
"""


class Counting:
    """Runs nothing, and counts how often; its tokens tell which it is."""

    def __init__(self, mark: float) -> None:
        self.mark, self.calls = mark, 0

    def __call__(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        *,
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool = True,
    ) -> Features:
        self.calls += 1
        return Features(torch.full((1, 1, 1), self.mark), None, None)


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def mark(serving: Serving) -> float:
    """Records which encoders served a pass."""
    tokens = serving({}, with_tokens=True, grounding_rows=[]).tokens
    assert tokens is not None
    return float(tokens)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, which tells nobody."""
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it did not come about in a minute")


def failing(error: Exception) -> Callable[[], tuple[Counting, str]]:
    def load() -> tuple[Counting, str]:
        raise error

    return load


def test_the_change_is_made_at_the_start_of_a_pass_and_no_frame_is_lost() -> None:
    first, second = Counting(1.0), Counting(2.0)
    loading, go_on = threading.Event(), threading.Event()

    def load() -> tuple[Counting, str]:
        loading.set()
        assert go_on.wait(60)
        return second, "tensorrt 10.3.0 on H200, bf16"

    serving = BackgroundServing(Serving(first, "torch on H200, bf16", ["why"]), python(""), load)
    assert loading.wait(60)
    marks = [mark(serving) for _ in range(10)]
    assert serving.description == "torch on H200, bf16 (why; TensorRT engines are being loaded)"
    go_on.set()
    assert serving.wait(60)
    assert serving.description.endswith("(why; TensorRT engines serve from the next frame on)")
    marks += [mark(serving) for _ in range(10)]
    assert marks == [1.0] * 10 + [2.0] * 10
    assert (first.calls, second.calls) == (10, 10)
    assert serving.description == "tensorrt 10.3.0 on H200, bf16 (why)"
    assert serving.run is second


def test_how_far_the_build_is_is_told_and_the_child_ends_with_what_serves() -> None:
    serving = BackgroundServing(
        Serving(Counting(1.0), "torch"), python(SLOW), failing(AssertionError())
    )
    work = serving._build
    until(lambda: work.note == "TensorRT engines are being built: 40%")
    assert serving.description == "torch (TensorRT engines are being built: 40%)"
    child = work._process
    assert child is not None
    assert child.poll() is None
    del serving
    gc.collect()
    assert child.wait(60) < 0
    assert work.done.wait(60)
    assert work.take() is None


@pytest.mark.parametrize(
    ("script", "load", "reason"),
    [
        (
            "import os; print('{\"share\": 0.1}', flush=True); os.kill(os.getpid(), 9)",
            failing(AssertionError()),
            "the process that builds them was ended by SIGKILL",
        ),
        (
            'print(\'{"error": "No space left: make room."}\'); raise SystemExit(1)',
            failing(AssertionError()),
            "No space left: make room",
        ),
        (
            "print('[TRT] talk'); raise SystemExit(3)",
            failing(AssertionError()),
            "the process that builds them failed with status 3",
        ),
        ("", failing(BackendError("They give other tokens.\nx")), "They give other tokens"),
        ("", failing(torch.OutOfMemoryError("CUDA out of memory.")), "CUDA out of memory"),
        ("", failing(ValueError("odd")), "ValueError: odd"),
    ],
)
def test_what_fails_is_told_in_a_sentence_and_pytorch_serves(
    script: str, load: Callable[[], tuple[Counting, str]], reason: str
) -> None:
    serving = BackgroundServing(Serving(Counting(1.0), "torch"), python(script), load)
    assert mark(serving) == 1.0
    assert serving.wait(60)
    assert [mark(serving) for _ in range(3)] == [1.0] * 3
    assert serving.description == f"torch (no TensorRT engine: {reason})"


def test_a_command_that_is_not_there_is_told() -> None:
    serving = BackgroundServing(
        Serving(Counting(1.0), "torch"), ["/nowhere/python"], failing(AssertionError())
    )
    assert serving.wait(60)
    assert serving.description.startswith("torch (no TensorRT engine: FileNotFoundError: ")
    assert mark(serving) == 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_random_model(path)
    return path


@pytest.fixture(scope="module")
def stand_in() -> Iterator[None]:
    """TensorRT is the stand-in, here and in child processes."""
    paths = [str(FAKE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKE))
        patch.delitem(sys.modules, "tensorrt", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        probe.probe.cache_clear()
        yield
        probe.probe.cache_clear()


@pytest.fixture
def fake(stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return EngineCache().folder


def encoders_of(folder: Path) -> Encoders:
    plan = ModelPlan.load(ModelSelection(str(folder)))
    return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)


def choice() -> BackendChoice:
    return BackendChoice("tensorrt", CPU, "fp32", automatic=False, reason="")


@pytest.mark.slow
def test_auto_does_not_build_and_says_how_to(folder: Path, fake: Path) -> None:
    actual, reason = _proven_on_gpu(encoders_of(folder), choice(), EngineCache())
    assert actual is None
    assert "`siglip-perception export --backend tensorrt` has built" in reason
    assert not fake.exists()


@pytest.mark.slow
def test_a_builder_that_crashes_costs_no_frame(
    folder: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "crash")
    serving = start(encoders_of(folder), choice(), ModelSelection(str(folder)))
    assert isinstance(serving, BackgroundServing)
    assert serving.wait(120)
    assert (
        "no TensorRT engine: the process that builds them was ended by SIGSEGV"
        in serving.description
    )
    assert not list(fake.glob("*/engine.plan"))


@pytest.mark.slow
def test_engines_are_not_loaded_while_a_graph_is_captured(folder: Path, fake: Path) -> None:
    with capture_lock:
        serving = start(encoders_of(folder), choice(), ModelSelection(str(folder)))
        until(lambda: "TensorRT engines are being loaded" in serving.description)
        assert isinstance(serving, BackgroundServing)
        assert not serving.wait(0.5)
    assert serving.wait(120)
    assert "TensorRT engines serve from the next frame on" in serving.description


@pytest.mark.slow
def test_a_builder_ends_with_the_node_that_started_it() -> None:
    command = builder_command(ModelSelection("/nowhere"), "tensorrt", CPU, "fp32")
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(120) == 2


@pytest.mark.slow
def test_without_a_node_engines_are_waited_for_with_progress_and_refused_when_they_fail(
    folder: Path,
    fake: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving = start(encoders_of(folder), choice())
    assert serving.description == "tensorrt 10.3.0 on cpu, fp32"
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "building engines: 0 %, PyTorch's float32 pass"
    assert lines[-1].startswith("building engines: 100 %")
    assert len(lines) < 40

    # A node finds them built, and so does one that leaves the backend to the machine.
    second_serving = start(encoders_of(folder), choice(), ModelSelection(str(folder)))
    assert not isinstance(second_serving, BackgroundServing)
    actual, reason = _proven_on_gpu(encoders_of(folder), choice(), EngineCache())
    assert actual is not None
    assert second_serving.description == actual[1] == serving.description
    assert reason == "the fastest here, built before"

    # A node serves from PyTorch where the engines give other tokens; a command does not.
    copied_folder = fake.with_name("kept")
    shutil.copytree(fake, copied_folder)
    monkeypatch.setenv("FAKE_TENSORRT", "wrong")
    serving = start(encoders_of(folder), choice(), ModelSelection(str(folder)))
    assert serving.description.startswith("torch ")
    assert (
        "no TensorRT engine: tensorrt 10.3.0 gives other tokens than PyTorch"
        in serving.description
    )

    # The next node does not build again what was refused: it says who does.
    monkeypatch.delenv("FAKE_TENSORRT")
    serving = start(encoders_of(folder), choice(), ModelSelection(str(folder)))
    assert not isinstance(serving, BackgroundServing)
    assert "gives other tokens" in serving.description
    assert (
        "put aside, `siglip-perception export --backend tensorrt` builds them"
        in serving.description
    )
    assert start(encoders_of(folder), choice()).description == "tensorrt 10.3.0 on cpu, fp32"
    assert start(
        encoders_of(folder), choice(), ModelSelection(str(folder))
    ).description.startswith("tensorrt ")
    monkeypatch.setenv("FAKE_TENSORRT", "wrong")
    shutil.rmtree(fake)
    copied_folder.rename(fake)
    with pytest.raises(BackendError, match="gives other tokens"):
        start(encoders_of(folder), choice())


@pytest.mark.slow
def test_a_tensorrt_that_crashes_when_it_loads_is_refused_in_a_sentence(
    folder: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "crash on load")
    probe.probe.cache_clear()
    with pytest.raises(BackendError, match="was ended by SIGSEGV when it loaded tensorrt"):
        start(encoders_of(folder), choice(), ModelSelection(str(folder)))
