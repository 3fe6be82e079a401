"""One small model for all tests of features, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import write_random_model

from siglip_perception.config import ModelSelection
from siglip_perception.pipeline import Pipeline, PipelineOptions


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random"
    write_random_model(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(model: Path) -> Pipeline:
    selection = ModelSelection(str(model), "tabletop", "torch", "cpu", "fp32")
    return Pipeline.load(selection, PipelineOptions(threshold=0.0))
