"""Checking a checkpoint against a contract: the first field that differs, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from siglip_perception.contracts.contract import Contract, EncoderName, EncoderSpec
from siglip_perception.contracts.pixels import PixelDifference, PixelFacts, pixel_differences
from siglip_perception.contracts.steps import Resize
from siglip_perception.errors import ContractError

# Prismatic's names (openvla/openvla: prismatic/extern/hf/configuration_prismatic.py).
STRATEGIES: Mapping[str, Resize] = {
    "resize-naive": "squash",
    "letterbox": "letterbox",
    "resize-crop": "resize-crop",
}
_STRATEGY = {resize: strategy for strategy, resize in STRATEGIES.items()}
# Fields that a contract may omit; the checkpoint's value then holds.
_OPTIONAL = frozenset({"num_hidden_layers", "num_attention_heads", "hidden_act"})


@dataclass(frozen=True)
class EncoderFacts:
    """Facts about one encoder of a checkpoint; None if its files do not tell.

    where: the file that they come from, for errors. prefix: prefix of the field names in it.
    positions: patches per row that it has positions for; None for rotary positions, which fit
        any grid.
    pixels: settings of its own image processor; None without one.
    has_free_grid: it is a NaFlex, whose positions are resampled to each image's grid.
    """

    where: str
    hidden_size: int
    patch_size: int
    num_hidden_layers: int
    num_register_tokens: int
    positions: int | None
    num_attention_heads: int | None = None
    hidden_act: str | None = None
    layer_norm_eps: float | None = None
    prefix: str = ""
    pixels: PixelFacts | None = None
    has_free_grid: bool = False


@dataclass(frozen=True)
class InputFacts:
    """Facts about a policy's input, from its configuration; None if it does not tell.

    strategy: its image_resize_strategy, one of STRATEGIES.
    """

    where: str
    image_size: int | None = None
    strategy: str | None = None


def check(
    contract: Contract,
    facts: Mapping[EncoderName, EncoderFacts],
    policy: InputFacts | None = None,
) -> None:
    """Check a checkpoint against a contract.

    Raises ContractError, naming the first field that differs and both values.
    """
    mismatch = difference(contract, facts, policy)
    if mismatch:
        raise ContractError(
            f"The checkpoint cannot keep the contract {contract.name}: {mismatch}."
        )


def difference(
    contract: Contract,
    facts: Mapping[EncoderName, EncoderFacts],
    policy: InputFacts | None = None,
) -> str:
    """Describe the first field that differs, and what to do; empty if none does."""
    return next(differences(contract, facts, policy), "")


def differences(
    contract: Contract,
    facts: Mapping[EncoderName, EncoderFacts],
    policy: InputFacts | None = None,
) -> Iterator[str]:
    """Yield a description of each field that differs; a missing encoder alone."""
    for spec in contract.encoders:
        if spec.name not in facts:
            encoders = ", ".join(sorted(facts)) or "none"
            yield f"it has no encoder {spec.name} (it has: {encoders}); choose another contract"
            return
    for spec in contract.encoders:
        if facts[spec.name].has_free_grid != contract.has_free_grid:
            grids = ("one grid", "a grid that changes with the image (NaFlex)")
            yield (
                f"{spec.name} in {facts[spec.name].where} has"
                f" {grids[facts[spec.name].has_free_grid]} and must have"
                f" {grids[contract.has_free_grid]}; choose another contract or another model"
            )
            return
    if policy is not None:
        policy_fields: list[tuple[str, object, object]] = [
            ("image_sizes", contract.encoders[0].image_size, policy.image_size)
        ]
        if contract.strategy:  # other steps end at the square before the policy's own processor
            resize = _STRATEGY.get(contract.strategy[0], "none")
            policy_fields.append(("image_resize_strategy", resize, policy.strategy))
        for field, value, actual in policy_fields:
            if actual is not None and actual != value:
                yield _sentence(field, policy.where, actual, value)
    for spec in contract.encoders:
        for field, value, actual in _fields(spec, facts[spec.name]):
            any_value = field in _OPTIONAL and not value
            if not any_value and actual is not None and actual != value:
                yield _sentence(
                    f"{facts[spec.name].prefix}{field}", facts[spec.name].where, actual, value
                )


def with_taps(
    contract: Contract, taps: Mapping[str, int], facts: Mapping[EncoderName, EncoderFacts]
) -> Contract:
    """The contract with other blocks tapped, and a name that says so.

    taps: encoder -> block, counted as Python does: -1 the last; what is not named stays.
    facts: what the checkpoint says of its encoders.
    Raises ContractError, one sentence, for an encoder or a block that there is not.
    """
    names = [spec.name for spec in contract.encoders]
    for name, tap in taps.items():
        if name not in names:
            raise ContractError(
                f"The contract {contract.name} has no encoder {name!r} to tap: it has"
                f" {' and '.join(names)}."
            )
        blocks = facts[contract.encoder(name).name].num_hidden_layers
        if not isinstance(tap, int) or isinstance(tap, bool) or not -blocks <= tap <= -1:
            raise ContractError(
                f"The tap of {name} is {tap!r}: it must be -1, the last block, to {-blocks},"
                " the first."
            )
    changed = [spec for spec in contract.encoders if (taps.get(spec.name, spec.tap),) != spec.taps]
    changed = [spec for spec in changed if spec.name in taps]
    if not changed:
        return contract
    return replace(
        contract,
        name=contract.name + "".join(f"+{spec.name}{taps[spec.name]}" for spec in changed),
        encoders=tuple(
            replace(spec, tap=taps[spec.name], more_taps=()) if spec.name in taps else spec
            for spec in contract.encoders
        ),
    )


def with_own_normalization(
    contract: Contract, facts: Mapping[EncoderName, EncoderFacts]
) -> Contract:
    """Return the contract with the checkpoint's mean and std where it says `checkpoint`.

    An encoder whose checkpoint has no image processor keeps the contract's. Raises ContractError
    if the processor lacks one of them.
    """
    specs = []
    for spec in contract.encoders:
        pixels = facts[spec.name].pixels if spec.name in facts else None
        if spec.normalization == "checkpoint" and pixels is not None:
            if pixels.mean is None or pixels.std is None:
                key = "image_mean" if pixels.mean is None else "image_std"
                raise ContractError(
                    f"{key} is missing in {pixels.where}, and the contract {contract.name}"
                    f" normalizes {spec.name} by the checkpoint's own: add it, or remove the file"
                    " to normalize by the contract's."
                )
            spec = replace(spec, mean=pixels.mean, std=pixels.std)
        specs.append(spec)
    return replace(contract, encoders=tuple(specs))


def contradictions(
    contract: Contract, facts: Mapping[EncoderName, EncoderFacts]
) -> dict[str, tuple[PixelDifference, ...]]:
    """Map each file of the checkpoint's image processors to its differences from the contract.

    The caller refuses the checkpoint, or logs which of the two it follows.
    """
    by_file: dict[str, tuple[PixelDifference, ...]] = {}
    for spec in contract.encoders:
        pixels = facts[spec.name].pixels if spec.name in facts else None
        if pixels is not None:
            differences = pixel_differences(contract, spec, pixels)
            if differences:
                # A policy's encoders share one file.
                by_file[pixels.where] = (*by_file.get(pixels.where, ()), *differences)
    return by_file


def _fields(spec: EncoderSpec, facts: EncoderFacts) -> Iterator[tuple[str, object, object]]:
    yield "hidden_size", spec.dim, facts.hidden_size
    yield "patch_size", spec.patch, facts.patch_size
    if spec.name == "siglip" and facts.positions is not None:
        # SigLIP's positions are not interpolated, so its grid must be the contract's.
        yield "image_size", spec.image_size, _size(spec, facts.positions)
    else:
        yield "num_register_tokens", spec.registers, facts.num_register_tokens
    yield "num_hidden_layers", spec.layers, facts.num_hidden_layers
    yield "num_attention_heads", spec.heads, facts.num_attention_heads
    yield "hidden_act", spec.hidden_act, facts.hidden_act
    yield "layer_norm_eps", spec.layer_norm_eps, facts.layer_norm_eps


def _size(spec: EncoderSpec, positions: int) -> int:
    """Compute the image size that fits that many positions per row."""
    return spec.image_size if positions == spec.grid else positions * spec.patch


def _sentence(field: str, where: str, actual: object, expected: object) -> str:
    advice = "choose another contract or another model"
    if field.endswith("hidden_act") and expected == "gelu":
        # Stock SigLIP says gelu_pytorch_tanh, but OpenVLA builds on timm: exact GELU.
        advice = (
            "the tokens of this contract are made with exact GELU, so for these weights, stock"
            f" or converted, write {expected!r} there, or choose another contract"
        )
    return f"{field} in {where} is {actual!r} and must be {expected!r}; {advice}"
