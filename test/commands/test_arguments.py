"""Errors of a command line come in one sentence, before PyTorch is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siglip_perception import contracts
from siglip_perception.checkpoints import MODELS
from siglip_perception.commands import main
from siglip_perception.commands.arguments import as_options
from siglip_perception.commands.main import COMMANDS
from siglip_perception.util.suggest import closest, did_you_mean

ROOT = Path(__file__).resolve().parents[2]
SIGLIP, DINO = str(MODELS / "tabletop/siglip"), str(MODELS / "tabletop/dinov2")
HEAVY = {"torch", "transformers", "scipy", "openvino", "matplotlib"}
# Runs the command lines on stdin, one after the other; says of each how it ended, what it wrote
# on stderr and what it printed.
_RUNNER = """
import contextlib, io, json, sys
from siglip_perception.checkpoints import MODELS
from siglip_perception.commands import main
ended = []
for argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main(argv)
        except SystemExit as stop:
            code = stop.code
    ended.append([code, err.getvalue(), out.getvalue(), sorted(sys.modules)])
print(json.dumps(ended))
"""


def run_all(folder: Path, lines: Sequence[Sequence[str]]) -> list[tuple[int, str, str, set[str]]]:
    """Exit code, stderr, stdout, and the modules loaded by then, of each command line."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    process = subprocess.run(
        [sys.executable, "-c", _RUNNER],
        input=json.dumps(lines),
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [(code, err, out, set(names)) for code, err, out, names in json.loads(process.stdout)]


WRONG: list[tuple[list[str], str]] = [
    (["gorund", "a.png", "cup"], "no command 'gorund': did you mean ground?"),
    (["--hlep"], "no option --hlep: did you mean --help?"),
    (["ground", "a.png", "cup", "--threshhold", "0.5"], "did you mean --threshold?"),
    (["tokens", "a.png", "--ouput", "x.npz"], "did you mean --output?"),
    (["ground", "a.png", "red", "cup"], "put an instruction of several words in quotes"),
    (["ground", "a.png", "cup", "--threshold", "2"], "--threshold has to be a number from 0 to 1"),
    (["ground", "a.png", "cup", "--threshold", "nan"], "--threshold has to be"),
    (["ground", "a.png", "cup", "--max-objects", "0"], "--max-objects has to be a whole number"),
    (["ground", "a.png", "cup", "--threshold"], "--threshold needs a value"),
    (["ground", "a.png", "cup", "--backend", "tensort"], "did you mean tensorrt?"),
    (["ground", "a.png", "cup", "--model", "tabeltop"], "did you mean tabletop?"),
    (["ground", "a.png", "cup", "--grounding-model", "none"], "no model folder 'none'"),
    (["ground", "a.png", "cup", "--contract", "openvla-22"], "did you mean openvla-224?"),
    (["ground", "a.png", "cup", "--overlay", "x.gif"], "x.gif: name a .png or .jpg file"),
    (["ground", "a.png", "cup", "--overlay", "none/x.png"], "There is no folder none"),
    (
        ["ground", "a.png", "cup", "--precision", "int8", "--backend", "torch"],
        "--backend openvino",
    ),
    (["ground", "a.png", "cup", "--precision", "fp16", "--device", "cpu"], "--precision auto"),
    (["ground", "a.png", "cup", "--backend", "tensorrt", "--device", "cpu"], "--device cuda"),
    (["ground", "a.png", " "], "names no object"),
    (["ground", "bad.png", "cup"], "bad.png: the PNG is truncated"),
    (["ground", "a.png", "cup", "--contract", "one.yaml"], "no objects can be found with it"),
    (["calibrate", "--coco", "coco.json", "--contract", "one.yaml"], "no DINO encoder"),
    (["features", "a.png", "-o", "out", "--outputs", "objects", "--contract", "one.yaml"], "DINO"),
    (["fingerprint", "pairs", "-o", "out.json"], "at least 8 pictures, and there are 2"),
    (["ground", "a.png", "cup", "--model", "half"], "model.safetensors is missing"),
    (["ground", "none.png", "cup"], "no image file none.png"),
    (["tokens", "a.png"], "--output has to be given"),
    (["pixels", "none.png", "--contract", "tabletop", "-o", "x.png"], "no file none.png"),
    (["pixels", "text.json", "--contract", "tabletop", "-o", "x.npz"], "text.json"),
    (["fingerprint", "none", "-o", "x.json"], "There is no none"),
    (["view", "folder"], "folder has no pictures"),
    (["view", "bad.png"], "bad.png: the PNG is truncated"),
    (["view", "bad.mcap"], "bad.mcap cannot be read"),
    (["view", "a.png", "--pixel-reference", "text.json"], "text.json"),
    (["view", "none.mp4"], "no file or folder 'none.mp4'"),
    (["view", "a.png", "--port", "70000"], "--port has to be a whole number from 0 to 65535"),
    (["view", "a.png", "--host", "nowhere.invalid"], "--host"),
    (["view", "a.png", "--phrases", "none.txt"], "Cannot read the phrases in none.txt"),
    (["tokens", "a.png", "-o", "none/x.npz"], "There is no folder none to write x.npz into"),
    (["tokens", "a.png", "-o", "folder"], "folder is a folder: name the file"),
    (["tokens", "a.png", "-o", "x.npz", "--model", "folder"], "holds no model"),
    (["ground", "a.png", "cup", "--model", "clip"], "of the type 'clip'"),
    (["ground", "a.png", "cup", "--contract", "openvla-224"], "hidden_size in dinov2/config.json"),
    (["replay", "folder", "-o", "out", "--contract", "openvla-224"], "choose another contract"),
    (["replay", "bad.mcap", "-o", "out"], "bad.mcap cannot be read"),
    (["replay", "bad.mcap", "-o", "out", "--pixel-reference", "text.json"], "text.json"),
    (["replay", "none", "-o", "out"], "There is no bag none"),
    (["replay", "folder", "-o", "out", "--model", "none"], "no model folder 'none'"),
    (["replay", "folder", "-o", "out", "--overlay", "a.png"], "a.png is a file"),
    (["scenes", "-o", "a.png"], "a.png is a file"),
    (["scenes", "-o", "out", "--count", "0"], "--count has to be a whole number"),
    (
        ["evaluate", "--rendered", "--coco", "text.json"],
        "--coco and --rendered exclude each other",
    ),
    (["train", "-o", "out", "--rendered", "none"], "no folder none"),
    (["train", "--data", "none", "-o", "out"], "no none to train on"),
    (["train", "--data", "folder", "-o", "out"], "nothing to train on in folder"),
    (["train", "--data", "bare", "-o", "out"], "No image in bare has a caption"),
    (["train", "--data", "empty.csv", "-o", "out"], "empty.csv"),
    (["train", "--data", "gone.csv", "-o", "out"], "gone.csv"),
    (["train", "--data", "gone.csv", "--strict", "-o", "out"], "gone.csv"),
    (["train", "--data", "plain.csv", "-o", "out"], "plain.csv has no header"),
    (["train", "--data", "x.parquet", "-o", "out"], "convert it to .csv"),
    (["train", "--data", "a.png", "-o", "out"], "a.png is not training data"),
    (["train", "--data", "bad.tar", "-o", "out"], "nothing to train on in bad.tar"),
    (["train", "--data", "bad.mcap", "-o", "out"], "bad.mcap cannot be read"),
    (["train", "--data", "features", "--freeze", "image", "-o", "out"], "features.json"),
    (["train", "--data", "scenes:0", "-o", "out"], "nothing to train on in scenes:0"),
    (["train", "--data", "pairs", "--holdout", "2", "-o", "out"], "leaves nothing of 2 pairs"),
    (["train", "--data", "pairs", "--classes", "one.txt", "-o", "out"], "two or more classes"),
    (["train", "--data", "pairs", "--contract", "bad.yaml", "-o", "out"], "bad.yaml"),
    (["train", "--data", "pairs", "--model", "half", "-o", "out"], "model.safetensors is missing"),
    (["train", "--data", "pairs", "--model", DINO, "-o", "out"], "has no siglip that --objective"),
    (
        ["train", "--data", "pairs", "--objective", "dino", "--model", SIGLIP, "-o", "out"],
        "has no dinov2 that --objective dino",
    ),
    (["train", "--data", "pairs", "-o", "out", "--contract", "openvla-384"], "hidden_size"),
    (["train", "-o", "out", "--lr", "-1"], "lr is -1.0 and has to be above 0"),
    (["train", "-o", "out", "--recipe", "shared.yaml"], "--rendered DIR"),
    (["train", "-o", "out", "--recipe", "initial.yaml"], "no model folder 'nothing'"),
    (["train", "-o", "out", "--recipe", "shared.yaml", "--rendered", "folder"], "no rendered"),
    (["train", "--data", "folder", "-o", "out", "--batch", "1"], "--batch 1"),
    (["train", "--data", "scenes", "-o", "out", "--model", "none"], "no model folder 'none'"),
    (["train", "--data", "scenes", "-o", "out", "--classes", "none"], "no file none"),
    (["train", "-o", "out", "--recipe", "none.yaml"], "no file none.yaml"),
    (["train", "-o", "a.png"], "a.png is a file"),
    (["evaluate", "--coco", "none.json"], "no file or folder none.json"),
    (["evaluate", "--coco", "text.json"], "text.json is not JSON"),
    (["evaluate", "--coco", "empty.json"], "no category"),
    (["evaluate", "--probe", "folder"], "folder holds no features"),
    (["evaluate", "--probe", "features"], "features.json cannot be read"),
    (["evaluate", "--scenes", "0"], "--scenes"),
    (["evaluate", "--model", "none"], "no model folder 'none'"),
    (["evaluate", "--json", "none/x.json"], "There is no folder none"),
    (["evaluate", "--libero", "none"], "There is no folder none"),
    (["evaluate", "--libero", "folder"], "has no folder bddl_files"),
    (["evaluate", "--libero", "folder", "--coco", "folder"], "exclude each other"),
    (["evaluate", "--libero-python", "a.png"], "need --libero DIR"),
    (["calibrate"], "--coco"),
    (["calibrate", "--coco", "none.json"], "no file or folder none.json"),
    (["calibrate", "--coco", "folder"], "has to have one JSON of annotations in it, but has none"),
    (["calibrate", "--coco", "empty.json"], "no category"),
    (["export"], "--output"),
    (["export", "-o", "folder"], "folder exists already"),
    (["export", "-o", "out", "--model", "half"], "model.safetensors is missing"),
    (
        ["export", "--backend", "openvino", "--precision", "int8", "--calibrate", "folder"],
        "folder",
    ),
    (["export", "--backend", "openvino", "--precision", "int8", "--calibrate", "none"], "none"),
    (["export", "-o", "out", "--contract", "openvla-22"], "did you mean openvla-224?"),
    (["bench", "--backend", "torch fp23"], "did you mean torch fp32?"),
    (["bench", "--json", "none/x.json"], "There is no folder none"),
    (["bench", "--minutes", "-1"], "--minutes has to be a number"),
    (["bench", "--seconds", "-1"], "--seconds has to be a number from 0 to"),
    (["export", "-o", "out", "--least-cosine", "2"], "--least-cosine has to be a number from -1"),
    (["parity", "--model", "tabletop", "--contract", "openvla-224"], "choose another contract"),
    (["parity"], "--contract"),
    (["parity", "--contract", "tabletop", "--image", "bad.png"], "bad.png"),
    (["parity", "--contract", "tabletop", "--image", "none.png"], "no file none.png"),
    (["parity", "--contract", "tabletop", "--json", "none/x"], "There is no folder none"),
    (["experiment", "matrxi"], "did you mean matrix?"),
    (["experiment", "matrix", "--seed", "-1"], "--seed"),
    (["fetch", "openvla-22"], "did you mean openvla-224?"),
    (["robot", "--episodes", "0"], "--episodes has to be a whole number"),
    (["robot", "--threshold", "2"], "--threshold has to be a number from 0 to 1"),
    (["robot", "--out", "a.png"], "a.png is a file"),
    (["robot", "--instructions", "none.txt"], "There is no file none.txt"),
    (["robot", "--instructions", "a.png"], "a.png is not UTF-8 text"),
    (["robot", "--instruction", "sing"], "write, for example"),
    (["demo", "--rate", "0"], "--rate is 1 to 60"),
    (["demo", "--model", "none"], "no model folder 'none'"),
    (["phrases"], "has to be given"),
    (["features", "a.png"], "--output has to be given"),
    (["features", "none", "-o", "out"], "There is no none: name a bag"),
    (["features", "folder", "-o", "out"], "There is no frame in folder"),
    (["features", "bad.png", "-o", "out", "--contract", "openvla-224"], "choose another contract"),
    (["features", "bad.mcap", "-o", "out"], "bad.mcap cannot be read"),
    (["features", "a.png", "-o", "bare"], "bare holds other files"),
    (["features", "a.png", "-o", "out", "--cameras", "left"], "left"),
    (["features", "a.png", "-o", "a.png"], "a.png is a file"),
    (["features", "a.png", "-o", "out", "--model", "none"], "no model folder 'none'"),
    (["search", "none", "cup"], "no folder none"),
    (["search", "folder", "cup"], "folder holds no features"),
    (["search", "features", "cup"], "features.json cannot be read"),
    (["search", "folder"], "Say what to look for"),
    (["contracts", "openvla-22"], "did you mean openvla-224?"),
    (["contracts", "none.yaml"], "no contract file 'none.yaml'"),
    (["doctor", "--model", "none"], "no model folder 'none'"),
    (["fingerprint", "bad.tar", "-o", "out.json"], "bad.tar"),
    (["fingerprint", "scenes:0", "-o", "out.json"], "scenes:0"),
    (["experiment", "signals", "--model", "half"], "model.safetensors is missing"),
    (["robot", "--model", "half"], "model.safetensors is missing"),
    (["fingerprint", "folder", "-o", "out.json", "--pictures", "3"], "--pictures has to be"),
    (["fingerprint", "folder"], "--output has to be given"),
    (["pixels", "none.png", "--contract", "tabletop", "-o", "out.npz"], "none.png"),
]


def _write_inputs(folder: Path) -> None:
    """Write files and folders that are wrong, each in its own way, and a few that are not."""
    for name in ("folder", "bare", "features", "pairs", "half/siglip", "clip/siglip"):
        (folder / name).mkdir(parents=True)
    for name in ("a.png", "bare/a.png", "pairs/a.png", "pairs/b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    texts = {
        "text.json": "{",
        "empty.json": '{"images": [], "annotations": [], "categories": []}',
        "empty.csv": "",
        "gone.csv": "file_name,text\nnone.png,cup\n",
        "plain.csv": "a.png,cup\n",
        "x.parquet": "PAR1",
        "bad.tar": "no tar",
        "bad.mcap": "no bag",
        "bad.yaml": "name: x\n",
        "one.txt": "cup\n",
        "shared.yaml": "siglip: {steps: 1, rendered: 0.5}\ndinov2: {steps: 1}\n",
        "initial.yaml": "siglip: {steps: 1, initial: nothing}\ndinov2: {steps: 1}\n",
        "features/features.json": "{",
        "pairs/a.txt": "a cup",
        "pairs/b.txt": "a plate",
        "half/siglip/config.json": '{"model_type": "siglip"}',
        "clip/siglip/config.json": '{"model_type": "clip"}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    tabletop = contracts.path("tabletop").read_text()
    alone = re.sub(r"^  - name: dinov2\n(    .*\n)+", "", tabletop, flags=re.MULTILINE)
    (folder / "one.yaml").write_text(alone.replace("dim: 384", "dim: 192"))
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str, set[str]]]:
    """Outcome of each line of WRONG, by run_all(); nothing may be left behind."""
    folder = tmp_path_factory.mktemp("wrong")
    _write_inputs(folder)
    before = sorted(folder.rglob("*"))
    results = run_all(folder, [line for line, _ in WRONG])
    assert sorted(folder.rglob("*")) == before
    return results


@pytest.mark.parametrize(
    "number", range(len(WRONG)), ids=[" ".join(line).replace(str(MODELS), "") for line, _ in WRONG]
)
def test_what_is_wrong_is_one_sentence_told_before_pytorch_is_imported(
    number: int, refusals: list[tuple[int, str, str, set[str]]]
) -> None:
    line, words = WRONG[number]
    code, errors, output, loaded = refusals[number]
    assert code == 2, errors
    assert errors.startswith("siglip-perception: ")
    assert errors.count("\n") == 1, errors
    assert words in errors
    assert not output, line
    # Of a line that loads one, all later lines fail, too: mend the first.
    assert not loaded & HEAVY


def test_every_command_has_an_error_in_the_list() -> None:
    assert {line[0] for line, _ in WRONG} >= set(COMMANDS)


def test_help_of_every_command_loads_no_heavy_library(tmp_path: Path) -> None:
    lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    for line, (code, errors, output, loaded) in zip(lines, run_all(tmp_path, lines), strict=True):
        assert code == 0
        assert not errors, line
        assert output, line
        assert not loaded & HEAVY, (line, loaded & HEAVY)


def test_the_package_alone_loads_nothing(tmp_path: Path) -> None:
    code = "import sys, siglip_perception; print(' '.join(sys.modules))"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(process.stdout.split()) & (HEAVY | {"numpy", "cv2", "PIL", "yaml"})


def test_fetch_is_not_put_offline_by_its_own_package(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-m", "siglip_perception.commands.main", "fetch", "a/siglip", "-o", "x"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "check the network" in process.stderr


@pytest.mark.parametrize(
    ("sentence", "options"),
    [
        ("use device: cpu, or backend: torch.", "use --device cpu, or --backend torch."),
        ("use precision auto, fp32 or bf16.", "use --precision auto, fp32 or bf16."),
        ("with the parameter contract to", "with --contract to"),
        ("the parameter grounding.contract.", "--grounding-contract."),
        ("name a SigLIP in grounding.model.", "name a SigLIP in --grounding-model."),
        ("something else than a model: name", "something else than a model: name"),
        ("/data/grounding.model is no folder", "/data/grounding.model is no folder"),
    ],
)
def test_a_sentence_names_options_in_place_of_parameters(sentence: str, options: str) -> None:
    assert as_options(sentence) == options


@pytest.mark.parametrize(
    ("word", "name"),
    [("openvla-22", "openvla-224"), ("OpenVLA-224", "openvla-224"), ("tabletop2", "tabletop")],
)
def test_the_nearest_name_is_suggested(word: str, name: str) -> None:
    names = ("tabletop", "openvla-224", "openvla-224-letterbox", "pi0-224")
    assert closest(word, names) == name
    assert did_you_mean(word, names) == f" (did you mean {name}?)"


def test_nothing_is_suggested_for_a_word_like_none() -> None:
    assert closest("fly", ("tokens", "ground", "fetch")) == ""
    assert did_you_mean("fly", ()) == ""


@given(st.text(max_size=300))
def test_any_word_gets_a_name_of_the_list_or_none(word: str) -> None:
    names = ("tabletop", "openvla-224")
    assert closest(word, names) in ("", *names)


def test_a_gpu_is_refused_at_once_where_pytorch_is_for_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    for options, way_out in (
        (["--device", "cuda"], "use --device cpu."),
        (["--backend", "tensorrt"], "use --backend torch."),
    ):
        arguments = ["tokens", "a.png", "-o", str(tmp_path / "x.npz"), *options]
        assert main.main(arguments) == 2
        text = capsys.readouterr().err
        assert f"{options[0]} {options[1]} needs a CUDA GPU" in text
        assert "2.13.0+cpu, is for CPUs alone" in text
        assert way_out in text
