"""The values that flow through the pipeline; shapes, dtypes, units and ranges are stated here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

Point3 = tuple[float, float, float]
NOWHERE: Point3 = (math.nan, math.nan, math.nan)

BackendName = Literal["torch", "openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TokenDtype = Literal["float32", "float16", "bfloat16"]


class Role(IntEnum):
    """What the instruction wants of an object; the values are those of GroundedObject.msg."""

    UNKNOWN = 0
    TARGET = 1
    PLACE = 2


def stronger(first: Role, second: Role) -> Role:
    """Of two roles of one thing the one that counts: TARGET, then PLACE."""
    known = {first, second} - {Role.UNKNOWN}
    return Role.TARGET if Role.TARGET in known else next(iter(known), Role.UNKNOWN)


class Where(str, Enum):
    """How an object lies to others or, without any, which of its kind it is: the leftmost."""

    LEFT = "left"
    RIGHT = "right"
    ABOVE = "above"
    BELOW = "below"
    FRONT = "front"
    BEHIND = "behind"
    ON = "on"
    IN = "in"
    NEAR = "near"
    FAR = "far"
    BETWEEN = "between"
    MIDDLE = "middle"
    LARGEST = "largest"
    SMALLEST = "smallest"


class Link(str, Enum):
    """How an action leads to a phrase, or how what a phrase tells apart lies to it."""

    ON = "on"
    IN = "in"
    UNDER = "under"
    ABOVE = "above"
    LEFT_OF = "left of"
    RIGHT_OF = "right of"
    IN_FRONT_OF = "in front of"
    BEHIND = "behind"
    NEXT_TO = "next to"
    NEAR = "near"
    BETWEEN = "between"
    AROUND = "around"
    AGAINST = "against"
    FAR_FROM = "far from"
    FROM = "from"
    TO = "to"
    WITH = "with"


@dataclass(frozen=True)
class Relation:
    """What tells one object from others of its phrase.

    landmarks: indices of the mentions that it lies left of, behind, between; none: of all the
        phrase's objects the leftmost, the nearest to the camera and so on.
    rank: 1 the leftmost, 2 the second from the left.
    """

    where: Where
    landmarks: tuple[int, ...] = ()
    rank: int = 1


@dataclass(frozen=True)
class Mention:
    """One place of an instruction that names a phrase, or stands for one that was named ("it").

    phrase: index of the phrase. relations: they choose among its objects; none: all are meant.
    many: relations choose every object that keeps them, not the best one ("the left cups").
    step: number of the action that it belongs to, from 1. link: how the action leads to it ("left
    of", "from", "with"), or how the mention `of` lies to it; None: it is acted on, or nothing is
    said. of: index of the mention that goes there or is told apart by it; None: no other.
    which: which of several, in a word ("left", "largest", "last", "all"); empty: nothing is said.
    rank: 2 is the second, counted from `which` where that is given; 0: nothing is said.
    confidence: in [0, 1]; below 0.5 it is a guess, as the grammar does not cover the words.
    """

    phrase: int
    role: Role = Role.UNKNOWN
    relations: tuple[Relation, ...] = ()
    many: bool = False
    step: int = 1
    link: Link | None = None
    of: int | None = None
    which: str = ""
    rank: int = 0
    confidence: float = 1.0


@dataclass(frozen=True)
class Depth:
    """A registered depth image and its lens.

    meters: float32 [height, width], NaN where nothing is known. fx, fy, cx, cy: pixels.
    """

    meters: FloatArray
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Frame:
    """One camera image.

    image: uint8 [height, width, 3], RGB, C-contiguous, values in [0, 255].
    stamp_ns: time of capture in nanoseconds since the epoch (or since sim time's zero).
    frame_id: the camera's optical frame, copied from the message's header.
    camera: name out of the parameter `cameras`; empty where there is only one.
    depth: gives the depth of this image, None where there is none; asked for once the objects are
        known, so that a depth image that comes after its color image is still of use.
    repairs: names of the faults of its file that were mended, such as "jpeg_repaired".
    """

    image: UInt8Array
    stamp_ns: int = 0
    frame_id: str = ""
    camera: str = ""
    depth: Callable[[], Depth | None] | None = None
    repairs: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        return int(self.image.shape[1])


@dataclass(frozen=True)
class Task:
    """One frame of a batch.

    query: what to look for in it, of Pipeline.query(); None: its objects are not asked for.
    """

    frame: Frame
    query: Any | None = None
    with_mask: bool = False


@dataclass(frozen=True)
class TokenGrid:
    """The fused token sequence of one frame, in the order that the contract states.

    data: [rows * cols, dim], row-major over the image from the top left; float32 or float16, or
        uint16 holding bfloat16 bit patterns (numpy has no bfloat16). `dtype` says which.
    """

    data: npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16] = field(
        repr=False
    )
    dtype: TokenDtype
    rows: int
    cols: int
    contract: str
    fingerprint: str

    @property
    def dim(self) -> int:
        return int(self.data.shape[1])

    def to_torch(self) -> Tensor:
        """A tensor [rows * cols, dim] of `dtype` on the CPU, in the memory of `data`."""
        import torch  # here, as most who read this module have no use for it

        if self.dtype == "bfloat16":
            return torch.from_numpy(self.data.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(self.data)


def join(grids: Sequence[TokenGrid]) -> TokenGrid:
    """One sequence of several images' on the token axis, in their order: n times the rows."""
    first = grids[0]
    return replace(
        first,
        data=np.concatenate([grid.data for grid in grids]),
        rows=sum(grid.rows for grid in grids),
    )


@dataclass(frozen=True)
class Box:
    """A box in camera pixels, the origin at the top left; inside the image, at least 1x1."""

    x: int
    y: int
    width: int
    height: int

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, in [0, 1]."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        if across <= 0 or down <= 0:
            return 0.0
        common = across * down
        return common / (self.width * self.height + other.width * other.height - common)


@dataclass(frozen=True)
class GroundedObject:
    """One region that a phrase names.

    score: SigLIP's own probability sigmoid(logit), in [0, 1], independent of every other phrase.
    area: share of the image that the mask covers, in [0, 1].
    id: the same number for the same object across frames, from 1; 0 where nothing is tracked.
    lost: seconds since it was last seen; 0: it is seen in this frame.
    mentions: indices, in the instruction's mentions, of those that mean it.
    position, extent: center and full size (x, y, z) in the camera's optical frame (REP 103: x to
        the right, y down, z forward), meters; NaN without depth.
    """

    phrase: str
    score: float
    logit: float
    box: Box
    area: float
    role: Role = Role.UNKNOWN
    id: int = 0
    lost: float = 0.0
    position: Point3 = NOWHERE
    extent: Point3 = NOWHERE
    mentions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grounding:
    """Everything that was found in one frame for one query.

    presence: for each phrase the probability, in [0, 1], that it is in view at all.
    objects: best first within a phrase, phrases in the order of the query.
    mask: uint8 [height, width] of the camera image, 0 or the object's index + 1 (at most 255
        objects); None unless it was asked for.
    mentions, confidence: how the instruction was read; no mentions where phrases were given.
    """

    instruction: str
    instruction_id: int
    phrases: tuple[str, ...]
    presence: tuple[float, ...]
    objects: tuple[GroundedObject, ...]
    contract: str
    mask: UInt8Array | None = None
    mentions: tuple[Mention, ...] = ()
    confidence: float = 1.0
