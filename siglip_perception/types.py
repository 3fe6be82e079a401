"""Values that flow through the pipeline, with their shapes, dtypes, units and ranges."""

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
    """Role of an object in the instruction; the values are those of GroundedObject.msg."""

    UNKNOWN = 0
    TARGET = 1
    PLACE = 2


def stronger(first: Role, second: Role) -> Role:
    """Return the stronger of two roles of one thing: TARGET, then PLACE, then UNKNOWN."""
    known = {first, second} - {Role.UNKNOWN}
    return Role.TARGET if Role.TARGET in known else next(iter(known), Role.UNKNOWN)


class Where(str, Enum):
    """Spatial relation to landmarks or, without any, to others of its kind: the leftmost."""

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
    """Preposition between an action and a phrase, or between a phrase and its landmark."""

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
    """Spatial relation that selects among the objects of a phrase.

    landmarks: indices of the mentions that the object is left of, behind or between. Empty: the
        phrase's objects are compared among themselves: the leftmost, the nearest to the camera.
    rank: 1 for the leftmost, 2 for the second from the left.
    """

    where: Where
    landmarks: tuple[int, ...] = ()
    rank: int = 1


@dataclass(frozen=True)
class Mention:
    """Place of an instruction that names a phrase, or refers back to one ("it").

    phrase: index of the phrase. relations: select among its objects; empty: all are meant.
    many: every object that satisfies the relations is meant ("the left cups"), not the best one.
    step: number of its action, from 1.
    link: preposition from the action ("left of", "from", "with") or from the mention `of`; None:
        it is acted on, or there is no preposition.
    of: index of the mention that goes there, or that it identifies; None: no other mention.
    which: word that selects one of several ("left", "largest", "last", "all"); may be empty.
    rank: 2 for the second, counted from `which` if present; 0 without a number.
    confidence: in [0, 1]; below 0.5 it is a guess, because the grammar does not cover the words.
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
    """A registered depth image and its camera's intrinsics.

    meters: float32 [height, width], NaN where depth is unknown. fx, fy, cx, cy: pixels.
    """

    meters: FloatArray
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Frame:
    """A camera image.

    image: uint8 [height, width, 3], RGB, C-contiguous, values in [0, 255].
    stamp_ns: time of capture, nanoseconds since the epoch (or since simulation time zero).
    frame_id: the camera's optical frame, from the message's header.
    camera: name from the parameter `cameras`; empty if there is only one.
    depth: returns the depth of this image, or None. Called only once the objects are known, so
        that a depth image that arrives after its color image can still be used.
    repairs: names of the faults of its file that were repaired, such as "jpeg_repaired".
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
    """A frame of a batch, with its query.

    query: result of Pipeline.query(); None: only tokens are computed.
    with_mask: also make the mask of the objects.
    """

    frame: Frame
    query: Any | None = None
    with_mask: bool = False


@dataclass(frozen=True)
class TokenGrid:
    """Fused token sequence of a frame, in the order that the contract states.

    data: [rows * cols, dim], row-major over the image from the top left; float32 or float16, or
        uint16 with the bits of bfloat16, which numpy lacks. `dtype` tells them apart.
    fingerprint: of the weights and the preprocessing.
    pixel_fingerprint: of the frame's own pixels, images.fingerprint.FIELDS; joined sequences have
        one after the other.
    """

    data: npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16] = field(
        repr=False
    )
    dtype: TokenDtype
    rows: int
    cols: int
    contract: str
    fingerprint: str
    pixel_fingerprint: tuple[float, ...] = field(default=(), repr=False)

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
    """Concatenate several images' sequences on the token axis, in order: n times the rows."""
    first = grids[0]
    return replace(
        first,
        data=np.concatenate([grid.data for grid in grids]),
        rows=sum(grid.rows for grid in grids),
        pixel_fingerprint=tuple(value for grid in grids for value in grid.pixel_fingerprint),
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
    """An object that a phrase names.

    score: probability sigmoid(logit), in [0, 1], independent of every other phrase.
    area: share of the image that the mask covers, in [0, 1].
    id: number of the object, stable across frames, from 1; 0 without tracking.
    lost: seconds since the object was last seen; 0 if this frame shows it.
    mentions: indices of the instruction's mentions that mean it.
    position, extent: center and full size (x, y, z) in the camera's optical frame (REP 103: x to
        the right, y down, z forward), meters; NaN without depth. extent is of what is visible.
    surface: center of what is visible, as position, which lies behind it, in the thing.
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
    surface: Point3 = NOWHERE


@dataclass(frozen=True)
class Grounding:
    """Objects of a query in one frame.

    presence: probability per phrase, in [0, 1], that it is in view at all.
    objects: best first within a phrase, phrases in the order of the query.
    mask: uint8 [height, width] of the camera image, 0 or the object's index + 1 (at most 255
        objects); None unless requested.
    mentions, confidence: the reading of the instruction; no mentions for a query of phrases.
    uncalibrated: the scores were never measured for these weights.
    outside_training: the image is unlike all that the scores were measured on; unfamiliar: indices
        of the phrases of which that is true. Their scores are by the null bank.
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
    uncalibrated: bool = False
    outside_training: bool = False
    unfamiliar: tuple[int, ...] = ()
