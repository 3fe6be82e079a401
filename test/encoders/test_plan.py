"""Choice of a checkpoint's contract, and of the encoders for the objects."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from models import write_random_model
from torch import nn

from siglip_perception import checkpoints, contracts
from siglip_perception.checkpoints import Checkpoint
from siglip_perception.checkpoints.match import choose_contract
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import BackendError, CheckpointError, ContractError
from siglip_perception.language.instruction import from_phrases
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Frame, Task

TABLETOP = contracts.get("tabletop")
IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    write_random_model(folder)
    return folder


@pytest.fixture
def folder(stock: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stock, tmp_path / "model"))


def only(name: str, folder: Path) -> str:
    """The packaged contract tabletop with one of its encoders alone."""
    content = yaml.safe_load(contracts.path("tabletop").read_text())
    content["encoders"] = [e for e in content["encoders"] if e["name"] == name]
    del content["dim"]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def test_the_contract_that_a_checkpoint_keeps_is_found(stock: Path) -> None:
    assert choose_contract("", Checkpoint(stock)).name == "tabletop"


def test_a_manifest_names_the_contract_that_was_fetched(folder: Path) -> None:
    checkpoints.write_manifest(folder, contract="openvla-224")
    with pytest.raises(ContractError, match="cannot keep the contract openvla-224"):
        choose_contract("", Checkpoint(folder))


def test_a_checkpoint_that_keeps_several_or_none_asks_for_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy_folder = tmp_path / "twin.yaml"
    text = contracts.path("tabletop").read_text().replace("squash", "letterbox")
    copy_folder.write_text(text.replace("name: tabletop", "name: twin"))
    known_names = {"tabletop": contracts.get("tabletop"), "twin": contracts.get(str(copy_folder))}
    monkeypatch.setattr(contracts, "names", lambda: tuple(known_names))
    monkeypatch.setattr(contracts, "get", known_names.__getitem__)
    with pytest.raises(ContractError, match=r"several contracts \(tabletop, twin\): name the"):
        choose_contract("", Checkpoint(folder))
    shutil.rmtree(folder / "dinov2")
    (folder / "manifest.json").unlink()
    with pytest.raises(ContractError, match="keeps none of the known contracts"):
        choose_contract("", Checkpoint(folder))


def test_one_pass_serves_tokens_and_objects(stock: Path) -> None:
    plan = ModelPlan.load(ModelSelection(str(stock)))
    assert set(plan.towers) == {"dinov2", "siglip"}
    assert plan.grounding_towers == {"siglip": "siglip", "dino": "dinov2"}
    assert "one pass" in plan.grounding_status


@pytest.mark.parametrize("name", ["dinov2", "siglip"])
def test_a_contract_of_one_encoder_cannot_ground_and_says_what_to_do(
    stock: Path, tmp_path: Path, name: str
) -> None:
    pipeline = Pipeline.load(ModelSelection(str(stock), contract=only(name, tmp_path)))
    result = pipeline.process(Frame(IMAGE), None)
    assert result.tokens is not None
    assert result.tokens.data.shape == (TABLETOP.rows**2, TABLETOP.dim // 2)
    with pytest.raises(BackendError, match=r"name a SigLIP and DINO model in grounding\.model"):
        pipeline.query(from_phrases(["cup"]))


def test_a_grounding_model_of_its_own_shares_what_is_the_same(stock: Path, folder: Path) -> None:
    """The policy's SigLIP was trained on, its DINOv2 was not: three towers run, not four."""
    from safetensors.torch import load_file, save_file

    weights = folder / "siglip" / "model.safetensors"
    tensors = load_file(weights)
    tensors["vision_model.post_layernorm.bias"] += 1
    save_file(tensors, weights)
    (folder / "manifest.json").unlink()
    plan = ModelPlan.load(ModelSelection(str(folder), grounding_model=str(stock)))
    assert set(plan.towers) == {"dinov2", "siglip", "grounding_siglip"}
    assert plan.grounding_towers == {"siglip": "grounding_siglip", "dino": "dinov2"}
    assert "a model of its own (tabletop), with the tokens' dinov2" in plan.grounding_status

    selection = ModelSelection(str(folder), grounding_model=str(stock))
    pipeline = Pipeline.load(selection, PipelineOptions(threshold=0.0))
    query = pipeline.query(from_phrases(["cup"]))
    own_model, tokens = _grounding(pipeline, query), _tokens(pipeline)
    alone = Pipeline.load(ModelSelection(str(stock)), PipelineOptions(threshold=0.0))
    assert own_model == _grounding(alone, alone.query(from_phrases(["cup"])))
    fused_pipeline = Pipeline.load(ModelSelection(str(folder)))
    np.testing.assert_allclose(tokens, _tokens(fused_pipeline), atol=1e-5)

    encoders = pipeline._encoders.run
    assert isinstance(encoders, Encoders)
    towers = encoders.towers
    with _counting(towers["grounding_siglip"].blocks, towers["siglip"].blocks) as ran:
        pipeline.process_batch([Task(Frame(IMAGE))])
        assert ran == [0, 1]  # nobody listens to objects: the grounding's own model rests
        pipeline.process_batch([Task(Frame(IMAGE), query)])
        assert ran == [2, 2]


def _grounding(pipeline: Pipeline, query: object) -> tuple[object, ...]:
    actual = pipeline.process(Frame(IMAGE), query, with_tokens=False).grounding  # type: ignore[arg-type]
    assert actual is not None
    return actual.presence, tuple((o.box, round(o.score, 4)) for o in actual.objects)


def _tokens(pipeline: Pipeline) -> np.ndarray:
    grid = pipeline.process(Frame(IMAGE), None).tokens
    assert grid is not None
    return np.asarray(grid.data)


class _counting:  # noqa: N801 - used as a function
    """Count the blocks of each kind that run."""

    def __init__(self, *kinds: nn.Module) -> None:
        self.ran = [0] * len(kinds)
        self.kinds = kinds

    def __enter__(self) -> list[int]:
        def count_blocks(kind: int) -> object:
            def hook(*_: object) -> None:
                self.ran[kind] += 1

            return hook

        self.handles = [
            block.register_forward_hook(count_blocks(kind))  # type: ignore[arg-type]
            for kind, blocks in enumerate(self.kinds)
            for block in blocks.children()
        ]
        return self.ran

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def test_a_grounding_siglip_without_dino_borrows_the_tokens_own(
    stock: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.rmtree(folder / "dinov2")
    (folder / "manifest.json").unlink()
    siglip = only("siglip", tmp_path)
    plan = ModelPlan.load(
        ModelSelection(str(stock), grounding_model=str(folder), grounding_contract=siglip)
    )
    assert plan.grounding_towers["dino"] == "dinov2"
    with pytest.raises(ContractError, match="has no DINO encoder, and the tokens have none"):
        ModelPlan.load(
            ModelSelection(
                str(stock), siglip, grounding_model=str(folder), grounding_contract=siglip
            )
        )


def test_a_grounding_model_without_language_is_refused(
    stock: Path, folder: Path, tmp_path: Path
) -> None:
    dinov2 = only("dinov2", tmp_path)
    with pytest.raises(ContractError, match="has no SigLIP with a text tower"):
        ModelPlan.load(
            ModelSelection(str(stock), grounding_model=str(stock), grounding_contract=dinov2)
        )
    with pytest.raises(CheckpointError, match="There is no model folder"):
        ModelPlan.load(ModelSelection(str(stock), grounding_model=str(folder / "nothing")))


def test_a_batch_gives_what_its_frames_give_alone(stock: Path) -> None:
    pipeline = Pipeline.load(ModelSelection(str(stock)), PipelineOptions(threshold=0.0))
    query = pipeline.query(from_phrases(["cup"]))
    frames = [Frame(IMAGE), Frame(IMAGE[:60, :150].copy()), Frame(IMAGE[::-1].copy())]
    tasks = [Task(frames[0], query), Task(frames[1]), Task(frames[2], query, with_mask=True)]
    together = pipeline.process_batch(tasks)
    for task, result in zip(tasks, together, strict=True):
        alone = pipeline.process(task.frame, task.query, with_mask=task.with_mask)
        assert not isinstance(result, FloatingPointError)
        assert result.tokens is not None
        assert alone.tokens is not None
        np.testing.assert_allclose(result.tokens.data, alone.tokens.data, atol=1e-4)
        assert (result.grounding is None) == (alone.grounding is None)
        if result.grounding is not None and alone.grounding is not None:
            assert result.grounding.presence == pytest.approx(alone.grounding.presence, abs=1e-5)
            assert len(result.grounding.objects) == len(alone.grounding.objects)
    assert torch.is_tensor(query.embeddings)
