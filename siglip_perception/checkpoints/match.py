"""The contract that a checkpoint keeps."""

from __future__ import annotations

from dataclasses import replace

from siglip_perception import contracts
from siglip_perception.checkpoints import Checkpoint
from siglip_perception.checkpoints.identify import model_above
from siglip_perception.contracts import Contract
from siglip_perception.errors import ContractError


def choose_contract(name: str, checkpoint: Checkpoint, parameter: str = "contract") -> Contract:
    """Return kept_contract(), with the pixels of the checkpoint's own processor as it says."""
    return follow_processor(kept_contract(name, checkpoint, parameter), checkpoint)


def follow_processor(contract: Contract, checkpoint: Checkpoint) -> Contract:
    """Return the contract, normalizing as the checkpoint's own image processor where it says so.

    Raises ContractError if the processor would give the encoders other values than a contract that
    states its own. The log says where they differ otherwise.
    """
    _require_equal_values(contract, checkpoint)
    contract = contracts.with_own_normalization(contract, checkpoint.facts)
    checkpoint.log_contradictions(contract)
    return contract


def training_contract(name: str, checkpoint: Checkpoint) -> Contract:
    """Return the named contract, of which the checkpoint keeps all the encoders that both have.

    Training one encoder of a pair is possible. Raises ContractError as kept_contract() does.
    """
    contract = contracts.get(name)
    shared = tuple(spec for spec in contract.encoders if spec.name in checkpoint.facts)
    contracts.check(
        replace(contract, encoders=shared or contract.encoders),
        checkpoint.facts,
        checkpoint.policy,
    )
    _require_equal_values(contract, checkpoint)
    return contract


def kept_contract(name: str, checkpoint: Checkpoint, parameter: str = "contract") -> Contract:
    """Return the named contract, or the one that the checkpoint satisfies and that uses all of it.

    A contract that the caller or the manifest names wins over the resize of the checkpoint's own
    image processor, but must not give the encoders other values: another scale, mean, std or order
    of the channels. A contract that nobody named must not differ gravely in anything. Raises
    ContractError if the checkpoint does not satisfy it, or if none or several would do.
    """
    if name:
        contract = contracts.get(name)
        contracts.check(contract, checkpoint.facts, checkpoint.policy)
        _require_equal_values(contract, checkpoint)
        return contract
    if (
        checkpoint.contract
    ):  # before all are parsed, which takes a third of a small model's loading
        return kept_contract(checkpoint.contract, checkpoint)
    compatible = [
        contract
        for contract in map(contracts.get, contracts.names())
        if len(contract.encoders) == len(checkpoint.facts)
        and not contracts.difference(contract, checkpoint.facts, checkpoint.policy)
    ]
    agreeing = [
        contract for contract in compatible if not _grave_contradiction(contract, checkpoint)
    ]
    if len(agreeing) == 1:
        return agreeing[0]
    if compatible and not agreeing:
        follow = (
            f"name {compatible[0].name} with the parameter {parameter} to follow the contract, "
            if not _grave_contradiction(compatible[0], checkpoint, values_only=True)
            else f"give a contract file with `normalization: checkpoint` in {parameter}, "
        )
        raise ContractError(
            f"{_grave_contradiction(compatible[0], checkpoint)}: {follow}name another one, or"
            " correct the file."
        )
    if agreeing:
        raise ContractError(
            f"{checkpoint.path} keeps several contracts"
            f" ({', '.join(contract.name for contract in agreeing)}): name the one that the policy"
            f" was trained with by the parameter {parameter}."
        )
    parent_model = model_above(checkpoint.path)
    if parent_model is not None:
        raise ContractError(
            f"{checkpoint.path} is one encoder of the model {parent_model} and keeps no contract"
            " by itself: give that folder."
        )
    nearest = _nearest(checkpoint)
    if nearest is not None:
        raise ContractError(
            f"The checkpoint {checkpoint.path} keeps none of the known contracts; it is nearest to"
            f" {nearest.name}, but"
            f" {contracts.difference(nearest, checkpoint.facts, checkpoint.policy)}."
        )
    raise ContractError(
        f"The checkpoint {checkpoint.path} keeps none of the known contracts"
        f" ({', '.join(contracts.names())}): name one with the parameter {parameter} to see"
        " which field differs."
    )


def _nearest(checkpoint: Checkpoint) -> Contract | None:
    """The contract of the same encoders that the fewest fields contradict; None without one."""
    alike = [
        contract
        for contract in map(contracts.get, contracts.names())
        if {spec.name for spec in contract.encoders} == set(checkpoint.facts)
    ]
    return min(
        alike,
        key=lambda contract: len(
            list(contracts.differences(contract, checkpoint.facts, checkpoint.policy))
        ),
        default=None,
    )


def _require_equal_values(contract: Contract, checkpoint: Checkpoint) -> None:
    contradiction = _grave_contradiction(contract, checkpoint, values_only=True)
    if contradiction:
        raise ContractError(
            f"{contradiction}: correct the file, or give a contract file with `normalization:"
            " checkpoint` to follow it (docs/contracts.md)."
        )


def why_no_objects(contract: Contract, checkpoint: Checkpoint) -> str:
    """Say why a model cannot find objects on its tokens' own encoders; empty if it can."""
    missing_part = "SigLIP" if contract.siglip is None else ""
    missing_part = missing_part or ("DINO encoder" if contract.spatial is None else "")
    if missing_part:
        return (
            f"The contract {contract.name} has no {missing_part}, so no objects can be found with"
            " it: name a SigLIP and DINO model in grounding.model."
        )
    if not checkpoint.is_aligned:
        return (
            f"SigLIP in {checkpoint.path} has no text tower that it is still aligned with, so no"
            " objects can be found with it: name a stock SigLIP model in grounding.model."
        )
    return ""


def _grave_contradiction(
    contract: Contract, checkpoint: Checkpoint, *, values_only: bool = False
) -> str:
    """Describe the first grave difference of an image processor from the contract; or empty."""
    for file, differences in contracts.contradictions(contract, checkpoint.facts).items():
        grave = [
            difference.text
            for difference in differences
            if difference.grave and (difference.values or not values_only)
        ]
        if grave:
            return (
                f"{checkpoint.path / file} contradicts {contract.name}, the contract that the"
                f" weights keep, in {'; '.join(grave)}"
            )
    return ""
