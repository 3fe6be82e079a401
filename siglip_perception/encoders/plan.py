"""What a pipeline runs: which towers, for which outputs, out of which checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from siglip_perception import checkpoints, contracts
from siglip_perception.checkpoints import Checkpoint, Models
from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.checkpoints.identify import model_above
from siglip_perception.contracts import Contract
from siglip_perception.encoders.encoders import Tower
from siglip_perception.errors import ContractError
from siglip_perception.images.preprocess import EncoderInput, ResizeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, SiglipModel


@dataclass(frozen=True)
class GroundingModel:
    """What the grounding needs beside the features: its language, its square, its numbers.

    grid: patches in a row. patch: their side in pixels of the square.
    """

    siglip: SiglipModel
    tokenizer: PreTrainedTokenizerBase
    square: ResizeSpec
    grid: int
    patch: int
    settings: GroundingSettings


@dataclass(frozen=True)
class Plan:
    """towers: by key. tokens: encoder of the contract -> its tower's key. grounding: "siglip" and
    "dino" -> the keys of what the grounding reads, empty without one.

    sight: None where objects cannot be found. says: how they are found, or why they cannot be.
    """

    folder: Path
    contract: Contract
    fingerprint: str
    towers: Mapping[str, Tower]
    tokens: Mapping[str, str]
    grounding: Mapping[str, str]
    sight: GroundingModel | None
    says: str

    @classmethod
    def make(
        cls,
        model: str,
        contract: str,
        own_model: str,
        own_contract: str,
        taps: Mapping[str, int] | None = None,
    ) -> Plan:
        """Load the tokens' model, and the grounding's own where one is named.

        taps: encoder -> block that its tokens are taken from, in place of the contract's.
        Raises CheckpointError or ContractError, each with one clear sentence.
        """
        folder = checkpoints.resolve(model)
        checkpoint = Checkpoint(folder)
        kept = choose(contract, checkpoint)
        if taps:
            kept = contracts.with_taps(kept, taps, checkpoint.facts)
        models = checkpoint.load(kept)
        towers: dict[str, Tower] = {
            spec.name: _tower(models, kept, spec.name) for spec in kept.encoders
        }
        plan = cls(
            folder,
            kept,
            checkpoints.fingerprint(models, kept),
            towers,
            {spec.name: spec.name for spec in kept.encoders},
            {},
            None,
            "",
        )
        if own_model:
            return plan._with_own(own_model, own_contract)
        return plan._with_shared(models)

    def _with_shared(self, models: Models) -> Plan:
        """Grounding on the tokens' own encoders, in the same pass."""
        dino, siglip = self.contract.spatial, self.contract.siglip
        missing = "SigLIP" if siglip is None else "DINO encoder" if dino is None else ""
        if missing or dino is None or siglip is None:
            return replace(
                self,
                says=f"The contract {self.contract.name} has no {missing}, so no objects can be"
                " found with it: name a SigLIP and DINO model in grounding.model.",
            )
        if not models.aligned or models.siglip is None or models.tokenizer is None:
            return replace(
                self,
                says=f"SigLIP in {self.folder} has no text tower that it is still aligned with, so"
                " no objects can be found with it: name a stock SigLIP model in grounding.model.",
            )
        return replace(
            self,
            grounding={"siglip": siglip.name, "dino": dino.name},
            sight=_sight(models.siglip, models.tokenizer, self.contract, models),
            says="in one pass with the tokens, on the same encoders",
        )

    def _with_own(self, model: str, name: str) -> Plan:
        """Grounding on a model of its own; a tower that is the tokens' own too runs once."""
        checkpoint = Checkpoint(checkpoints.resolve(model))
        contract = choose(name, checkpoint, parameter="grounding.contract")
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
        towers, keys = dict(self.towers), {}
        for spec in contract.encoders:
            tower = _tower(models, contract, spec.name)
            part = "siglip" if spec.name == "siglip" else "dino"
            twin = next((k for k, t in self.towers.items() if _same(t, tower)), None)
            keys[part] = twin or f"grounding_{spec.name}"
            towers.setdefault(keys[part], tower)
        if "dino" not in keys:
            keys["dino"] = self._borrowed(contract, model)
        shared = [key for key in keys.values() if key in self.towers]
        beside = f", with the tokens' {' and '.join(sorted(shared))}" if shared else ""
        return replace(
            self,
            towers=towers,
            grounding=keys,
            sight=_sight(models.siglip, models.tokenizer, contract, models),
            says=f"on {model}, a model of its own ({contract.name}){beside}",
        )

    def _borrowed(self, contract: Contract, model: str) -> str:
        """The tokens' DINO, which says where for a SigLIP that comes without one."""
        dino, siglip = self.contract.spatial, contract.siglip
        assert siglip is not None
        fits = dino is not None and dino.grid == siglip.grid
        if not fits or dino is None or self.contract.resize != contract.resize:
            raise ContractError(
                f"The grounding's model {model} has no DINO encoder, and the tokens have none of"
                f" its grid ({siglip.grid} patches in a row, {contract.resize}): name a model with"
                " both in grounding.model."
            )
        return dino.name


def choose(name: str, checkpoint: Checkpoint, parameter: str = "contract") -> Contract:
    """The named contract, or the one that the checkpoint keeps and that uses all it holds.

    A contract that the caller or the manifest names is followed where the checkpoint's own image
    processor differs, and the log says in what. One that nobody named must not differ gravely.
    Raises ContractError where it is not kept, or where none or several would do.
    """
    if name:
        contract = contracts.get(name)
        contracts.check(contract, checkpoint.facts, checkpoint.policy)
        checkpoint.log_contradictions(contract)
        return contract
    kept = [
        contract
        for contract in map(contracts.get, contracts.names())
        if len(contract.encoders) == len(checkpoint.facts)
        and not contracts.difference(contract, checkpoint.facts, checkpoint.policy)
    ]
    if checkpoint.contract:
        return choose(checkpoint.contract, checkpoint)
    agreeing = [contract for contract in kept if not _grave(contract, checkpoint)]
    if len(agreeing) == 1:
        checkpoint.log_contradictions(agreeing[0])
        return agreeing[0]
    if kept and not agreeing:
        raise ContractError(
            f"{_grave(kept[0], checkpoint)}: name {kept[0].name} with the parameter {parameter} to"
            " follow the contract, name another one, or correct the file."
        )
    if kept:
        raise ContractError(
            f"{checkpoint.path} keeps several contracts"
            f" ({', '.join(contract.name for contract in kept)}): name the one that is meant with"
            f" the parameter {parameter}."
        )
    above = model_above(checkpoint.path)
    if above is not None:
        raise ContractError(
            f"{checkpoint.path} is one encoder of the model {above} and keeps no contract by"
            " itself: give that folder."
        )
    raise ContractError(
        f"The checkpoint {checkpoint.path} keeps none of the known contracts"
        f" ({', '.join(contracts.names())}): name one with the parameter {parameter} to see"
        " which field differs."
    )


def _grave(contract: Contract, checkpoint: Checkpoint) -> str:
    """Which image processor of the checkpoint differs gravely from the contract, and in what."""
    for where, differences in contracts.contradictions(contract, checkpoint.facts).items():
        grave = [difference.text for difference in differences if difference.grave]
        if grave:
            return (
                f"{checkpoint.path / where} contradicts {contract.name}, the contract that the"
                f" weights keep, in {'; '.join(grave)}"
            )
    return ""


def _tower(models: Models, contract: Contract, name: contracts.EncoderName) -> Tower:
    spec = contract.encoder(name)
    return Tower(models.vision[name], spec, EncoderInput.of(contract, spec), models.digests[name])


def _same(one: Tower, other: Tower) -> bool:
    return one.digest == other.digest and one.fed == other.fed


def _sight(
    siglip: SiglipModel, tokenizer: PreTrainedTokenizerBase, contract: Contract, models: Models
) -> GroundingModel:
    spec = contract.siglip
    assert spec is not None
    settings = GroundingSettings.from_mapping(models.grounding)
    return GroundingModel(
        siglip, tokenizer, ResizeSpec.of(contract, spec), spec.grid, spec.patch, settings
    )
