"""A contract whose grid is the image's: SigLIP 2 NaFlex, as GR00T N1.6 has it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siglip_perception import contracts
from siglip_perception.checkpoints import Checkpoint
from siglip_perception.checkpoints.match import choose_contract
from siglip_perception.config import ModelSelection
from siglip_perception.errors import BackendError, CheckpointError, ContractError
from siglip_perception.images.squares import SquareSpec, to_square
from siglip_perception.parity.random_weights import write_random
from siglip_perception.parity.reference import reference_tokens
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame, Task

SMALL = {"dim: 4608": "dim: 128", "dim: 1152": "dim: 32", "layers: 27": "layers: 2"}


@pytest.fixture(scope="module")
def contract_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = contracts.path("gr00t-n1.6").read_text()
    for old, new in {**SMALL, "heads: 16": "heads: 2"}.items():
        text = text.replace(old, new)
    file = tmp_path_factory.mktemp("contract") / "small.yaml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def model(contract_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("naflex")
    write_random(contracts.get(str(contract_file)), folder, 0)
    return folder


def image(width: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.numeric
def test_each_image_has_the_grid_that_its_size_asks_for(contract_file: Path, model: Path) -> None:
    """Beside transformers' own NaFlex and PyTorch's pixel_unshuffle."""
    selection = ModelSelection(
        str(model), contract=str(contract_file), device="cpu", precision="fp32"
    )
    pipeline = Pipeline.load(selection)
    images = [image(640, 480), image(97, 133)]
    results = pipeline.process_batch([Task(Frame(each)) for each in images])
    for each, result, grid in zip(images, results, [(9, 12), (13, 9)], strict=True):
        assert not isinstance(result, FloatingPointError)
        tokens = result.tokens
        assert tokens is not None
        assert (tokens.rows, tokens.cols, tokens.dim) == (*grid, 128)
        (expected,) = reference_tokens(pipeline.contract, model, [each])
        error = np.abs(tokens.data - expected.numpy()).max()
        assert error < 1e-4 * float(expected.square().mean().sqrt())
    sliver = pipeline.process(Frame(image(2000, 10)), None).tokens
    assert sliver is not None
    assert sliver.rows * sliver.cols == len(sliver.data)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (640, 480, (336, 252)),
        (1920, 1080, (448, 252)),
        (56, 56, (252, 252)),
        (480, 640, (252, 336)),
    ],
)
def test_sizes_are_those_of_smart_resize(width: int, height: int, size: tuple[int, int]) -> None:
    contract = contracts.get("gr00t-n1.6")
    square = SquareSpec.of(contract, contract.encoders[0])
    assert square.result_size(width, height) == size
    assert to_square(image(width, height), square).shape == (size[1], size[0], 3)


def test_what_cannot_be_is_refused_in_one_sentence(
    contract_file: Path, model: Path, tmp_path: Path
) -> None:
    selection = ModelSelection(
        str(model), contract=str(contract_file), backend="openvino", device="cpu"
    )
    with pytest.raises(BackendError, match="changes with the image: use the backend torch"):
        Pipeline.load(selection)
    with pytest.raises(ContractError, match=r"a grid that changes with the image \(NaFlex\) and"):
        choose_contract("pi0-224", Checkpoint(model))
    for name, value in (("multiple: 28", "multiple: 30"), ("dim: 128", "history: 2")):
        file = tmp_path / "bad.yaml"
        file.write_text(contract_file.read_text().replace(name, value))
        with pytest.raises(ContractError, match=r"a multiple of 28 pixels|history: 1 where"):
            contracts.get(str(file))
    (tmp_path / "model.safetensors").symlink_to(model / "model.safetensors")
    config = {"model_type": "eagle_3_vl", "vision_config": {"use_rope": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"use_rope in .* is True: only false is"):
        Checkpoint(tmp_path)
