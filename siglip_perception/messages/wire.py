"""Making messages from values, with the classes of rclpy or of `rosbags`.

Both take keyword arguments and differ only in the type of their array fields, so a MessageTypes
holds the classes together with the functions that make their arrays.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siglip_perception.types import (
    GroundedObject,
    Grounding,
    Mention,
    TokenDtype,
    TokenGrid,
    UInt8Array,
)

# TokenSequence's constants.
DTYPE_CODES: dict[TokenDtype, int] = {"float32": 0, "float16": 1, "bfloat16": 2}
_BIG_ENDIAN = np.dtype(">u2") == np.dtype("=u2")


@dataclass(frozen=True)
class MessageTypes:
    """The message classes of one ROS library.

    uint8_array: C-contiguous ndarray of any dtype -> value of a uint8[] field.
    float32_array: floats -> value of a float32[] field. uint32_array: the same of uint32[].
    """

    Header: type[Any]
    Image: type[Any]
    RegionOfInterest: type[Any]
    Point: type[Any]
    Vector3: type[Any]
    TokenSequence: type[Any]
    GroundedObject: type[Any]
    GroundedObjectArray: type[Any]
    Mention: type[Any]
    uint8_array: Callable[[npt.NDArray[Any]], Any]
    float32_array: Callable[[Sequence[float]], Any]
    uint32_array: Callable[[Sequence[int]], Any]


def as_array(values: npt.NDArray[Any]) -> array.array[int]:
    """Copy the bytes of a C-contiguous ndarray to an array.array("B"), for rclpy.

    rclpy accepts it unchecked; a numpy array or a list it checks byte by byte, 500 times slower.
    """
    data = array.array("B")
    data.frombytes(values.reshape(-1).view(np.uint8).data)
    return data


def as_float_array(values: Sequence[float]) -> array.array[float]:
    """Convert floats to an array.array("f"), for rclpy."""
    return array.array("f", values)


def as_uint_array(values: Sequence[int]) -> array.array[int]:
    """Convert integers to an array.array("I"), for rclpy."""
    return array.array("I", values)


def as_ndarray(values: npt.NDArray[Any]) -> UInt8Array:
    """View the bytes of a C-contiguous ndarray as a flat uint8 ndarray, for rosbags."""
    return values.reshape(-1).view(np.uint8)


def as_float_ndarray(values: Sequence[float]) -> npt.NDArray[np.float32]:
    """Convert floats to a float32 ndarray, for rosbags."""
    return np.array(values, np.float32)


def as_uint_ndarray(values: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Convert integers to a uint32 ndarray, for rosbags."""
    return np.array(values, np.uint32)


def rosbags_types(store: Any) -> MessageTypes:
    """Collect the classes of a rosbags Typestore with siglip_perception_msgs registered."""
    types = store.types
    return MessageTypes(
        Header=types["std_msgs/msg/Header"],
        Image=types["sensor_msgs/msg/Image"],
        RegionOfInterest=types["sensor_msgs/msg/RegionOfInterest"],
        Point=types["geometry_msgs/msg/Point"],
        Vector3=types["geometry_msgs/msg/Vector3"],
        TokenSequence=types["siglip_perception_msgs/msg/TokenSequence"],
        GroundedObject=types["siglip_perception_msgs/msg/GroundedObject"],
        GroundedObjectArray=types["siglip_perception_msgs/msg/GroundedObjectArray"],
        Mention=types["siglip_perception_msgs/msg/Mention"],
        uint8_array=as_ndarray,
        float32_array=as_float_ndarray,
        uint32_array=as_uint_ndarray,
    )


def tokens_message(types: MessageTypes, header: Any, grid: TokenGrid) -> Any:
    """Make a TokenSequence with the image's header, which is not copied."""
    data: npt.NDArray[Any] = grid.data
    if _BIG_ENDIAN or data.dtype.byteorder == ">":
        data = data.astype(data.dtype.newbyteorder("<"))
    return types.TokenSequence(
        header=header,
        contract=grid.contract,
        fingerprint=grid.fingerprint,
        rows=grid.rows,
        cols=grid.cols,
        dim=grid.dim,
        dtype=DTYPE_CODES[grid.dtype],
        data=types.uint8_array(np.ascontiguousarray(data)),
        pixel_fingerprint=types.float32_array(grid.pixel_fingerprint),
    )


def objects_message(types: MessageTypes, header: Any, grounding: Grounding) -> Any:
    """Make a GroundedObjectArray with the image's header, which is not copied."""
    return types.GroundedObjectArray(
        header=header,
        instruction=grounding.instruction,
        instruction_id=grounding.instruction_id,
        contract=grounding.contract,
        phrases=list(grounding.phrases),
        presence=types.float32_array(grounding.presence),
        objects=[_object_message(types, item) for item in grounding.objects],
        mask=mask_message(types, header, grounding.mask),
        mentions=[_mention_message(types, mention) for mention in grounding.mentions],
        confidence=float(grounding.confidence),
        uncalibrated=grounding.uncalibrated,
        outside_training=grounding.outside_training,
        unfamiliar=types.uint32_array(grounding.unfamiliar),
    )


def mask_message(types: MessageTypes, header: Any, mask: UInt8Array | None) -> Any:
    """Make a mono8 Image of a mask, uint8 [height, width]; 0 x 0 without one."""
    pixels = np.zeros((0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask)
    return types.Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding="mono8",
        is_bigendian=0,
        step=pixels.shape[1],
        data=types.uint8_array(pixels),
    )


def _object_message(types: MessageTypes, item: GroundedObject) -> Any:
    position, extent, surface = (
        dict(zip("xyz", map(float, values), strict=True))
        for values in (item.position, item.extent, item.surface)
    )
    return types.GroundedObject(
        phrase=item.phrase,
        score=float(item.score),
        logit=float(item.logit),
        box=types.RegionOfInterest(
            x_offset=item.box.x,
            y_offset=item.box.y,
            height=item.box.height,
            width=item.box.width,
            do_rectify=False,
        ),
        area=float(item.area),
        role=int(item.role),
        id=item.id,
        lost=float(item.lost),
        position=types.Point(**position),
        extent=types.Vector3(**extent),
        mentions=types.uint32_array(item.mentions),
        surface=types.Point(**surface),
    )


def _mention_message(types: MessageTypes, mention: Mention) -> Any:
    return types.Mention(
        phrase=mention.phrase,
        role=int(mention.role),
        step=min(mention.step, 255),
        relation="" if mention.link is None else mention.link.value,
        of=-1 if mention.of is None else mention.of,
        which=mention.which,
        rank=min(mention.rank, 255),
        many=mention.many,
        confidence=float(mention.confidence),
    )
