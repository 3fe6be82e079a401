"""What a token contract states, field by field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

EncoderName = Literal["dinov2", "dinov3", "siglip"]
"""The family; also the name of the folder that holds the encoder in a model folder."""
Resize = Literal["squash", "letterbox", "resize-pad", "resize-crop"]
Interpolation = Literal["bicubic", "bilinear"]
Triple = tuple[float, float, float]
Fill = tuple[int, int, int]

ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
RESIZES: tuple[Resize, ...] = get_args(Resize)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
SPATIAL: tuple[EncoderName, ...] = ("dinov2", "dinov3")


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder of a contract: its input, and the block whose output is taken.

    image_size: side of the square input in pixels. patch: side of a patch in those pixels; what
        is left of the square past the last whole patch is not looked at (384 px in patches of 14).
    dim: channels of a token.
    mean, std: per RGB channel, of pixels scaled to [0, 1].
    fill: RGB in [0, 255] of what `letterbox` and `resize-pad` add.
    tap: index of the block, counted as Python does: -1 the last, -2 the second to last.
    norm: whether the encoder's final LayerNorm is applied to the tap.
    registers: register tokens that follow CLS and are dropped with it (SigLIP has neither).
    layers, heads, hidden_act, layer_norm_eps: of the transformer; 0 or "" takes the checkpoint's
        own. Files without a configuration of their own (timm's, a policy's) need them all.
    weights: the repository of the stock weights. timm: timm's name of the same architecture.
    """

    name: EncoderName
    image_size: int
    patch: int
    dim: int
    mean: Triple
    std: Triple
    tap: int
    norm: bool
    fill: Fill = (0, 0, 0)
    registers: int = 0
    layers: int = 0
    heads: int = 0
    hidden_act: str = ""
    layer_norm_eps: float = 1e-6
    weights: str = ""
    timm: str = ""

    @property
    def grid(self) -> int:
        """Patches in a row, and rows of patches."""
        return self.image_size // self.patch

    @property
    def prefix(self) -> int:
        """Tokens before the patches: CLS and the registers."""
        return 0 if self.name == "siglip" else 1 + self.registers


@dataclass(frozen=True)
class Contract:
    """A token sequence, defined: row-major from the image's top left, [rows * cols, dim].

    encoders: in the order in which their channels are joined; all have the same grid.
    resize: how the camera's image becomes the square.
        "squash" scales width and height each by its own factor;
        "letterbox" pads the shorter side, then scales (Prismatic);
        "resize-pad" scales, then pads the shorter side (openpi);
        "resize-crop" scales the shorter side to the square and cuts off the rest.
    interpolation: Pillow's filter of that name, with antialias.
    join_cameras: the cameras' sequences are one, joined on the token axis in their order.
    policy: repository of the policy's own checkpoint, where its weights are not the stock ones.
    source: where the contract was read.
    """

    name: str
    description: str
    source: str
    encoders: tuple[EncoderSpec, ...]
    resize: Resize = "squash"
    interpolation: Interpolation = "bicubic"
    join_cameras: bool = False
    policy: str = ""

    @property
    def image_size(self) -> int:
        """Side of the first encoder's square, in pixels."""
        return self.encoders[0].image_size

    @property
    def rows(self) -> int:
        return self.encoders[0].grid

    @property
    def cols(self) -> int:
        return self.encoders[0].grid

    @property
    def dim(self) -> int:
        """Channels of one fused token."""
        return sum(encoder.dim for encoder in self.encoders)

    @property
    def spatial(self) -> EncoderSpec | None:
        """The DINO encoder, which says where things are; None where the contract has none."""
        return next((spec for spec in self.encoders if spec.name in SPATIAL), None)

    @property
    def siglip(self) -> EncoderSpec | None:
        """The SigLIP encoder, which says what they are; None where the contract has none."""
        return next((spec for spec in self.encoders if spec.name == "siglip"), None)

    @property
    def channels(self) -> dict[EncoderName, slice]:
        """Each encoder's channels of a token: tokens[:, channels["siglip"]] are SigLIP's."""
        channels, start = {}, 0
        for encoder in self.encoders:
            channels[encoder.name] = slice(start, start + encoder.dim)
            start += encoder.dim
        return channels

    def encoder(self, name: EncoderName) -> EncoderSpec:
        """The encoder of that name; KeyError where the contract has none."""
        for encoder in self.encoders:
            if encoder.name == name:
                return encoder
        raise KeyError(name)

    def preprocessing(self) -> dict[str, Any]:
        """Every field that changes the tokens of an image; names of files and prose do not."""
        fields = asdict(self)
        for prose in ("name", "description", "source", "policy"):
            del fields[prose]
        for encoder in fields["encoders"]:
            del encoder["weights"], encoder["timm"]
        return fields
