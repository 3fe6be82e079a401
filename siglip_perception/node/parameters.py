"""config.py's parameters as ROS parameters: declared, described, checked, set atomically."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from siglip_perception.config import BY_NAME, PARAMETERS, Settings
from siglip_perception.node.parameter_files import remarks, suggestion
from siglip_perception.parameter import Change, ConfigError, Parameter

_TYPES = {
    "bool": ParameterType.PARAMETER_BOOL,
    "int": ParameterType.PARAMETER_INTEGER,
    "double": ParameterType.PARAMETER_DOUBLE,
    "string": ParameterType.PARAMETER_STRING,
    "string[]": ParameterType.PARAMETER_STRING_ARRAY,
}


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """The ROS descriptor of a parameter: what `ros2 param describe` shows."""
    made = ParameterDescriptor(
        name=parameter.name,
        type=_TYPES[parameter.type],
        description=parameter.description + (f" [{parameter.unit}]" if parameter.unit else ""),
        additional_constraints=f"{parameter.constraint}; can be set {parameter.change.value}"
        if parameter.choices
        else f"can be set {parameter.change.value}",
        read_only=parameter.read_only,
        # A whole number is taken for a double, and an empty list, which has no type, for one of
        # strings; rclpy would refuse `threshold:=1` and `phrases:=[]`. LiveSettings checks them.
        dynamic_typing=parameter.type in ("double", "string[]"),
    )
    if parameter.minimum is not None and parameter.maximum is not None:
        # step 0: anything in between. rclpy looks at the range of the value's own type only.
        if parameter.type == "double":
            made.floating_point_range = [
                FloatingPointRange(
                    from_value=parameter.minimum, to_value=parameter.maximum, step=0.0
                )
            ]
        else:
            made.integer_range = [
                IntegerRange(
                    from_value=int(parameter.minimum), to_value=int(parameter.maximum), step=1
                )
            ]
    return made


class LiveSettings:
    """The node's Settings, kept up with its ROS parameters.

    unconfigured: whether parameters that belong to the model may be set now.
    Raises ConfigError, one sentence, where a value given at the start is wrong.
    """

    def __init__(self, node: Node, unconfigured: Callable[[], bool]) -> None:
        self._unconfigured = unconfigured
        self._lock = threading.Lock()
        values = {parameter.name: _declare(node, parameter) for parameter in PARAMETERS}
        self._settings = Settings.of(values)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._apply)

    def get(self) -> Settings:
        """The settings in force; the same object until a parameter is set."""
        with self._lock:
            return self._settings

    def _check(self, parameters: list[RosParameter]) -> SetParametersResult:
        """Refuses all of the parameters, with the reason, where one of them cannot be set."""
        ours = _ours(parameters)
        locked = sorted(name for name in ours if BY_NAME[name].change is not Change.ANY_TIME)
        if locked and not self._unconfigured():
            return SetParametersResult(
                successful=False,
                reason=f"{locked[0]} belongs to what is loaded: deactivate and clean up the node "
                "(ros2 lifecycle set <node> deactivate, then cleanup), set it, and configure.",
            )
        try:
            Settings.of({**self.get().values(), **ours})
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[RosParameter]) -> None:
        ours = _ours(parameters)
        if ours:
            with self._lock:
                self._settings = Settings.of({**self._settings.values(), **ours})


def _ours(parameters: list[RosParameter]) -> dict[str, Any]:
    return {item.name: item.value for item in parameters if item.name in BY_NAME}


def tell_overrides(node: Node, arguments: Sequence[str]) -> None:
    """Log which files and sections a node got parameters from, and warn of what it ignores.

    arguments: of the process. Call it once every parameter is declared.
    """
    infos, warnings = remarks(arguments, node.get_fully_qualified_name())
    for line in infos:
        node.get_logger().info(line)
    for name in sorted(_overrides(node)):
        # Those of QoS are declared with their subscriptions.
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            warnings.append(
                f"there is no parameter {name}, so its value is ignored{suggestion(name, BY_NAME)}"
            )
    for line in warnings:
        node.get_logger().warning(line)


def _overrides(node: Node) -> Mapping[str, RosParameter]:
    """What the node was given at its start, declared or not. rclpy has no public way to it."""
    overrides: Mapping[str, RosParameter] = node._parameter_overrides
    return overrides


def _declare(node: Node, parameter: Parameter) -> Any:
    """Declares it; its value as given at the start, the default where none was given."""
    override = _overrides(node).get(parameter.name)
    value: Any = parameter.default
    # `cameras: []` in a file has no type, so it arrives as not set. Declared like that it would
    # stay uninitialized, and every get_parameters() of it, as in a dump, would fail.
    if override is not None and override.type_ != RosParameter.Type.NOT_SET:
        value = parameter.check(override.value)
    ros_value = list(value) if isinstance(value, tuple) else value
    node.declare_parameter(parameter.name, ros_value, descriptor(parameter), ignore_override=True)
    return value
