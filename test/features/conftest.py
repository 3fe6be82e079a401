"""One small model for all tests of features, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import write_random_model

from siglip_perception.pipeline import Pipeline, PipelineOptions


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random"
    write_random_model(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(model: Path) -> Pipeline:
    options = PipelineOptions(
        str(model), "tabletop", backend="torch", device="cpu", precision="fp32", threshold=0.0
    )
    return Pipeline.load(options)
