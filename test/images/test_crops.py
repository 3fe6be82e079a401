"""Crops of an image that a contract encodes after the whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siglip_perception import contracts
from siglip_perception.config import ModelSelection
from siglip_perception.contracts.steps import tiling
from siglip_perception.errors import ContractError
from siglip_perception.images.crops import CropPlan
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame, Task


@pytest.fixture(scope="module")
def contract_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's 18 x 18 patches of 12 px, with windows of 12 x 12 between margins."""
    text = contracts.path("tabletop").read_text()
    file = tmp_path_factory.mktemp("contract") / "crops.yaml"
    file.write_text(f"{text}crops: {{most: 4, margin: 3}}\n")
    return file


def test_the_grid_that_enlarges_least_is_chosen() -> None:
    assert tiling(90, 90, 100, 8) == (1, 1)
    assert tiling(150, 90, 100, 8) == (1, 2)
    assert tiling(90, 210, 100, 8) == (3, 1)
    # Every grid shrinks it: the one that shrinks it least, of equal ones that of fewer crops.
    assert tiling(2000, 1000, 100, 8) == (2, 4)
    assert tiling(5000, 5000, 100, 8) == (2, 2)
    assert tiling(-5, 0, 100, 8) == (1, 1)


def test_crops_overlap_by_two_margins_and_are_read_row_by_row(contract_file: Path) -> None:
    plan = CropPlan.of(contracts.get(str(contract_file)))
    assert plan is not None
    side, window = 216, 216 - 2 * 3 * 12
    height, width = 72 + window, 72 + 2 * window  # fits one row of two exactly
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole, first, second = plan.views(image)
    assert whole is image
    assert (first == image[:, :side]).all()
    assert (second == image[:, window : window + side]).all()
    assert plan.count(image) == 3
    sliver = np.zeros((2, 100, 3), np.uint8)
    assert len(plan.views(sliver)) == plan.count(sliver) == 1


def test_tokens_of_crops_follow_those_of_the_image(contract_file: Path) -> None:
    pipeline = Pipeline.load(
        ModelSelection(contract=str(contract_file), backend="torch", precision="fp32")
    )
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((216, 360), (100, 90))]
    plan = CropPlan.of(pipeline.contract)
    assert plan is not None
    both = pipeline.process_batch([Task(Frame(image)) for image in images])
    for image, result in zip(images, both, strict=True):
        assert not isinstance(result, FloatingPointError)
        tokens, views = result.tokens, plan.views(image)
        assert tokens is not None
        assert (tokens.rows, len(tokens.data)) == (18 * len(views), 324 * len(views))
        assert len(tokens.pixel_fingerprint) == 19
        for number, view in enumerate(views):
            alone = pipeline.process(Frame(view), None).tokens
            assert alone is not None
            part = tokens.data[324 * number : 324 * (number + 1)]
            assert np.allclose(part, alone.data[:324], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("crops: {most: 4, margin: 9}", "margin to be less than half of the 18 patches"),
        ("crops: {most: 0, margin: 1}", "crops.most to be a whole number from 1 to 64"),
        ("crops: {mots: 4, margin: 1}", r"crops\.'mots' is none \(did you mean most"),
        ("crops: {most: 4, margin: 1}\nhistory: 2", "history: 1 where there are crops"),
    ],
)
def test_crops_that_cannot_be_are_refused(tmp_path: Path, change: str, says: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"{contracts.path('tabletop').read_text()}{change}\n")
    with pytest.raises(ContractError, match=says):
        contracts.get(str(file))
