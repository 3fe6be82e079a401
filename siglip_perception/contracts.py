"""The named token contracts: what a policy's projector expects of its vision encoders, as data.

To add a contract, add an entry to `_CONTRACTS`; no other code changes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from siglip_perception.errors import ContractError

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersConfig, SiglipConfig

EncoderName = Literal["dinov2", "siglip"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder of a contract: its input, and the block whose output is taken.

    mean, std: per RGB channel, of pixels scaled to [0, 1].
    dim: channels of a token. patch: side of a patch in pixels of the encoder's square.
    tap: index of the block, counted as Python does: -1 the last, -2 the second to last.
    norm: whether the encoder's final LayerNorm is applied to the tap.
    registers: register tokens that follow CLS and are dropped with it (SigLIP has neither).
    hidden_act: activation that the weights were trained with; "" takes the checkpoint's own.
    layers: blocks that the encoder has; 0 takes the checkpoint's own.
    """

    name: EncoderName
    mean: Triple
    std: Triple
    dim: int
    patch: int
    tap: int = -2
    norm: bool = False
    registers: int = 0
    hidden_act: str = ""
    layers: int = 0
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class Contract:
    """A token sequence, defined: row-major from the image's top left, [rows * cols, dim].

    image_size: side of the encoders' square input, in pixels.
    resize: "squash" scales width and height each by its own factor to fill the square.
    interpolation: "bicubic" is Pillow's, with antialias.
    encoders: in the order in which their channels are joined.
    source: where the contract was read.
    """

    name: str
    description: str
    source: str
    image_size: int
    rows: int
    cols: int
    encoders: tuple[EncoderSpec, ...]
    resize: Literal["squash"] = "squash"
    interpolation: Literal["bicubic"] = "bicubic"

    @property
    def dim(self) -> int:
        """Channels of one fused token."""
        return sum(encoder.dim for encoder in self.encoders)

    def encoder(self, name: EncoderName) -> EncoderSpec:
        """The encoder of that name; KeyError where the contract has none."""
        for encoder in self.encoders:
            if encoder.name == name:
                return encoder
        raise KeyError(name)

    def preprocessing(self) -> dict[str, Any]:
        """Every field that changes the tokens of an image; the name and the prose do not."""
        fields = asdict(self)
        for prose in ("name", "description", "source"):
            del fields[prose]
        return fields


_CONTRACTS: tuple[Contract, ...] = (
    Contract(
        name="tabletop",
        description="The embedded default: a small DINOv2 and SigLIP pair for tabletop scenes.",
        source="this project; laid out as openvla-224 is",
        image_size=216,
        rows=18,
        cols=18,
        encoders=(
            EncoderSpec("dinov2", IMAGENET_MEAN, IMAGENET_STD, dim=192, patch=12, registers=4),
            EncoderSpec("siglip", HALF, HALF, dim=192, patch=12),
        ),
    ),
    Contract(
        name="openvla-224",
        description="OpenVLA and Prismatic at 224 px: DINOv2-L/14 with registers, So400m/14.",
        source=(
            "openvla/openvla: prismatic/extern/hf/modeling_prismatic.py and"
            " processing_prismatic.py (tap, fusion, input order, mean and std);"
            " TRI-ML/prismatic-vlms: prismatic/models/backbones/vision/dinosiglip_vit.py"
            " (encoders, resize-naive); timm's model registry (exact GELU of so400m/14)"
        ),
        image_size=224,
        rows=16,
        cols=16,
        encoders=(
            EncoderSpec(
                "dinov2",
                IMAGENET_MEAN,
                IMAGENET_STD,
                dim=1024,
                patch=14,
                registers=4,
                hidden_act="gelu",
                layers=24,
            ),
            EncoderSpec("siglip", HALF, HALF, dim=1152, patch=14, hidden_act="gelu", layers=27),
        ),
    ),
)


def names() -> tuple[str, ...]:
    """The names of every known contract."""
    return tuple(contract.name for contract in _CONTRACTS)


def get(name: str) -> Contract:
    """The contract of that name; ContractError, naming the known ones, where there is none."""
    for contract in _CONTRACTS:
        if contract.name == name:
            return contract
    raise ContractError(f"There is no token contract {name!r}: use one of {', '.join(names())}.")


def check(contract: Contract, siglip: SiglipConfig, dinov2: Dinov2WithRegistersConfig) -> None:
    """Hold a checkpoint's two configurations against a contract.

    Raises ContractError, naming the first field that differs and both values.
    """
    vision: Any = siglip.vision_config
    wanted = contract.encoder("siglip")
    found = (
        ("vision_config.hidden_size", wanted.dim, vision.hidden_size),
        ("vision_config.patch_size", wanted.patch, vision.patch_size),
        # SigLIP's positions are not interpolated here, so its own size has to be the contract's.
        ("vision_config.image_size", contract.image_size, vision.image_size),
        ("vision_config.num_hidden_layers", wanted.layers, vision.num_hidden_layers),
        ("vision_config.hidden_act", wanted.hidden_act, vision.hidden_act),
        ("vision_config.layer_norm_eps", wanted.layer_norm_eps, vision.layer_norm_eps),
    )
    _compare(contract, "siglip", found)
    wanted = contract.encoder("dinov2")
    found = (
        ("hidden_size", wanted.dim, dinov2.hidden_size),
        ("patch_size", wanted.patch, dinov2.patch_size),
        ("num_register_tokens", wanted.registers, dinov2.num_register_tokens),
        ("num_hidden_layers", wanted.layers, dinov2.num_hidden_layers),
        ("hidden_act", wanted.hidden_act, dinov2.hidden_act),
        ("layer_norm_eps", wanted.layer_norm_eps, dinov2.layer_norm_eps),
    )
    _compare(contract, "dinov2", found)


def _compare(
    contract: Contract, encoder: EncoderName, fields: tuple[tuple[str, object, object], ...]
) -> None:
    for field, wanted, found in fields:
        if wanted in ("", 0) or wanted == found:
            continue
        mend = "choose another contract or another model"
        if field.endswith("hidden_act") and wanted == "gelu":
            # Stock SigLIP says gelu_pytorch_tanh; timm, which OpenVLA is built on, runs it exact.
            mend = (
                "the tokens of this contract are made with exact GELU, so for these weights, stock"
                f" or converted, write {wanted!r} there, or choose another contract"
            )
        raise ContractError(
            f"The checkpoint cannot keep the contract {contract.name}: {field} in"
            f" {encoder}/config.json is {found!r} and has to be {wanted!r}; {mend}."
        )
