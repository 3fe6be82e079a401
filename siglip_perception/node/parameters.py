"""Parameters of config.py as ROS parameters: declared, described, checked, set atomically."""

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
    """Return a parameter's ROS descriptor, as `ros2 param describe` shows it."""
    ros_descriptor = ParameterDescriptor(
        name=parameter.name,
        type=_TYPES[parameter.type],
        description=parameter.description + (f" [{parameter.unit}]" if parameter.unit else ""),
        additional_constraints=f"{parameter.constraint}; can be set {parameter.change.value}"
        if parameter.choices or parameter.special is not None
        else f"can be set {parameter.change.value}",
        read_only=parameter.read_only,
        # Without it rclpy would refuse `threshold:=1` (an integer) and `phrases:=[]` (a list of no
        # type). LiveSettings checks the values instead.
        dynamic_typing=parameter.type in ("double", "string[]"),
    )
    if parameter.minimum is not None and parameter.maximum is not None:
        # step 0: any value in between. rclpy only checks the range of the value's own type.
        lowest = parameter.minimum if parameter.special is None else parameter.special
        if parameter.type == "double":
            ros_descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=min(lowest, parameter.minimum),
                    to_value=parameter.maximum,
                    step=0.0,
                )
            ]
        else:
            ros_descriptor.integer_range = [
                IntegerRange(
                    from_value=int(parameter.minimum), to_value=int(parameter.maximum), step=1
                )
            ]
    return ros_descriptor


class LiveSettings:
    """Keeps the node's Settings up to date with its ROS parameters.

    is_unconfigured: returns True while parameters that belong to the model may be set.
    Raises ConfigError, one sentence, if an initial value is wrong.
    """

    def __init__(self, node: Node, is_unconfigured: Callable[[], bool]) -> None:
        self._is_unconfigured = is_unconfigured
        self._lock = threading.Lock()
        values = {parameter.name: _declare(node, parameter) for parameter in PARAMETERS}
        self._settings = Settings.of(values)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._apply)

    def get(self) -> Settings:
        """Return the current settings; the same object until a parameter is set."""
        with self._lock:
            return self._settings

    def _check(self, parameters: list[RosParameter]) -> SetParametersResult:
        """Refuse all of the parameters, with a reason, if one of them cannot be set."""
        changes = _values_of(parameters)
        fixed_names = sorted(
            name for name in changes if BY_NAME[name].change is not Change.ANY_TIME
        )
        if fixed_names and not self._is_unconfigured():
            return SetParametersResult(
                successful=False,
                reason=f"{fixed_names[0]} belongs to what is loaded: deactivate and clean up"
                " the node (ros2 lifecycle set <node> deactivate, then cleanup), set it, and"
                " configure.",
            )
        try:
            Settings.of({**self.get().values(), **changes})
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[RosParameter]) -> None:
        changes = _values_of(parameters)
        if changes:
            with self._lock:
                self._settings = Settings.of({**self._settings.values(), **changes})


def _values_of(parameters: list[RosParameter]) -> dict[str, Any]:
    """Return the values of those parameters that config.py declares."""
    return {item.name: item.value for item in parameters if item.name in BY_NAME}


def log_overrides(node: Node, arguments: Sequence[str]) -> None:
    """Log the files and sections that a node got parameters from; warn of what it ignores.

    arguments: the process' arguments. Call it once every parameter is declared.
    """
    infos, warnings = remarks(arguments, node.get_fully_qualified_name())
    for line in infos:
        node.get_logger().info(line)
    for name in sorted(_overrides(node)):
        # QoS overrides are declared with their subscriptions.
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            warnings.append(
                f"there is no parameter {name}, so its value is ignored{suggestion(name, BY_NAME)}"
            )
    for line in warnings:
        node.get_logger().warning(line)


def _overrides(node: Node) -> Mapping[str, RosParameter]:
    """Return the node's initial values, declared or not; rclpy has no public way to them."""
    overrides: Mapping[str, RosParameter] = node._parameter_overrides
    return overrides


def _declare(node: Node, parameter: Parameter) -> Any:
    """Declare a parameter; return its initial value, else its default."""
    override = _overrides(node).get(parameter.name)
    value: Any = parameter.default
    # `cameras: []` in a file has no type and arrives as not set. Declared like that, the parameter
    # would stay uninitialized, and every get_parameters() of it, as in a dump, would fail.
    if override is not None and override.type_ != RosParameter.Type.NOT_SET:
        value = parameter.check(override.value)
    ros_value = list(value) if isinstance(value, tuple) else value
    node.declare_parameter(parameter.name, ros_value, descriptor(parameter), ignore_override=True)
    return value
