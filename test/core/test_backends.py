"""Backends on a CPU: what is chosen, what an export computes, what may serve. Random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import write_random_model
from PIL import Image
from torch import Tensor

from siglip_perception import backends, cli, cpu, packed
from siglip_perception.backends import openvino, selftest
from siglip_perception.backends.cache import EngineCache
from siglip_perception.backends.export import INPUT, OUTPUT, Run, export, narrow
from siglip_perception.encoders import Encoders
from siglip_perception.errors import BackendError
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.plan import Plan
from siglip_perception.transformer import Linear
from siglip_perception.types import Frame


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


def encoders_of(folder: Path) -> Encoders:
    plan = Plan.make(str(folder), "", "", "")
    return Encoders(plan.contract, plan.towers, plan.tokens, plan.grounding)


def frame() -> Frame:
    return Frame(selftest.frames(1)[0])


def tokens(pipeline: Pipeline) -> Tensor:
    grid = pipeline.process(frame(), None).tokens
    assert grid is not None
    return torch.from_numpy(np.asarray(grid.data, dtype=np.float32))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=-1).min())


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
def test_fast_bfloat16_is_what_the_system_says(tmp_path: Path, line: str, unit: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert cpu.bf16_unit(tmp_path / "cpuinfo") == unit


def test_a_system_that_does_not_say_has_no_fast_bfloat16(tmp_path: Path) -> None:
    assert cpu.bf16_unit(tmp_path / "none") == ""


def test_auto_takes_bf16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "bf16_unit", lambda: "AMX")
    choice = backends.choose("auto", "cpu", "auto")
    assert (choice.backend, choice.precision) == ("torch", "bf16")
    assert "AMX" in choice.why
    monkeypatch.setattr(cpu, "bf16_unit", lambda: "")
    choice = backends.choose("auto", "cpu", "auto")
    assert (choice.backend, choice.precision) == ("torch", "fp32")
    assert "no fast bfloat16" in choice.why
    assert backends.choose("torch", "cpu", "fp32").why == ""


@pytest.mark.parametrize(("unit", "precision"), [("", "fp32"), ("AMX", "bf16")])
def test_auto_takes_openvino_once_it_is_built_and_passes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, precision: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "bf16_unit", lambda: unit)

    def says() -> str:
        return Pipeline.load(PipelineOptions(str(folder), device="cpu")).backend

    assert says().startswith("torch ")
    assert "siglip-perception export --backend openvino" in says()
    asked = ["export", "--model", str(folder), "--backend", "openvino", "--precision", precision]
    assert cli.main(asked) == 0
    assert says().startswith("openvino ")
    monkeypatch.setattr(selftest, "least_cosine", lambda *_: 0.5)
    assert says().startswith("torch ")
    assert "does not serve: OpenVINO" in says()


def test_auto_keeps_to_pytorch_in_bf16_where_the_model_is_large(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "bf16_unit", lambda: "AMX")
    monkeypatch.setattr(backends, "_FEW_WEIGHTS", 0)
    says = Pipeline.load(PipelineOptions(str(folder), device="cpu")).backend
    assert says.startswith("torch ")
    assert "packed products" in says


def test_signals_are_still_handled_after_openvino_has_served_twice(folder: Path) -> None:
    program = (
        "import gc, os, signal, sys;"
        "from siglip_perception.pipeline import Pipeline, PipelineOptions;"
        "options = PipelineOptions(sys.argv[1], backend='openvino', precision='fp32');"
        "one = Pipeline.load(options);"
        "two = Pipeline.load(options);"
        "del one; gc.collect(); del two; gc.collect();"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'));"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("onnx", "cpu", "auto"), "no backend 'onnx'"),
        (("torch", "cpu", "int8"), "use backend: openvino"),
        (("openvino", "cuda", "auto"), "CUDA|runs on a CPU"),
        (("tensorrt", "cpu", "auto"), "needs a CUDA GPU"),
        (("torch", "cpu", "fp8"), "no precision 'fp8'"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(
    asked: tuple[str, str, str], words: str
) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        backends.choose(*asked)
    assert str(caught.value).endswith(".")


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
    packed.pack(holder)
    assert isinstance(holder[0], packed.PackedLinear)
    with torch.inference_mode():
        close = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(holder(x), plain(x), rtol=close, atol=close)


def test_products_that_are_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed.PackedLinear, "forward", lambda self, x: -x[..., :32])
    packed.works.cache_clear()
    try:
        holder = torch.nn.Sequential(Linear(torch.ones(8, 8), None))
        packed.pack(holder)
        assert type(holder[0]) is Linear
    finally:
        packed.works.cache_clear()


def test_padding_changes_no_token(folder: Path) -> None:
    plain, padded = encoders_of(folder), encoders_of(folder)
    for tower in padded.towers.values():
        tower.pad(1)
    assert padded.towers["dinov2"].tokens == 336  # 324 patches, CLS, 4 registers; tiles of 16
    expected = selftest.reference(plain)
    found = selftest.run(padded, expected.inputs)
    for ours, theirs in (
        (found.tokens, expected.features.tokens),
        (found.dino, expected.features.dino),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


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
        run = Run(encoders.towers[graph.tower], graph.start, graph.stop)
        for count in (1,) if batch else (1, 3):
            values = torch.randn(run.example(count).shape)
            found = torch.from_numpy(session.run([OUTPUT], {INPUT: values.numpy()})[0])
            with torch.inference_mode():
                wanted = run(values)
            error = (found - wanted).abs().max() / wanted.square().mean().sqrt()
            assert float(error) < 1e-5


def test_the_precision_is_in_the_graph(folder: Path, tmp_path: Path) -> None:
    import onnx

    encoders = encoders_of(folder)
    narrow(encoders.towers["siglip"], "bf16")
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


def test_openvino_gives_pytorchs_tokens_and_objects(folder: Path) -> None:
    from siglip_perception.instruction import from_phrases

    exact = Pipeline.load(PipelineOptions(str(folder), backend="torch", precision="fp32"))
    served = Pipeline.load(PipelineOptions(str(folder), backend="openvino", precision="fp32"))
    assert served.backend.startswith("openvino ")
    torch.testing.assert_close(tokens(served), tokens(exact), rtol=1e-4, atol=1e-4)
    query = from_phrases(["cup"])
    ours, theirs = (p.process(frame(), p.query(query)).grounding for p in (served, exact))
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours.presence, theirs.presence, atol=1e-4)


def test_openvino_takes_a_batch_and_the_objects_of_some(folder: Path) -> None:
    encoders, exact = encoders_of(folder), encoders_of(folder)
    openvino.serve(encoders, "fp32")
    inputs = {
        one: torch.randn(3, 3, 216, 216, generator=torch.Generator().manual_seed(1))
        for one in encoders.inputs
    }
    found = encoders(inputs, with_tokens=True, grounded=[2])
    wanted = exact(inputs, with_tokens=True, grounded=[2])
    torch.testing.assert_close(found.tokens, wanted.tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.siglip, wanted.siglip, rtol=1e-4, atol=1e-4)


def test_the_graphs_are_exported_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino.serve(encoders_of(folder), "fp32")

    def fail(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(openvino, "convert", fail)
    openvino.serve(encoders_of(folder), "fp32")


def test_an_engine_of_other_weights_does_not_serve(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_model(tmp_path / "other", seed=5)
    other = EngineCache(tmp_path / "cache")
    wrong = encoders_of(tmp_path / "other")
    openvino.serve(wrong, "fp32", other)
    digests = {key: tower.digest for key, tower in wrong.towers.items()}
    encoders = encoders_of(folder)
    for key, tower in encoders.towers.items():
        monkeypatch.setattr(tower, "digest", digests[key])
    with pytest.raises(BackendError, match="other tokens than PyTorch"):
        openvino.serve(encoders, "fp32", other)


def test_int8_is_calibrated_on_own_frames_and_served(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(selftest.frames(8)):
        Image.fromarray(picture).save(pictures / f"{number}.png")
    options = PipelineOptions(str(folder), backend="openvino", precision="int8")
    with pytest.raises(BackendError, match="has not been calibrated"):
        Pipeline.load(options)
    asked = ["export", "--model", str(folder), "--backend", "openvino", "--precision", "int8"]
    assert cli.main([*asked, "--calibrate", str(pictures), "--least-cosine", "0.999999"]) == 2
    assert "not accurate enough" in capsys.readouterr().err
    with pytest.raises(BackendError, match="has not been calibrated"):
        Pipeline.load(options)
    assert cli.main([*asked, "--calibrate", str(pictures)]) == 0
    assert "calibrated on 6 frames; on 2 others" in capsys.readouterr().out
    exact = Pipeline.load(PipelineOptions(str(folder), backend="torch", precision="fp32"))
    served = Pipeline.load(options)
    assert 0.99 < cosine(tokens(served), tokens(exact)) < 0.999999


def test_the_command_writes_checked_graphs_or_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "onnx"
    asked = ["export", "--model", str(folder), "--output", str(out)]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert said.count("onnxruntime's output is PyTorch's") == 4
    manifest = json.loads((out / "export.json").read_text())
    assert {graph["file"] for graph in manifest["graphs"]} == {p.name for p in out.glob("*.onnx")}
    assert cli.main(asked) == 2  # never over something that is there
    assert cli.main([*asked[:-1], str(tmp_path / "new"), "--precision", "int8"]) == 2
    assert not (tmp_path / "new").exists()


def test_bench_measures_beside_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    asked = ["bench", "--size", "tabletop", "--batch", "1", "--seconds", "0", "--json", str(file)]
    assert cli.main([*asked, "--backend", "torch fp32", "--backend", "timm fp32"]) == 0
    found = json.loads(file.read_text())
    assert [row["backend"] for row in found["rows"]] == ["transformers", "torch"]
    row = found["rows"][1]
    assert row["min_token_cosine"] > 0.99999
    assert row["ratio_to_transformers_eager"] > 0
    assert 0 < row["matrix_share"] < 2
    said = capsys.readouterr().out
    assert "Left out: timm fp32 at tabletop size" in said
