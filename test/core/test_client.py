"""TokenSequence messages -> numpy and torch, for the classes of rclpy and rosbags alike."""

from __future__ import annotations

import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from siglip_perception.bags import replay
from siglip_perception.client import (
    TokensError,
    expect,
    mentions,
    objects_of,
    tokens_to_numpy,
    tokens_to_torch,
)
from siglip_perception.language.instruction import parse
from siglip_perception.messages import wire
from siglip_perception.types import Box, GroundedObject, Grounding, Role, TokenDtype, TokenGrid

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4) / 3 - 2


def grid(dtype: TokenDtype) -> TokenGrid:
    stored: Any = {
        "float32": VALUES,
        "float16": VALUES.astype(np.float16),
        "bfloat16": torch.from_numpy(VALUES).bfloat16().view(torch.int16).numpy().view(np.uint16),
    }[dtype]
    return TokenGrid(stored, dtype, 2, 3, "tabletop", "0" * 64)


def rosbags_message(dtype: TokenDtype) -> Any:
    """A message that went through a bag's bytes."""
    store = replay.typestore()
    types = wire.rosbags_types(store)
    time = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    message = wire.tokens_message(types, types.Header(stamp=time, frame_id="c"), grid(dtype))
    kind = "siglip_perception_msgs/msg/TokenSequence"
    return store.deserialize_cdr(store.serialize_cdr(message, kind), kind)


def rclpy_message(dtype: TokenDtype) -> Any:
    """The same fields as rclpy's generated class has them: uint8[] is array.array("B")."""
    made = grid(dtype)
    return SimpleNamespace(
        contract=made.contract,
        fingerprint=made.fingerprint,
        rows=made.rows,
        cols=made.cols,
        dim=made.dim,
        dtype=wire.DTYPE_CODES[dtype],
        data=wire.as_array(made.data),
    )


@pytest.fixture(params=[rosbags_message, rclpy_message], ids=["rosbags", "rclpy"])
def message(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_floats_come_back_as_they_were(message: Any, dtype: TokenDtype) -> None:
    tokens = tokens_to_numpy(message(dtype))
    np.testing.assert_array_equal(tokens, VALUES.astype(dtype))
    assert tokens.dtype == np.dtype(dtype)
    made = tokens_to_torch(message(dtype))
    assert made.dtype is getattr(torch, dtype)
    assert torch.equal(made, torch.from_numpy(VALUES.astype(dtype)))


def test_bfloat16_comes_back(message: Any) -> None:
    wanted = torch.from_numpy(VALUES).bfloat16()
    tokens = tokens_to_torch(message("bfloat16"))
    assert tokens.dtype is torch.bfloat16
    assert torch.equal(tokens, wanted)
    as_float = tokens_to_numpy(message("bfloat16"))
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(as_float, wanted.float().numpy())


def test_rclpys_memory_is_not_copied() -> None:
    message = rclpy_message("bfloat16")
    address, _ = message.data.buffer_info()
    assert tokens_to_torch(message).data_ptr() == address
    message = rclpy_message("float32")
    address, _ = message.data.buffer_info()
    assert tokens_to_numpy(message).ctypes.data == address


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 3}, "96 bytes, but 3 x 3 tokens of 4 channels take 144"),
        ({"dim": 0}, "take 0"),
        ({"data": array.array("B")}, "0 bytes"),
        ({"dtype": 7}, "dtype 7 is unknown"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, Any], said: str) -> None:
    message = rclpy_message("float32")
    vars(message).update(change)
    for convert in (tokens_to_numpy, tokens_to_torch):
        with pytest.raises(TokensError, match=said):
            convert(message)


def test_what_is_expected_passes_through(message: Any) -> None:
    made = message("float16")
    check = expect(
        contract="tabletop", fingerprint="0" * 12, dtype="float16", rows=2, cols=3, dim=4
    )
    assert check(made) is made
    assert expect()(made) is made


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"contract": "openvla-224"}, "'tabletop' and 'openvla-224' is expected: start the node"),
        ({"fingerprint": "0" * 63 + "1"}, "fingerprint is '0{64}' and '0{63}1' is expected"),
        ({"dtype": "bfloat16"}, r"dtype is float32 and bfloat16 .* tokens\.dtype"),
        ({"rows": 4}, "rows is 2 and 4 is expected: check the node's contract and its cameras"),
        ({"dim": 2176, "contract": "no"}, "'tabletop' and 'no'"),  # the first that differs
    ],
)
def test_the_first_mismatch_is_named(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(TokensError, match=said):
        expect(**wanted)(rclpy_message("float32"))


@pytest.mark.parametrize("wanted", [{"fingerprint": "abc"}, {"fingerprint": "x" * 64}])
def test_an_expectation_that_makes_no_sense_is_refused_at_once(wanted: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="12 to 64 hex digits"):
        expect(**wanted)


def test_the_reading_of_an_instruction_comes_back_with_its_objects() -> None:
    """What parse() says goes through a bag's bytes and is the same again, but for relations."""
    read = parse("open the left drawer and put the bowl in it")
    drawer = GroundedObject("drawer", 0.9, 2.0, Box(0, 0, 4, 4), 0.1, Role.TARGET, mentions=(0, 2))
    bowl = GroundedObject("bowl", 0.8, 1.0, Box(5, 5, 4, 4), 0.1, Role.TARGET, mentions=(1,))
    grounding = Grounding(
        read.text, 1, read.phrases, (0.9, 0.8), (drawer, bowl), "c", None, read.mentions
    )
    store = replay.typestore()
    types = wire.rosbags_types(store)
    time = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    sent = wire.objects_message(types, types.Header(stamp=time, frame_id="c"), grounding)
    kind = "siglip_perception_msgs/msg/GroundedObjectArray"
    message = store.deserialize_cdr(store.serialize_cdr(sent, kind), kind)
    heard = mentions(message)
    assert heard == tuple(replace(mention, relations=()) for mention in read.mentions)
    place = next(i for i, mention in enumerate(heard) if mention.role is Role.PLACE)
    assert (heard[place].step, heard[place].of) == (2, 1)
    assert [found.phrase for found in objects_of(message, place)] == ["drawer"]
