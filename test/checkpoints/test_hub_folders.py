"""Configurations as they are on the Hub, changed in a thousand ways: right tokens, or a refusal
that names the key."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from config_mutations import Mutation, mutations
from hub_folders import LAYOUTS, HubFolder, eagle2, openvla, siglip, tap
from safetensors.torch import save_file

from siglip_perception import contracts
from siglip_perception.checkpoints import Checkpoint, Models
from siglip_perception.contracts import Contract
from siglip_perception.errors import PerceptionError

# Of the Hub's forms only these are refused as they are.
UNSUPPORTED = ("naflex",)
SAMPLE = 4


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda make: make.__name__)
def hub_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HubFolder, Path]:
    make: Callable[[], HubFolder] = request.param
    layout = make()
    folder = tmp_path_factory.mktemp(layout.name)
    layout.write(folder)
    return layout, folder


def silent_contract(contract: Contract) -> Contract:
    """The contract with all left out that a checkpoint may tell."""
    return replace(
        contract,
        encoders=tuple(
            replace(spec, layers=0, heads=0, hidden_act="") for spec in contract.encoders
        ),
    )


class Loader:
    """Loads a changed folder as the pipeline does; weights once per config.json and contract."""

    def __init__(self, layout: HubFolder, folder: Path) -> None:
        self._layout, self._folder = layout, folder
        self._models: dict[str, Models] = {}

    def error(self, mutation: Mutation, contract: Contract) -> float | str:
        """Largest difference of a token, or the refusal."""
        for name in self._layout.files:
            (self._folder / name).unlink(missing_ok=True)
        self._layout.write_json(self._folder, mutation.files)
        try:
            checkpoint = Checkpoint(self._folder)
            contracts.check(contract, checkpoint.facts, checkpoint.policy)
            checkpoint.log_contradictions(contract)
            key = f"{mutation.files['config.json']} {contract}"
            if key not in self._models:
                self._models[key] = checkpoint.load(contract)
            vision = self._models[key].vision
            return max(
                float((tap(encoder) - self._layout.tokens[name]).abs().max())
                for name, encoder in vision.items()
            )
        except PerceptionError as error:
            return str(error)


def check(layout: HubFolder, mutation: Mutation, outcome: float | str) -> None:
    if isinstance(outcome, str):
        assert outcome.endswith("."), mutation.name
        assert "\n" not in outcome, mutation.name
        assert mutation.key in outcome or layout.name in UNSUPPORTED, f"{mutation.name}: {outcome}"
    elif mutation.keeps:
        assert outcome < 1e-5, f"{mutation.name}: other tokens, silently"


def run(layout: HubFolder, folder: Path, changes: list[Mutation]) -> int:
    loader = Loader(layout, folder)
    for mutation in changes:
        stated = loader.error(mutation, layout.contract)
        check(layout, mutation, stated)
        # A contract that states all is kept or refused, whatever a file says.
        assert isinstance(stated, str) or stated < 1e-5, mutation.name
        if ":vision_config" in mutation.name or layout.name.startswith("dinov2"):
            check(layout, mutation, loader.error(mutation, silent_contract(layout.contract)))
    return len(changes)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("siglip_perception")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def test_a_published_folder_gives_transformers_own_tokens(
    hub_folder: tuple[HubFolder, Path],
) -> None:
    layout, folder = hub_folder
    if layout.name in UNSUPPORTED:
        with pytest.raises(PerceptionError, match="NaFlex"):
            Checkpoint(folder)
        return
    unchanged = Mutation(layout.name, "", True, layout.files)
    assert Loader(layout, folder).error(unchanged, layout.contract) == 0.0


def test_a_sample_of_changes_is_right_or_refused_by_name(
    hub_folder: tuple[HubFolder, Path],
) -> None:
    """Four a layout, about 50; the slow test has them all."""
    layout, folder = hub_folder
    changes = list(mutations(layout))
    assert run(layout, folder, random.Random(7).sample(changes, SAMPLE)) == SAMPLE


@pytest.mark.slow
def test_every_change_is_right_or_refused_by_name(hub_folder: tuple[HubFolder, Path]) -> None:
    layout, folder = hub_folder
    assert run(layout, folder, list(mutations(layout))) > 80


def test_there_are_over_a_thousand_changes() -> None:
    assert sum(len(list(mutations(make()))) for make in LAYOUTS) > 1000


@pytest.mark.parametrize("make", [siglip, openvla, eagle2])
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float64, 1e-5), (torch.float16, 0.05), (torch.bfloat16, 0.5)],
    ids=["float64", "float16", "bfloat16"],
)
def test_weights_of_another_dtype_give_the_tokens_of_their_values(
    make: Callable[[], HubFolder], dtype: torch.dtype, limit: float, tmp_path: Path
) -> None:
    layout = make()
    layout.write(tmp_path)
    for name, tensors in layout.weights.items():
        save_file({key: value.to(dtype) for key, value in tensors.items()}, tmp_path / name)
    vision = Checkpoint(tmp_path).load(layout.contract).vision
    assert set(vision) == set(layout.tokens)
    for name, encoder in vision.items():
        reference = layout.tokens[name]
        difference = tap(encoder) - reference
        assert difference.square().mean().sqrt() < limit * reference.square().mean().sqrt()
