"""The TensorRT backend over a stand-in for TensorRT that runs ONNX on the CPU: no GPU is needed.

What only TensorRT and a GPU can show is not shown here: see docs/backends.md.
"""

from __future__ import annotations

import importlib
import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_random_model

from siglip_perception.backends.base import selftest
from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.select import choose
from siglip_perception.backends.tensorrt import engine, engines
from siglip_perception.backends.tensorrt.engines import EngineTarget
from siglip_perception.backends.tensorrt.probe import TensorRTStatus
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import Preprocessor
from siglip_perception.util.progress import build_progress

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FAKE = Path(__file__).parent / "fake_tensorrt"
# What the build of the fixture `built` told of its progress.
progress_steps: list[tuple[str, float]] = []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_random_model(path)
    return path


@pytest.fixture(scope="module")
def target() -> Iterator[EngineTarget]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKE))
        patch.delitem(sys.modules, "tensorrt", raising=False)
        library = importlib.import_module("tensorrt")
        facts = {"gpu": "H200", "capability": "9.0", "multiprocessors": "132", "driver": "580.1"}
        yield EngineTarget(library, CPU, "fp32", facts)


@pytest.fixture(scope="module")
def built_folder(
    folder: Path, target: EngineTarget, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A cache with the engines of the model; not to be changed."""
    cache = tmp_path_factory.mktemp("built") / "engines"
    progress_steps.clear()
    engines.build(
        encoders_of(folder),
        target,
        EngineCache(cache),
        lambda step, share: progress_steps.append((step, share)),
    )
    return cache


@pytest.fixture
def cache(built_folder: Path, tmp_path: Path) -> EngineCache:
    """The same, to be changed."""
    shutil.copytree(built_folder, tmp_path / "engines")
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gets a line for each engine that is built."""
    path = tmp_path / "built.log"
    path.touch()
    monkeypatch.setenv("FAKE_TENSORRT_LOG", str(path))
    return path


def quiet(step: str, share: float) -> None:
    pass


def encoders_of(folder: Path) -> Encoders:
    plan = ModelPlan.load(ModelSelection(str(folder)))
    return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)


def engine_files(cache: EngineCache) -> list[Path]:
    return sorted(cache.folder.glob("*/engine.plan"))


def count(log: Path) -> int:
    return len(log.read_text().splitlines())


@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_engines_give_pytorchs_tokens_and_features(
    folder: Path, target: EngineTarget, cache: EngineCache, batch: int
) -> None:
    encoders = encoders_of(folder)
    inputs = Preprocessor(encoders.inputs, CPU)(selftest.frames(batch))
    grounding_rows = list(range(0, batch, 2))
    expected = encoders(inputs, with_tokens=True, grounding_rows=grounding_rows)
    loaded = engines.load(encoders, target, cache)
    assert loaded is not None
    # Twice: an engine's buffers are its own and are used again.
    for _ in range(2):
        actual = loaded(inputs, with_tokens=True, grounding_rows=grounding_rows)
        for name in ("tokens", "siglip", "dino"):
            actual_value, expected_value = getattr(actual, name), getattr(expected, name)
            assert actual_value.shape == expected_value.shape
            torch.testing.assert_close(actual_value, expected_value, rtol=1e-4, atol=1e-4)


def test_what_was_returned_is_not_written_over(
    folder: Path, target: EngineTarget, cache: EngineCache
) -> None:
    loaded = engines.load(encoders_of(folder), target, cache)
    assert loaded is not None
    first, second = selftest.frames(1)[0], np.zeros((32, 48, 3), np.uint8)
    preprocess = Preprocessor(loaded.inputs, CPU)
    actual = loaded(preprocess([first]), with_tokens=True, grounding_rows=[0])
    remaining = [values.clone() for values in (actual.tokens, actual.siglip, actual.dino)]  # type: ignore[union-attr]
    loaded(preprocess([second]), with_tokens=True, grounding_rows=[0])
    for values, was in zip((actual.tokens, actual.siglip, actual.dino), remaining, strict=True):
        assert torch.equal(values, was)  # type: ignore[arg-type]


def test_engines_hold_no_weights_of_pytorch(
    folder: Path, target: EngineTarget, cache: EngineCache
) -> None:
    encoders = encoders_of(folder)
    loaded = engines.load(encoders, target, cache)
    assert loaded is not None
    for key, tower in loaded.towers.items():
        buffer = sum(values.numel() for values in tower.parameters())
        assert buffer == 2 * tower.dim  # the final norm
        assert sum(values.numel() for values in encoders.towers[key].parameters()) > 100 * buffer


def test_what_is_built_is_not_built_again(
    folder: Path, target: EngineTarget, cache: EngineCache, log: Path
) -> None:
    engine_list = engines.build(encoders_of(folder), target, cache, quiet)
    assert count(log) == 0
    assert sorted(engine_list) == engine_files(cache)
    assert engines.load(encoders_of(folder), target, cache) is not None


@pytest.mark.parametrize("fact", ["gpu", "capability", "multiprocessors", "driver"])
def test_engines_of_another_machine_are_not_taken(
    folder: Path, target: EngineTarget, cache: EngineCache, fact: str
) -> None:
    second = replace(target, facts={**target.facts, fact: "another"})
    assert engines.load(encoders_of(folder), second, cache) is None


def test_engines_of_another_version_precision_or_profile_are_not_taken(
    folder: Path, target: EngineTarget, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = encoders_of(folder)
    assert engines.load(encoders, replace(target, precision="fp16"), cache) is None
    monkeypatch.setattr(engine, "BATCHES", (1, 1, 8))
    assert engines.load(encoders, target, cache) is None
    monkeypatch.undo()
    monkeypatch.setattr(target.library, "__version__", "10.13.3")
    assert engines.load(encoders, target, cache) is None
    monkeypatch.undo()
    assert engines.load(encoders, target, cache) is not None


def test_engines_of_other_weights_are_not_taken(
    target: EngineTarget, cache: EngineCache, tmp_path: Path
) -> None:
    write_random_model(tmp_path / "other", seed=1)
    assert engines.load(encoders_of(tmp_path / "other"), target, cache) is None


def test_a_truncated_engine_is_put_aside_and_built_anew(
    folder: Path, target: EngineTarget, cache: EngineCache, log: Path
) -> None:
    engine_file = engine_files(cache)[0]
    full = engine_file.read_bytes()
    engine_file.write_bytes(full[: len(full) // 2])
    engines.load_or_build(encoders_of(folder), target, cache, quiet)
    assert count(log) == 1
    assert engine_file.stat().st_size > len(full) // 2
    assert engine_file.parent.with_name(engine_file.parent.name + ".bad").is_dir()
    assert engines.load(encoders_of(folder), target, cache) is not None


def test_an_engine_that_tensorrt_refuses_is_built_anew_once(
    folder: Path,
    target: EngineTarget,
    cache: EngineCache,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache_facts = engine.Engine.__init__
    is_refused: list[Path] = []

    def once(self: Any, library: Any, path: Path, *remaining: Any) -> None:
        if not is_refused:
            is_refused.append(path)
            monkeypatch.setenv("FAKE_TENSORRT", "refuse")
        try:
            cache_facts(self, library, path, *remaining)
        finally:
            monkeypatch.delenv("FAKE_TENSORRT", raising=False)

    monkeypatch.setattr(engine.Engine, "__init__", once)
    engines.load_or_build(encoders_of(folder), target, cache, quiet)
    assert count(log) == 1
    bad = is_refused[0].parent
    assert bad.with_name(bad.name + ".bad").is_dir()

    monkeypatch.setattr(engine.Engine, "__init__", cache_facts)
    monkeypatch.setenv("FAKE_TENSORRT", "refuse")
    with pytest.raises(BackendError, match="cannot load the engines that it built"):
        engines.load_or_build(encoders_of(folder), target, cache, quiet)
    assert count(log) == 3


def test_too_little_memory_puts_no_engine_aside(
    folder: Path, target: EngineTarget, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = engine_files(cache)
    monkeypatch.setenv("FAKE_TENSORRT", "small")
    with pytest.raises(BackendError, match=r"\(out of memory\)\): free GPU memory") as messages:
        engines.load(encoders_of(folder), target, cache)
    assert "\n" not in str(messages.value)
    assert engine_files(cache) == original


def test_engines_that_give_other_tokens_are_refused_and_put_aside(
    folder: Path, target: EngineTarget, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_folder = len(engine_files(cache))
    monkeypatch.setenv("FAKE_TENSORRT", "wrong")
    with pytest.raises(BackendError, match=r"tensorrt 10\.3\.0 gives other tokens than PyTorch"):
        engines.load(encoders_of(folder), target, cache)
    assert len(list(cache.folder.glob("*.bad"))) == built_folder
    monkeypatch.delenv("FAKE_TENSORRT")
    assert engines.load(encoders_of(folder), target, cache) is None


def test_a_pass_that_tensorrt_cannot_run_raises(
    folder: Path, target: EngineTarget, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engines.load(encoders_of(folder), target, cache)
    assert loaded is not None
    inputs = Preprocessor(loaded.inputs, CPU)(selftest.frames(1))
    monkeypatch.setenv("FAKE_TENSORRT", "no run")
    with pytest.raises(RuntimeError, match="TensorRT could not run"):
        loaded(inputs, with_tokens=True, grounding_rows=[])


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("parse", r"cannot read dinov2\.0-1\.onnx \(In node 0: unsupported\)"),
        ("no engine", r"built no engine of .* \(\[alloc\.cpp\] Error Code 2: OutOfMemory"),
    ],
)
def test_a_graph_that_gives_no_engine_is_told_and_leaves_nothing(
    folder: Path,
    target: EngineTarget,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    sentence: str,
) -> None:
    cache = EngineCache(tmp_path / "engines")
    monkeypatch.setenv("FAKE_TENSORRT", fault)
    with pytest.raises(BackendError, match=sentence) as messages:
        engines.build(encoders_of(folder), target, cache, quiet)
    assert "\n" not in str(messages.value)
    assert not engine_files(cache)
    assert not list(cache.folder.glob(".*.work.*"))


def test_a_full_disk_is_told(
    folder: Path, target: EngineTarget, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing_file = engine_files(cache)[0]
    missing_file.unlink()
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        return write(Path("/dev/full") if path.name == "engine.plan" else path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BackendError, match=r"No space left on device\): make room"):
        engines.build(encoders_of(folder), target, cache, quiet)
    assert not list(cache.folder.glob(".*.work.*"))


def test_a_reference_that_is_gone_is_made_again(
    folder: Path, target: EngineTarget, cache: EngineCache, log: Path
) -> None:
    (reference,) = cache.folder.glob("*/reference.safetensors")
    reference.write_bytes(reference.read_bytes()[:-1])
    assert engines.load(encoders_of(folder), target, cache) is None
    engines.load_or_build(encoders_of(folder), target, cache, quiet)
    assert count(log) == 0


def test_progress_goes_from_nothing_to_all(built_folder: Path) -> None:
    shares = [share for _, share in progress_steps]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len({round(share, 3) for share in shares}) > 20
    assert {"dinov2, blocks 0 to 1", "siglip, blocks 0 to 1"} <= {
        step for step, _ in progress_steps
    }


def test_a_terminal_gets_one_bar(capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with build_progress(terminal):
        pass
    assert terminal.getvalue() == ""
    with build_progress(terminal) as progress:
        progress("dinov2, blocks 0 to 23", 0.0)
        progress("siglip, blocks 0 to 26", 0.625)
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("building engines: siglip, blocks 0 to 26:  62%|")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 7), "bf16")])
def test_a_gpu_without_bfloat16_is_not_given_any(
    target: EngineTarget,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    precision: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose("tensorrt", "auto", "auto").precision == precision
    monkeypatch.setattr(
        engines, "probe", lambda: TensorRTStatus(module="tensorrt", builds=True, runs=True)
    )
    monkeypatch.setattr(engines, "machine", lambda device: {})
    cuda = torch.device("cuda")
    assert EngineTarget.detect(cuda, "fp16").precision == "fp16"
    if precision == "fp32":
        with pytest.raises(BackendError, match="GPU has no bfloat16: use precision fp16"):
            EngineTarget.detect(cuda, "bf16")
    else:
        assert EngineTarget.detect(cuda, "bf16").name == "tensorrt 10.3.0"


def test_int8_stays_on_the_cpu_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "GPU")
    meanings = choose("auto", "auto", "int8")
    assert (meanings.backend, meanings.device, meanings.precision) == ("openvino", CPU, "int8")
