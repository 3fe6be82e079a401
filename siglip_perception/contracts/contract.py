"""The fields of a token contract."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from siglip_perception.contracts.steps import (
    SQUASH,
    Crops,
    Fill,
    Interpolation,
    Resize,
    Steps,
    TokenSteps,
    is_free,
    named_fields,
    strategy_of,
    token_grid,
    token_width,
)

EncoderName = Literal["dinov2", "dinov3", "siglip"]
"""Family of an encoder; also the name of its folder in a model folder."""
Triple = tuple[float, float, float]

ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
NORMALIZATIONS = ("contract", "checkpoint")
HISTORY_STARTS = ("repeat", "mean")
SPATIAL: tuple[EncoderName, ...] = ("dinov2", "dinov3")


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder of a contract: its input, and the block whose output becomes tokens.

    image_size: side of the square input, pixels. patch: side of a patch, pixels; the rest of the
        square after the last whole patch is ignored (384 px in patches of 14).
    dim: channels of a token.
    mean, std: per RGB channel, of pixels scaled to [0, 1].
    normalization: "contract": by mean and std as they are here; "checkpoint": by those of the
        checkpoint's own image processor, and by these only where it has none.
    fill: color of a padding step that names none, RGB in [0, 255].
    tap: index of the block, from the end: -1 the last, -2 the second to last.
    more_taps: further blocks, joined to the first on the channels in this order.
    norm: apply the encoder's final LayerNorm to the tap.
    registers: register tokens after CLS, dropped with it (SigLIP has neither).
    layers, heads, hidden_act, layer_norm_eps: the transformer's; 0 or "" takes the checkpoint's
        value. Weights without a configuration (timm's, a policy's) need all of them.
    weights: repository of the stock weights. timm: timm's name of the architecture.
    """

    name: EncoderName
    image_size: int
    patch: int
    dim: int
    mean: Triple
    std: Triple
    tap: int
    norm: bool
    more_taps: tuple[int, ...] = ()
    normalization: str = "contract"
    fill: Fill = (0, 0, 0)
    registers: int = 0
    layers: int = 0
    heads: int = 0
    hidden_act: str = ""
    layer_norm_eps: float = 1e-6
    weights: str = ""
    timm: str = ""

    @property
    def taps(self) -> tuple[int, ...]:
        """All tapped blocks, in the order of their channels."""
        return (self.tap, *self.more_taps)

    @property
    def channels(self) -> int:
        """Channels that the encoder gives to a token."""
        return self.dim * len(self.taps)

    @property
    def grid(self) -> int:
        """Patches per row, and rows of patches."""
        return self.image_size // self.patch

    @property
    def prefix(self) -> int:
        """Tokens before the patches: CLS and the registers."""
        return 0 if self.name == "siglip" else 1 + self.registers


@dataclass(frozen=True)
class Contract:
    """Definition of a token sequence: [rows * cols, dim], row-major from the image's top left.

    encoders: in the order in which their channels are joined; all have the same grid.
    pixels: steps that turn the camera's image into each encoder's square, in their order.
    crops: crops of the image that are encoded after it, their tokens behind its; None: the whole
        image alone.
    tokens: steps from the tapped patches to the tokens, in their order.
    join_cameras: join the cameras' sequences on the token axis, in their order.
    history: frames of each camera that a sequence holds, the oldest first; 1: the newest alone.
    history_start: what stands for the frames before the first one: "repeat", the first itself;
        "mean", an image of the encoder's mean color.
    policy: repository of the policy's own checkpoint, if its weights are not the stock ones.
    source: the code that the contract was read from.
    """

    name: str
    description: str
    source: str
    encoders: tuple[EncoderSpec, ...]
    pixels: Steps = SQUASH
    crops: Crops | None = None
    tokens: TokenSteps = ()
    join_cameras: bool = False
    history: int = 1
    history_start: str = "repeat"
    policy: str = ""

    @property
    def image_size(self) -> int:
        """Side of the first encoder's square, in pixels."""
        return self.encoders[0].image_size

    @property
    def strategy(self) -> tuple[Resize, Interpolation] | None:
        """Named strategy and filter that the steps are; None for any other list of steps."""
        return strategy_of(self.pixels)

    @property
    def has_free_grid(self) -> bool:
        """True if each image has the rows and columns that its size asks for (NaFlex)."""
        return is_free(self.pixels)

    @property
    def rows(self) -> int:
        """Rows of tokens, of the whole image and of each crop; 0 with a free grid."""
        if self.has_free_grid:
            return 0
        return token_grid(self.tokens, self.encoders[0].grid)

    @property
    def cols(self) -> int:
        """Tokens of a row."""
        return self.rows

    @property
    def dim(self) -> int:
        """Channels of one fused token."""
        channels = sum(encoder.channels for encoder in self.encoders)
        return channels * token_width(self.tokens)

    @property
    def spatial(self) -> EncoderSpec | None:
        """The DINO encoder, which tells where things are; None if the contract has none."""
        return next((spec for spec in self.encoders if spec.name in SPATIAL), None)

    @property
    def siglip(self) -> EncoderSpec | None:
        """The SigLIP encoder, which tells what they are; None if the contract has none."""
        return next((spec for spec in self.encoders if spec.name == "siglip"), None)

    @property
    def channels(self) -> dict[EncoderName, slice]:
        """Each encoder's channels of a token: tokens[:, channels["siglip"]] are SigLIP's.

        Before a shuffle, which repeats them once for each patch that it joins.
        """
        channels, start = {}, 0
        for encoder in self.encoders:
            channels[encoder.name] = slice(start, start + encoder.channels)
            start += encoder.channels
        return channels

    def encoder(self, name: EncoderName) -> EncoderSpec:
        """Return the encoder of that name; KeyError if the contract has none."""
        for encoder in self.encoders:
            if encoder.name == name:
                return encoder
        raise KeyError(name)

    def preprocessing(self) -> dict[str, Any]:
        """Collect the fields that change the tokens of an image; names and prose do not.

        A named strategy is written by its name, as it was before contracts listed steps, so that
        the fingerprints that policies know stay as they are.
        """
        fields = asdict(self)
        for prose in ("name", "description", "source", "policy"):
            del fields[prose]
        for encoder in fields["encoders"]:
            del encoder["weights"], encoder["timm"], encoder["normalization"]
            if not encoder["more_taps"]:
                del encoder["more_taps"]
        if self.crops is None:
            del fields["crops"]
        if self.history == 1:
            del fields["history"], fields["history_start"]
        if self.tokens:
            fields["tokens"] = [named_fields(step) for step in self.tokens]
        else:
            del fields["tokens"]
        if self.strategy:
            del fields["pixels"]
            fields["resize"], fields["interpolation"] = self.strategy
        else:
            fields["pixels"] = [named_fields(step) for step in self.pixels]
        return fields
