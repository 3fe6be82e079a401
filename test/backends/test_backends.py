"""Backends on a CPU: what is chosen, what an export computes, what may serve. Random weights."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import write_random_model
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siglip_perception import backends
from siglip_perception.backends.base import bf16, selftest
from siglip_perception.backends.base.bf16 import Bf16Speed
from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.base.onnx_export import (
    INPUT,
    OUTPUT,
    BlockRun,
    cast_products,
    export,
)
from siglip_perception.backends.openvino import graphs
from siglip_perception.commands import bench, main
from siglip_perception.commands.bench import child
from siglip_perception.config import ModelSelection
from siglip_perception.encoders import onednn
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.encoders.transformer import Linear
from siglip_perception.errors import BackendError, PerceptionError
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame
from siglip_perception.util import cpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_random_model(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def engine_cache(folder: Path, own_cache: Path) -> Path:
    """The tests' cache, with the float32 graphs of the model in it."""
    for key, tower in (encoders := encoders_of(folder)).towers.items():
        graphs.pad(tower)
        for span in tower.block_ranges(key in encoders.grounding_keys):
            graphs.model(tower, key, span, "fp32", EngineCache())
    return own_cache


def encoders_of(folder: Path) -> Encoders:
    plan = ModelPlan.load(ModelSelection(str(folder)))
    return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)


def frame() -> Frame:
    return Frame(selftest.frames(1)[0])


def tokens(pipeline: Pipeline) -> Tensor:
    grid = pipeline.process(frame(), None).tokens
    assert grid is not None
    return torch.from_numpy(np.asarray(grid.data, dtype=np.float32))


def cosine(item: Tensor, second: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(item, second, dim=-1).min())


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("flags\t\t: fpu avx512f amx_bf16 avx512_bf16", "AMX"),
        ("flags : avx512f avx512_bf16", "AVX512-BF16"),
        ("Features : fp asimd i8mm bf16", "Arm's BF16"),
        ("flags : avx512f avx2", ""),
        ("model name : amx_bf16", ""),
    ],
)
def test_the_unit_for_bfloat16_is_what_the_system_says(
    tmp_path: Path, line: str, unit: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert cpu.bf16_unit(tmp_path / "cpuinfo") == unit


def test_a_system_that_does_not_say_has_no_unit_for_bfloat16(tmp_path: Path) -> None:
    assert cpu.bf16_unit(tmp_path / "none") == ""


def speed_of(monkeypatch: pytest.MonkeyPatch, speedup: float) -> None:
    """Let this machine's products in bfloat16 have that speed."""
    monkeypatch.setattr(bf16, "speed", lambda: Bf16Speed(speedup))


def test_auto_takes_bf16_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speed_of(monkeypatch, 3.1)
    choice = backends.choose("auto", "cpu", "auto")
    assert (choice.backend, choice.precision) == ("torch", "bf16")
    assert "bf16 products run at 3.1 times fp32's speed here, measured" in choice.reason
    assert backends.choose("openvino", "cpu", "int8").dtype == torch.bfloat16
    speed_of(monkeypatch, 0.151)  # as emulated
    choice = backends.choose("auto", "cpu", "auto")
    assert (choice.backend, choice.precision) == ("torch", "fp32")
    assert choice.reason == "bf16 products run at 0.15 times fp32's speed here, measured"
    assert backends.choose("openvino", "cpu", "int8").dtype == torch.float32
    assert backends.choose("torch", "cpu", "fp32").reason == ""
    explicit_choice = backends.choose("torch", "cpu", "bf16")
    assert explicit_choice.precision == "bf16"
    assert "precision auto or fp32 is faster" in explicit_choice.reason


def test_the_speed_of_bf16_is_measured_once_for_each_limit_on_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter((2.0, 0.2))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bf16, "measure", lambda: next(speeds))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "DEFAULT")
    assert bf16.speed().fast
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not bf16.speed().fast
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "DEFAULT")
    bf16._speed.cache_clear()  # as the next process has it
    assert bf16.speed() == Bf16Speed(2.0)


def test_the_speed_of_bf16_is_known_where_no_cache_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(bf16, "measure", lambda: 0.5)
    assert bf16.speed() == Bf16Speed(0.5)


@pytest.mark.slow
@pytest.mark.numeric
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the limit is for x86-64")
def test_products_that_are_held_below_the_units_are_measured_as_slow() -> None:
    """The CPU's own flags say AMX, or whatever it has, all the while."""
    program = "from siglip_perception.backends.base import bf16; print(bf16.measure())"
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert float(process.stdout) < 0.7


@pytest.mark.slow
def test_auto_takes_openvino_once_it_is_built_and_passes(
    folder: Path, engine_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed_of(monkeypatch, 0.2)

    def says() -> str:
        return Pipeline.load(ModelSelection(str(folder), device="cpu")).backend

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert says().startswith("torch ")
    assert "siglip-perception export --backend openvino" in says()
    monkeypatch.setenv("XDG_CACHE_HOME", str(engine_cache))
    command = ["export", "--model", str(folder), "--backend", "openvino", "--precision", "fp32"]
    assert main.main(command) == 0
    assert says().startswith("openvino ")
    monkeypatch.setattr(selftest, "least_cosine", lambda *_: 0.5)
    assert says().startswith("torch ")
    assert "does not serve: OpenVINO" in says()


def test_auto_takes_openvino_in_bf16_for_a_small_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test only the choice, which a CPU without bfloat16 makes, too."""
    speed_of(monkeypatch, 3.0)
    monkeypatch.setattr(graphs, "is_built", lambda *_: True)
    monkeypatch.setattr(graphs, "serve", lambda _, precision, cache: f"openvino in {precision}")
    says = backends.start(encoders_of(folder), backends.choose("auto", "cpu", "auto")).description
    assert says.startswith("openvino in bf16 on cpu, bf16 (bf16 products run at 3 times")


def test_openvino_without_bfloat16_is_not_asked_for_any(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refuse what would silently compute in float32."""

    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(graphs, "shared_core", Core)
    with pytest.raises(BackendError, match=r"no bfloat16 on this CPU.*use precision: fp32"):
        graphs.serve(encoders_of(folder), "bf16")


def test_auto_keeps_to_pytorch_in_bf16_where_the_model_is_large(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed_of(monkeypatch, 3.0)
    monkeypatch.setattr(backends, "_SMALL_MODEL_WEIGHTS", 0)
    says = Pipeline.load(ModelSelection(str(folder), device="cpu")).backend
    assert says.startswith("torch ")
    assert "packed products" in says


@pytest.mark.slow
@pytest.mark.usefixtures("engine_cache")
def test_signals_are_still_handled_after_openvino_has_served_twice(folder: Path) -> None:
    program = (
        "import gc, os, signal, sys;"
        "from siglip_perception.config import ModelSelection;"
        "from siglip_perception.pipeline import Pipeline;"
        "selection = ModelSelection(sys.argv[1], backend='openvino', precision='fp32');"
        "one = Pipeline.load(selection);"
        "two = Pipeline.load(selection);"
        "del one; gc.collect(); del two; gc.collect();"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'));"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (0, "handled\n"), process.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("onnx", "cpu", "auto"), "no backend 'onnx'"),
        (("torch", "cpu", "int8"), "use backend: openvino"),
        (("openvino", "cuda", "auto"), "CUDA|runs on a CPU"),
        (("tensorrt", "cpu", "auto"), "needs a CUDA GPU"),
        (("torch", "cpu", "fp8"), "no precision 'fp8'"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(
    options: tuple[str, str, str], words: str
) -> None:
    with pytest.raises(BackendError, match=words) as error_info:
        backends.choose(*options)
    assert str(error_info.value).endswith(".")


@pytest.mark.numeric
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 50),
    st.sampled_from(["", "gelu", "gelu_tanh", "silu"]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_packed_products_are_the_plain_ones(
    rows: int, inner: int, outer: int, act: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows * 7 + inner)
    weight = torch.randn(outer, inner, generator=generator) * inner**-0.5
    plain = Linear(weight.to(dtype), torch.ones(outer, dtype=dtype), act)
    x = torch.randn(2, rows, inner, generator=generator)
    holder = torch.nn.Sequential(plain)
    onednn.pack(holder)
    # Where oneDNN packs no bfloat16, the plain product stays, which is what is compared.
    assert isinstance(holder[0], Linear if onednn.trouble(dtype) else onednn.PackedLinear)
    with torch.inference_mode():
        close = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(holder(x), plain(x), rtol=close, atol=close)


@pytest.mark.numeric
def test_products_that_are_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn.PackedLinear, "forward", lambda self, x: -x[..., :32])
    onednn.trouble.cache_clear()
    try:
        holder = torch.nn.Sequential(Linear(torch.ones(8, 8), None))
        onednn.pack(holder)
        assert type(holder[0]) is Linear
    finally:
        onednn.trouble.cache_clear()


@pytest.mark.numeric
def test_padding_changes_no_token(folder: Path) -> None:
    plain, padded = encoders_of(folder), encoders_of(folder)
    for tower in padded.towers.values():
        tower.pad(1)
    assert padded.towers["dinov2"].tokens == 336  # 324 patches, CLS, 4 registers; tiles of 16
    expected = selftest.reference(plain)
    actual = selftest.run(padded, expected.inputs)
    for actual_value, expected_value in (
        (actual.tokens, expected.features.tokens),
        (actual.dino, expected.features.dino),
    ):
        torch.testing.assert_close(actual_value, expected_value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.numeric
@pytest.mark.parametrize("batch", [None, 1])
def test_onnxruntime_computes_what_pytorch_does(
    folder: Path, tmp_path: Path, batch: int | None
) -> None:
    import onnx
    import onnxruntime

    encoders = encoders_of(folder)
    graphs = export(encoders.towers, {"dinov2": True, "siglip": False}, tmp_path, batch)
    assert [(g.tower, g.start, g.stop) for g in graphs] == [
        ("dinov2", 0, 1),
        ("dinov2", 1, 2),
        ("siglip", 0, 1),
    ]
    for graph in graphs:
        kinds = {node.op_type for node in onnx.load(graph.path).graph.node}
        assert not kinds & {"Resize", "IsNaN", "If", "Where"}
        session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
        run = BlockRun(encoders.towers[graph.tower], graph.start, graph.stop)
        for count in (1,) if batch else (1, 3):
            values = torch.randn(run.example(count).shape)
            actual = torch.from_numpy(session.run([OUTPUT], {INPUT: values.numpy()})[0])
            with torch.inference_mode():
                expected = run(values)
            error = (actual - expected).abs().max() / expected.square().mean().sqrt()
            assert float(error) < 1e-5


@pytest.mark.slow
def test_the_precision_is_in_the_graph(folder: Path, tmp_path: Path) -> None:
    import onnx

    encoders = encoders_of(folder)
    cast_products(encoders.towers["siglip"], "bf16")
    (graph,) = export(encoders.towers, {"siglip": False}, tmp_path, 1)
    model = onnx.load(graph.path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    bf16, fp32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    for node in model.graph.node:
        given_kinds = {kinds[name] for name in node.input if name in kinds}
        if node.op_type == "MatMul":
            assert given_kinds <= {bf16}
        if node.op_type == "LayerNormalization":
            assert given_kinds == {fp32}
    assert bf16 in kinds.values()
    assert {item.type.tensor_type.elem_type for item in model.graph.output} == {fp32}


@pytest.mark.slow
@pytest.mark.numeric
def test_openvino_gives_pytorchs_tokens_and_objects(folder: Path) -> None:
    from siglip_perception.language.instruction import from_phrases

    exact = Pipeline.load(ModelSelection(str(folder), backend="torch", precision="fp32"))
    served_pipeline = Pipeline.load(
        ModelSelection(str(folder), backend="openvino", precision="fp32")
    )
    assert served_pipeline.backend.startswith("openvino ")
    torch.testing.assert_close(tokens(served_pipeline), tokens(exact), rtol=1e-4, atol=1e-4)
    query = from_phrases(["cup"])
    actual_value, expected_value = (
        p.process(frame(), p.query(query)).grounding for p in (served_pipeline, exact)
    )
    assert actual_value is not None
    assert expected_value is not None
    np.testing.assert_allclose(actual_value.presence, expected_value.presence, atol=1e-4)


@pytest.mark.slow
@pytest.mark.numeric
def test_openvino_takes_a_batch_and_the_objects_of_some(folder: Path) -> None:
    encoders, exact = encoders_of(folder), encoders_of(folder)
    graphs.serve(encoders, "fp32")
    inputs = {
        item: torch.randn(3, 3, 216, 216, generator=torch.Generator().manual_seed(1))
        for item in encoders.inputs
    }
    actual = encoders(inputs, with_tokens=True, grounding_rows=[2])
    expected = exact(inputs, with_tokens=True, grounding_rows=[2])
    torch.testing.assert_close(actual.tokens, expected.tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.siglip, expected.siglip, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_graphs_are_exported_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.serve(encoders_of(folder), "fp32")

    def fail(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(graphs, "convert", fail)
    graphs.serve(encoders_of(folder), "fp32")


@pytest.mark.slow
@pytest.mark.numeric
@pytest.mark.usefixtures("engine_cache")
def test_an_engine_of_other_weights_does_not_serve(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {key: tower.digest for key, tower in encoders_of(folder).towers.items()}
    write_random_model(tmp_path / "other", seed=5)
    encoders = encoders_of(tmp_path / "other")
    for key, tower in encoders.towers.items():
        monkeypatch.setattr(tower, "digest", digests[key])
    with pytest.raises(BackendError, match="other tokens than PyTorch"):
        graphs.serve(encoders, "fp32")


def int8_weights(home: Path) -> Iterator[NDArray[np.int8]]:
    for path in home.rglob("model.xml"):
        for node in graphs.shared_core().read_model(path).get_ops():
            if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "i8":
                yield node.get_data().astype(np.int16)


@pytest.mark.slow
@pytest.mark.numeric
def test_int8_is_calibrated_on_own_frames_and_served(
    folder: Path, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(selftest.frames(8)):
        Image.fromarray(picture).save(pictures / f"{number}.png")
    selection = ModelSelection(str(folder), backend="openvino", precision="int8")
    with pytest.raises(BackendError, match="has not been calibrated"):
        Pipeline.load(selection)
    command = ["export", "--model", str(folder), "--backend", "openvino", "--precision", "int8"]
    assert main.main([*command, "--calibrate", str(pictures), "--least-cosine", "0.999999"]) == 2
    assert "not accurate enough" in capsys.readouterr().err
    with pytest.raises(BackendError, match="has not been calibrated"):
        Pipeline.load(selection)
    assert main.main([*command, "--calibrate", str(pictures)]) == 0
    assert "calibrated on 6 frames; on 2 others" in capsys.readouterr().out
    exact = Pipeline.load(ModelSelection(str(folder), backend="torch", precision="fp32"))
    served_pipeline = Pipeline.load(selection)
    assert 0.99 < cosine(tokens(served_pipeline), tokens(exact)) < 0.999999
    assert "int8 (calibrated on 6 frames; on 2 others" in served_pipeline.backend
    largest = 64 if graphs.int8_saturates() else 127
    assert largest in {int(abs(weight).max()) for weight in int8_weights(own_cache)}


@pytest.mark.slow
def test_the_command_writes_checked_graphs_or_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "onnx"
    command = ["export", "--model", str(folder), "--output", str(out)]
    assert main.main(command) == 0
    message = capsys.readouterr().out
    assert message.count("onnxruntime's output equals PyTorch's") == 4
    manifest = json.loads((out / "export.json").read_text())
    assert {graph["file"] for graph in manifest["graphs"]} == {p.name for p in out.glob("*.onnx")}
    assert main.main(command) == 2  # never over something that is there
    assert main.main([*command[:-1], str(tmp_path / "new"), "--precision", "int8"]) == 2
    assert not (tmp_path / "new").exists()


def test_bench_leaves_out_what_the_cpu_is_slow_in(monkeypatch: pytest.MonkeyPatch) -> None:
    speed_of(monkeypatch, 0.2)
    names, left_out = bench._candidates(None, "cpu")
    assert names == ["timm fp32", "torch fp32", "openvino fp32", "openvino int8"]
    assert left_out[0] == (
        "transformers bf16: bf16 products run at 0.2 times fp32's speed here, measured"
    )
    assert len(left_out) == 3
    assert bench._candidates(["torch bf16"], "cpu") == (["torch bf16"], [])
    speed_of(monkeypatch, 2.0)
    assert bench._candidates(None, "cpu") == (list(bench.ON_CPU), [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backend", "torch bf17"], "no candidate 'torch bf17'"),
        (["--batch", "5"], "--batch has to be 1 to 4"),
        (["--batch", "0"], "--batch has to be 1 to 4"),
    ],
)
def test_bench_refuses_in_one_sentence(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["bench", "--size", "tabletop", *options]) == 2
    assert words in capsys.readouterr().err


def test_bench_ends_when_its_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["bench", "--size", "tabletop", "--minutes", "0"]) == 1
    assert "Left out: tabletop size: the time was up" in capsys.readouterr().out
    with pytest.raises(PerceptionError, match="the time was up"):  # while it is loaded
        bench.Child("torch fp32", "tabletop", "", "cpu", "", time.monotonic() + 0.05)


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_the_reference_rate_takes_no_longer_than_it_may(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small matrices where a product is slow: float32 with hardly any time stands for it."""
    sides: list[int] = []

    def record_side(job: Callable[[], Tensor], _: torch.device) -> float:
        sides.append(len(job()))
        return 0.5

    monkeypatch.setattr(child, "_MAX_SECONDS", seconds)
    monkeypatch.setattr(child, "_MAX_SIDE", 256)
    monkeypatch.setattr(child, "_time", record_side)
    rate = child._rate(torch.float32, torch.device("cpu"))
    assert max(sides) == (128 if seconds < 1 else 256)
    assert rate == 2 * max(sides) ** 3 / 0.5 / 1e9


@pytest.mark.slow
def test_bench_measures_beside_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    command = [
        "bench",
        "--size",
        "tabletop",
        "--batch",
        "1",
        "--seconds",
        "0",
        "--json",
        str(file),
    ]
    assert main.main([*command, "--backend", "torch fp32", "--backend", "timm fp32"]) == 0
    actual = json.loads(file.read_text())
    assert [row["backend"] for row in actual["rows"]] == ["transformers", "torch"]
    row = actual["rows"][1]
    assert row["min_token_cosine"] > 0.99999
    assert row["ratio_to_transformers_eager"] > 0
    assert row["matrix_share"] > 0
    message = capsys.readouterr().out
    assert "Left out: timm fp32 at tabletop size" in message
