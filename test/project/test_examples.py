"""The examples run, on what the commands write."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from siglip_perception import contracts
from siglip_perception.commands import main
from siglip_perception.types import Box

ROOT = Path(__file__).parents[2]
DIM = contracts.get("tabletop").dim


def test_tokens_go_through_an_openvla_style_projector(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.npz"
    assert main.main(["tokens", str(ROOT / "docs/images/demo.jpg"), "-o", str(tokens)]) == 0
    torch.manual_seed(0)
    state = {
        "projector.fc1.weight": torch.randn(4 * DIM, DIM) / 18,
        "projector.fc1.bias": torch.zeros(4 * DIM),
        "projector.fc2.weight": torch.randn(64, 4 * DIM) / 36,
        "projector.fc2.bias": torch.zeros(64),
        "projector.fc3.weight": torch.randn(64, 64) / 8,
        "projector.fc3.bias": torch.zeros(64),
    }
    save_file(state, tmp_path / "model-00001-of-00001.safetensors")
    index = ", ".join(f'"{name}": "model-00001-of-00001.safetensors"' for name in state)
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{index}}}}}')
    command = [sys.executable, str(ROOT / "examples/openvla_projector.py")]
    command += ["--npz", str(tokens), "--checkpoint", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().startswith("tabletop: [")
    assert process.stdout.strip().endswith(", 64]")


def run_cell(source: str, names: dict[str, Any]) -> tuple[str, object]:
    """Return a notebook cell's output and the value of its last expression."""
    cell = ast.parse(source)
    last = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(cell, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue(), value


def test_the_notebook_runs_and_shows_what_it_has_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    notebook = json.loads((ROOT / "examples/perception.ipynb").read_text())
    assert len(notebook["cells"]) == 10
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed, value = run_cell("".join(cell["source"]), names)
        stored = {
            kind for output in cell["outputs"] for kind in output.get("data", {"stdout": ""})
        }
        shown = {"stdout"} if printed else set()
        for kind, method in (("image/jpeg", "_repr_jpeg_"), ("image/png", "_repr_png_")):
            if kind in stored:
                assert getattr(value, method)()
                shown |= {kind, "text/plain"}
        assert shown == stored
    assert [item.phrase for item in names["seen"].objects] == ["red cup", "orange plate"]
    assert names["cup"].sum() > 10_000
    assert names["listed"].presence["green apple"] < 0.5 < names["listed"].presence["파란 자동차"]
    assert list(names["views"]) == ["front", "wrist"]
    cosines = names["vectors"] @ names["vectors"].T
    np.testing.assert_array_less(cosines[2, :2], cosines[0, 1])


def test_the_readmes_first_python_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    section = (ROOT / "README.md").read_text().partition("\n## From Python\n")[2]
    names: dict[str, Any] = {}
    run_cell(section.partition("```python\n")[2].partition("```")[0], names)
    (cup,) = names["seen"].objects
    assert cup.phrase == "red cup"
    assert cup.box.iou(Box(57, 78, 161, 161)) > 0.9
