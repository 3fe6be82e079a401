"""Plan of a pipeline: which towers run, for which outputs, from which checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception import checkpoints, contracts
from siglip_perception.checkpoints import Checkpoint, Models
from siglip_perception.checkpoints.calibration_file import find_calibration
from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.checkpoints.match import choose_contract, why_no_objects
from siglip_perception.config import ModelSelection
from siglip_perception.contracts import Contract
from siglip_perception.encoders.encoders import Tower
from siglip_perception.errors import CheckpointError, ContractError
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.images.squares import SquareSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from siglip_perception.checkpoints.networks import Siglip


@dataclass(frozen=True)
class GroundingModel:
    """Everything but the features that the grounding needs.

    grid: patches in a row. patch: side of a patch in pixels of the resized image.
    folder: of the model. text_digest, grounding_digest: as in checkpoints.Models.
    bank: embeddings of the null bank by language, see load_bank(); the pipeline fills it in.
    """

    siglip: Siglip
    tokenizer: PreTrainedTokenizerBase
    resize: SquareSpec
    grid: int
    patch: int
    settings: GroundingSettings
    folder: Path
    text_digest: str
    grounding_digest: str
    bank: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelPlan:
    """Towers, the outputs that they serve, and the model that finds objects.

    towers: by key.
    token_towers: encoder of the contract -> key of its tower.
    grounding_towers: "siglip" and "dino" -> keys of what the grounding reads; empty without
        grounding.
    grounding_model: None if objects cannot be found.
    grounding_status: how objects are found, or why they cannot be.
    """

    folder: Path
    contract: Contract
    fingerprint: str
    towers: Mapping[str, Tower]
    token_towers: Mapping[str, str]
    grounding_towers: Mapping[str, str]
    grounding_model: GroundingModel | None
    grounding_status: str

    @classmethod
    def load(cls, selection: ModelSelection, taps: Mapping[str, int] | None = None) -> ModelPlan:
        """Load the tokens' model, and the grounding's own if one is named.

        taps: encoder -> block that its tokens are taken from, in place of the contract's.
        Raises CheckpointError or ContractError, each with one clear sentence.
        """
        folder = checkpoints.resolve(selection.model)
        checkpoint = Checkpoint(folder)
        token_contract = choose_contract(selection.contract, checkpoint)
        if taps:
            token_contract = contracts.with_taps(token_contract, taps, checkpoint.facts)
        models = checkpoint.load(token_contract)
        towers: dict[str, Tower] = {
            spec.name: _tower(models, token_contract, spec.name)
            for spec in token_contract.encoders
        }
        plan = cls(
            folder,
            token_contract,
            checkpoints.fingerprint(models, token_contract),
            towers,
            {spec.name: spec.name for spec in token_contract.encoders},
            {},
            None,
            "",
        )
        if selection.grounding_model:
            return plan._with_separate_model(
                selection.grounding_model, selection.grounding_contract
            )
        return plan._with_token_encoders(models, checkpoint)

    def _with_token_encoders(self, models: Models, checkpoint: Checkpoint) -> ModelPlan:
        """Plan grounding on the tokens' own encoders, in the same pass."""
        refusal = why_no_objects(self.contract, checkpoint)
        if refusal:
            return replace(self, grounding_status=refusal)
        dino, siglip = self.contract.spatial, self.contract.siglip
        assert dino is not None
        assert siglip is not None
        assert models.siglip is not None
        assert models.tokenizer is not None
        return replace(
            self,
            grounding_towers={"siglip": siglip.name, "dino": dino.name},
            grounding_model=_grounding_model(
                models.siglip, models.tokenizer, self.contract, models, self.folder
            ),
            grounding_status="in one pass with the tokens, on the same encoders",
        )

    def _with_separate_model(self, model: str, name: str) -> ModelPlan:
        """Plan grounding on a model of its own; a tower equal to one of the tokens' runs once."""
        checkpoint = Checkpoint(checkpoints.resolve(model))
        contract = choose_contract(name, checkpoint, parameter="grounding.contract")
        models = checkpoint.load(contract)
        siglip = contract.siglip
        if siglip is None or models.siglip is None or models.tokenizer is None:
            raise ContractError(
                f"The grounding's model {model} has no SigLIP with a text tower: name a whole"
                " SigLIP model in grounding.model."
            )
        if not models.aligned:
            raise ContractError(
                f"The grounding's model {model} is a policy's own, trained away from its text"
                " tower: name a stock SigLIP model in grounding.model."
            )
        towers, grounding_towers = dict(self.towers), {}
        for spec in contract.encoders:
            tower = _tower(models, contract, spec.name)
            output = "siglip" if spec.name == "siglip" else "dino"
            shared_key = next((key for key, t in self.towers.items() if _is_same(t, tower)), None)
            grounding_towers[output] = shared_key or f"grounding_{spec.name}"
            towers.setdefault(grounding_towers[output], tower)
        if "dino" not in grounding_towers:
            grounding_towers["dino"] = self._borrow_dino(contract, model)
        shared_keys = [key for key in grounding_towers.values() if key in self.towers]
        suffix = f", with the tokens' {' and '.join(sorted(shared_keys))}" if shared_keys else ""
        return replace(
            self,
            towers=towers,
            grounding_towers=grounding_towers,
            grounding_model=_grounding_model(
                models.siglip, models.tokenizer, contract, models, checkpoint.path
            ),
            grounding_status=f"on {model}, a model of its own ({contract.name}){suffix}",
        )

    def _borrow_dino(self, contract: Contract, model: str) -> str:
        """Return the key of the tokens' DINO, for a SigLIP that comes without one."""
        dino, siglip = self.contract.spatial, contract.siglip
        assert siglip is not None
        fits = dino is not None and dino.grid == siglip.grid
        if not fits or dino is None or self.contract.pixels != contract.pixels:
            raise ContractError(
                f"The grounding's model {model} has no DINO encoder, and the tokens have none of"
                f" its grid ({siglip.grid} patches in a row) and its pixels ({contract.name}):"
                " name a model with both in grounding.model."
            )
        return dino.name


def _tower(models: Models, contract: Contract, name: contracts.EncoderName) -> Tower:
    spec = contract.encoder(name)
    return Tower(models.vision[name], spec, EncoderInput.of(contract, spec), models.digests[name])


def _is_same(first: Tower, second: Tower) -> bool:
    return first.digest == second.digest and first.input == second.input


def _grounding_model(
    siglip: Siglip,
    tokenizer: PreTrainedTokenizerBase,
    contract: Contract,
    models: Models,
    folder: Path,
) -> GroundingModel:
    spec = contract.siglip
    assert spec is not None
    for name in ("logit_scale", "logit_bias"):
        if not bool(getattr(siglip, name).isfinite().all()):
            raise CheckpointError(
                f"{name} of SigLIP in {folder} is not a finite number: its training went wrong or"
                " the file is damaged, get a fresh copy."
            )
    return GroundingModel(
        siglip,
        tokenizer,
        SquareSpec.of(contract, spec),
        spec.grid,
        spec.patch,
        _settings(models, folder),
        folder,
        models.text_digest,
        models.grounding_digest,
    )


def _settings(models: Models, folder: Path) -> GroundingSettings:
    """The model's own settings, and the user's calibration in place of its one."""
    settings = GroundingSettings.from_mapping(models.grounding)
    measured = find_calibration(folder, models.grounding_digest)
    if measured is None:
        return settings
    lines = dict(measured.calibration)
    if settings.head_mlp == measured.head_mlp:
        # A language that the user did not measure keeps the model's own line.
        lines = {**settings.calibration, **lines}
    return replace(
        settings,
        calibration=lines,
        head_mlp=measured.head_mlp,
        measured_on=measured.measured_on,
    )
