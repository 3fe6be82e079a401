"""TokenSequence messages to numpy and torch, with the classes of rclpy and of rosbags."""

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
    TokenHistory,
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
    elements: Any = {
        "float32": VALUES,
        "float16": VALUES.astype(np.float16),
        "bfloat16": torch.from_numpy(VALUES).bfloat16().view(torch.int16).numpy().view(np.uint16),
    }[dtype]
    return TokenGrid(elements, dtype, 2, 3, "tabletop", "0" * 64)


def rosbags_message(dtype: TokenDtype) -> Any:
    """Make a message and serialize it to a bag's bytes and back."""
    store = replay.typestore()
    types = wire.rosbags_types(store)
    time = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    message = wire.tokens_message(types, types.Header(stamp=time, frame_id="c"), grid(dtype))
    kind = "siglip_perception_msgs/msg/TokenSequence"
    return store.deserialize_cdr(store.serialize_cdr(message, kind), kind)


def rclpy_message(dtype: TokenDtype) -> Any:
    """Make a message with rclpy's field types: uint8[] is array.array("B")."""
    token_grid = grid(dtype)
    return SimpleNamespace(
        contract=token_grid.contract,
        fingerprint=token_grid.fingerprint,
        rows=token_grid.rows,
        cols=token_grid.cols,
        dim=token_grid.dim,
        dtype=wire.DTYPE_CODES[dtype],
        data=wire.as_array(token_grid.data),
    )


@pytest.fixture(params=[rosbags_message, rclpy_message], ids=["rosbags", "rclpy"])
def message(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_floats_come_back_as_they_were(message: Any, dtype: TokenDtype) -> None:
    tokens = tokens_to_numpy(message(dtype))
    np.testing.assert_array_equal(tokens, VALUES.astype(dtype))
    assert tokens.dtype == np.dtype(dtype)
    tensor = tokens_to_torch(message(dtype))
    assert tensor.dtype is getattr(torch, dtype)
    assert torch.equal(tensor, torch.from_numpy(VALUES.astype(dtype)))


def test_bfloat16_comes_back(message: Any) -> None:
    expectation = torch.from_numpy(VALUES).bfloat16()
    tokens = tokens_to_torch(message("bfloat16"))
    assert tokens.dtype is torch.bfloat16
    assert torch.equal(tokens, expectation)
    as_float = tokens_to_numpy(message("bfloat16"))
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(as_float, expectation.float().numpy())


def test_a_history_joins_the_last_steps_the_oldest_first() -> None:
    history = TokenHistory(2)
    first, second = rclpy_message("float32"), rclpy_message("float32")
    second.data = wire.as_array(VALUES + 1)
    assert history.add(first) is None
    joined = history.add(second)
    assert joined is not None
    np.testing.assert_array_equal(joined, np.concatenate([VALUES, VALUES + 1]))
    with pytest.raises(ValueError, match="at least one step, and 0 is none"):
        TokenHistory(0)


def test_rclpys_memory_is_not_copied() -> None:
    message = rclpy_message("bfloat16")
    address, _ = message.data.buffer_info()
    assert tokens_to_torch(message).data_ptr() == address
    message = rclpy_message("float32")
    address, _ = message.data.buffer_info()
    assert tokens_to_numpy(message).ctypes.data == address


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 3}, "96 bytes, but 3 x 3 tokens of 4 channels take 144"),
        ({"dim": 0}, "take 0"),
        ({"data": array.array("B")}, "0 bytes"),
        ({"dtype": 7}, "dtype 7 is unknown"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, Any], words: str) -> None:
    message = rclpy_message("float32")
    vars(message).update(change)
    for convert in (tokens_to_numpy, tokens_to_torch):
        with pytest.raises(TokensError, match=words):
            convert(message)


def test_what_is_expected_passes_through(message: Any) -> None:
    float16_message = message("float16")
    check = expect(
        contract="tabletop", fingerprint="0" * 12, dtype="float16", rows=2, cols=3, dim=4
    )
    assert check(float16_message) is float16_message
    assert expect()(float16_message) is float16_message


@pytest.mark.parametrize(
    ("expectation", "words"),
    [
        ({"contract": "openvla-224"}, "'tabletop' and 'openvla-224' is expected: start the node"),
        ({"fingerprint": "0" * 63 + "1"}, "fingerprint is '0{64}' and '0{63}1' is expected"),
        ({"dtype": "bfloat16"}, r"dtype is float32 and bfloat16 .* tokens\.dtype"),
        ({"rows": 4}, "rows is 2 and 4 is expected: check the node's contract and its cameras"),
        ({"dim": 2176, "contract": "no"}, "'tabletop' and 'no'"),  # the first that differs
    ],
)
def test_the_first_mismatch_is_named(expectation: dict[str, Any], words: str) -> None:
    with pytest.raises(TokensError, match=words):
        expect(**expectation)(rclpy_message("float32"))


@pytest.mark.parametrize("expectation", [{"fingerprint": "abc"}, {"fingerprint": "x" * 64}])
def test_an_expectation_that_makes_no_sense_is_refused_at_once(
    expectation: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="12 to 64 hex digits"):
        expect(**expectation)


def test_the_reading_of_an_instruction_comes_back_with_its_objects() -> None:
    """The result of parse() survives a bag's bytes, except for its relations."""
    read = parse("open the left drawer and put the bowl in it")
    drawer = GroundedObject("drawer", 0.9, 2.0, Box(0, 0, 4, 4), 0.1, Role.TARGET, mentions=(0, 2))
    bowl = GroundedObject("bowl", 0.8, 1.0, Box(5, 5, 4, 4), 0.1, Role.TARGET, mentions=(1,))
    grounding = Grounding(
        read.text, 1, read.phrases, (0.9, 0.8), (drawer, bowl), "c", None, read.mentions
    )
    store = replay.typestore()
    types = wire.rosbags_types(store)
    time = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    objects_message = wire.objects_message(
        types, types.Header(stamp=time, frame_id="c"), grounding
    )
    kind = "siglip_perception_msgs/msg/GroundedObjectArray"
    message = store.deserialize_cdr(store.serialize_cdr(objects_message, kind), kind)
    heard = mentions(message)
    assert heard == tuple(replace(mention, relations=()) for mention in read.mentions)
    place = next(i for i, mention in enumerate(heard) if mention.role is Role.PLACE)
    assert (heard[place].step, heard[place].of) == (2, 1)
    assert [item.phrase for item in objects_of(message, place)] == ["drawer"]
