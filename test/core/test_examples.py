"""The examples run, on what the commands write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from siglip_perception import contracts
from siglip_perception.commands import main

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
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("tabletop: [")
    assert done.stdout.strip().endswith(", 64]")
