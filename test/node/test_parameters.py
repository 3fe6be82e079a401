"""ROS parameters: every one declared and described, checked, and set atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from siglip_perception.config import (
    MAX_INSTRUCTION_BYTES,
    MAX_PHRASES,
    PARAMETERS,
    Settings,
)
from siglip_perception.language import instruction
from siglip_perception.node.parameters import LiveSettings
from siglip_perception.parameter import ConfigError

Make = Callable[..., tuple[Node, LiveSettings]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a node with these parameters given at its start."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    context = Context()
    rclpy.init(context=context)
    nodes: list[Node] = []

    def build(unconfigured: bool = True, **given: Any) -> tuple[Node, LiveSettings]:
        overrides = [Parameter(name.replace("__", "."), value=v) for name, v in given.items()]
        node = Node(f"parameters{len(nodes)}", context=context, parameter_overrides=overrides)
        nodes.append(node)
        return node, LiveSettings(node, lambda: unconfigured)

    yield build
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def test_every_parameter_is_declared_and_described(make: Make) -> None:
    node, live = make()
    assert live.get() == Settings()
    for parameter in PARAMETERS:
        described = node.describe_parameter(parameter.name)
        assert parameter.description in described.description
        assert described.read_only == parameter.read_only
        value = node.get_parameter(parameter.name).value
        assert (tuple(value) if isinstance(value, list) else value) == parameter.default
    bounds = node.describe_parameter("threshold").floating_point_range[0]
    assert (bounds.from_value, bounds.to_value, bounds.step) == (-1.0, 1.0, 0.0)


def test_values_given_at_the_start(make: Make) -> None:
    _, live = make(threshold=1, cameras=["front", "wrist"], tokens__dtype="bfloat16")
    assert live.get().threshold == 1.0
    assert live.get().cameras == ("front", "wrist")
    assert live.get().tokens_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threshold", 7.0, "threshold is 7.0; it must be 0 to 1"),
        ("threshold", -0.5, "threshold is -0.5; it must be 0 to 1, or -1"),
        ("threshold", float("nan"), "threshold is nan; it must be 0 to 1"),
        ("threshold", "0.5", "threshold is '0.5'; it must be of type double: write a number"),
        ("model", 5, "model is 5; it must be of type string: write '5', in quotes"),
        ("publish_mask", "true", "is 'true'; it must be of type bool: write true or false"),
        ("max_objects", 20.0, "max_objects is 20.0; it must be of type int: write 20"),
        ("max_objects", True, "max_objects is True; it must be of type int"),
        ("cameras", "front", r"cameras is 'front'; .* type string\[\]: write \['front'\]"),
        ("phrases", [1, 2], r"phrases is \[1, 2\]; it must be of type string\[\]"),
        ("backend", "tpu", "one of auto"),
        ("cameras", ["a", "a"], "once"),
        ("max_objects", 1000, "1 to 255"),
    ],
)
def test_a_wrong_value_given_at_the_start_is_one_sentence(
    make: Make, name: str, value: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**{name: value})


def test_an_empty_list_leaves_no_parameter_without_a_value(make: Make) -> None:
    """Return a parameter without a type, as a file's `cameras: []` arrives."""
    node, live = make(cameras=None, phrases=None)
    assert live.get() == Settings()
    dumped = node.get_parameters([parameter.name for parameter in PARAMETERS])
    assert all(item.type_ != Parameter.Type.NOT_SET for item in dumped)
    (result,) = node.set_parameters([Parameter("phrases", value=["cup"])])
    assert (result.successful, live.get().phrases) == (True, ("cup",))
    (result,) = node.set_parameters([Parameter("phrases", value=[])])
    assert (result.successful, live.get().phrases) == (True, ())
    (result,) = node.set_parameters([Parameter("phrases", value=[True])])
    assert "phrases is [True]; it must be of type string[]" in result.reason


def test_what_may_be_set_at_any_time_is_set_at_once(make: Make) -> None:
    node, live = make(unconfigured=False)
    results = node.set_parameters(
        [Parameter("threshold", value=0.25), Parameter("publish_mask", value=True)]
    )
    assert all(result.successful for result in results)
    assert (live.get().threshold, live.get().publish_mask) == (0.25, True)


def test_all_are_set_or_none(make: Make) -> None:
    node, live = make()
    result = node.set_parameters_atomically(
        [
            Parameter("max_objects", value=7),
            Parameter("threshold", value=0.25),
            Parameter("backend", value="tpu"),
        ]
    )
    assert not result.successful
    assert "backend" in result.reason
    assert live.get() == Settings()
    assert node.get_parameter("max_objects").value == Settings().max_objects


@pytest.mark.parametrize("name", ["model", "device", "tokens.dtype", "image_transport"])
def test_what_belongs_to_the_model_is_refused_with_the_reason_once_configured(
    make: Make, name: str
) -> None:
    value = {"model": "x", "device": "cpu", "tokens.dtype": "float16"}.get(name, "compressed")
    node, live = make(unconfigured=False)
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert "clean up" in result.reason
    assert name in result.reason
    assert live.get() == Settings()
    free, changed = make(unconfigured=True)
    (result,) = free.set_parameters([Parameter(name, value=value)])
    assert result.successful
    assert changed.get() != Settings()


def test_what_is_read_only_stays(make: Make) -> None:
    node, live = make()
    (result,) = node.set_parameters([Parameter("autostart", value=False)])
    assert not result.successful
    assert live.get().autostart


def test_parameters_of_others_are_none_of_ours(make: Make) -> None:
    node, live = make(unconfigured=False)
    node.declare_parameter("qos_overrides.something", 5)
    (result,) = node.set_parameters([Parameter("qos_overrides.something", value=6)])
    assert result.successful
    assert live.get() == Settings()


def test_phrases_and_instruction_have_the_limits_of_the_topic(make: Make) -> None:
    assert (MAX_INSTRUCTION_BYTES, MAX_PHRASES) == (instruction.MAX_BYTES, instruction.MAX_PHRASES)
    node, settings = make()
    for name, value, reason in (
        ("phrases", ["cup"] * 33, "phrases has 33 values; it must have at most 32."),
        ("phrases", ["컵" * 200, "접시" * 100], "phrases is 1200 bytes long"),
        ("instruction", "x" * 1025, "instruction is 1025 bytes long; it must have at most 1024."),
        ("model", "x" * 5000, "model is 5000 bytes long"),
    ):
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful
        assert reason in result.reason
    assert node.set_parameters([Parameter("phrases", value=["cup"] * 32)])[0].successful
    assert settings.get().phrases == ("cup",) * 32
