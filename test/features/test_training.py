"""Training from stored features: the contrastive trainer and the linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import corpora
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from siglip_perception.commands.main import main
from siglip_perception.config import ModelSelection
from siglip_perception.features.request import Request
from siglip_perception.features.run import Run, look
from siglip_perception.pipeline import Pipeline

COUNT = 6


def write_features(
    source: Path, folder: Path, pipeline: Pipeline, outputs: Any = ("pooled",)
) -> Path:
    wish = Request((str(source),), folder, ModelSelection("random", "tabletop"), outputs, "bf16")
    Run(wish, *look(wish), pipeline).encode(lambda *step: None)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(COUNT)]
    captions = [f"the cup number {number}" for number in range(COUNT)]
    return corpora.write_folder(tmp_path_factory.mktemp("data") / "pictures", noise, captions)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, pictures: Path, pipeline: Pipeline) -> Path:
    return write_features(pictures, tmp_path_factory.mktemp("stored") / "out", pipeline)


def train(data: object, output: Path, model: Path, *more: str) -> int:
    arguments = ["train", "--data", str(data), "-o", str(output), "--model", str(model)]
    settings = ["--contract", "tabletop", "--steps", "2", "--batch", "3", "--holdout", "0"]
    return main([*arguments, *settings, "--workers", "0", "--fp32", "--lr", "1e-3", *more])


@pytest.mark.numeric
def test_a_frozen_tower_trains_on_its_stored_vectors_as_on_the_pictures(
    tmp_path: Path, pictures: Path, stored: Path, model: Path
) -> None:
    assert train(pictures, tmp_path / "on_pictures", model, "--freeze", "image") == 0
    assert train(stored, tmp_path / "on_vectors", model, "--freeze", "image") == 0
    weights = [
        load_file(tmp_path / name / "siglip" / "model.safetensors")
        for name in ("on_pictures", "on_vectors")
    ]
    before = load_file(model / "siglip" / "model.safetensors")
    moved = 0.0
    for name, value in weights[0].items():
        assert torch.allclose(value.float(), weights[1][name].float(), atol=1e-3), name
        change = float((value.float() - before[name].float()).abs().max())
        moved = max(moved, change)
        if name.startswith("vision_model"):
            assert change == 0, name
    assert moved > 1e-3


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "the image tower cannot learn: add --freeze image"),
        (("--freeze", "image", "--objective", "dino"), "--objective dino needs pictures"),
    ],
)
def test_what_vectors_cannot_train_is_told(
    tmp_path: Path,
    stored: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    sentence: str,
) -> None:
    assert train(stored, tmp_path / "out", model, *more) == 2
    assert sentence in capsys.readouterr().err


def test_vectors_of_another_model_are_refused(
    tmp_path: Path, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from models import write_random_model

    write_random_model(tmp_path / "other", seed=1)
    assert train(stored, tmp_path / "out", tmp_path / "other", "--freeze", "image") == 2
    assert "are of another SigLIP" in capsys.readouterr().err


def test_a_probe_reads_classes_off_the_vectors_of_other_episodes(
    tmp_path: Path, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark and light pictures: what any features tell apart."""
    for episode in range(6):
        level = 20 if episode < 3 else 200
        frames = [
            np.full((32, 48, 3), level + 3 * episode + number, np.uint8) for number in range(2)
        ]
        text = "a dark table" if episode < 3 else "밝은 탁자"
        corpora.write_folder(tmp_path / "data" / str(episode), frames, [text] * 2)
    stored = write_features(tmp_path / "data", tmp_path / "out", pipeline, ("tokens", "pooled"))
    assert main(["evaluate", "--probe", str(stored)]) == 0
    out = capsys.readouterr().out
    assert "2 classes, 8 frames to fit, 4 of other episodes to test" in out
    assert out.count("100.0%") == 3, out
    classes = tmp_path / "classes.txt"
    classes.write_text("dark\n밝은\n")
    assert main(["evaluate", "--probe", str(stored), "--classes", str(classes)]) == 0
    classes.write_text("cup\nbowl\n")
    assert main(["evaluate", "--probe", str(stored), "--classes", str(classes)]) == 2
    assert "allows no probe: 0 episodes have one of 2 classes" in capsys.readouterr().err
