"""config.py's parameters as ROS parameters: declared, described, checked, set atomically."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from siglip_perception.config import BY_NAME, PARAMETERS, Settings
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
        # A whole number is taken for a double; rclpy would refuse `threshold:=1`.
        dynamic_typing=parameter.type == "double",
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


def _declare(node: Node, parameter: Parameter) -> Any:
    """Declares it; its value as given at the start, the default where none was given."""
    default = parameter.default
    value = list(default) if isinstance(default, tuple) else default
    try:
        given = node.declare_parameter(parameter.name, value, descriptor(parameter)).value
    except InvalidParameterTypeException as error:
        raise ConfigError(f"{parameter.name} must be of type {parameter.type}.") from error
    except InvalidParameterValueException as error:
        raise ConfigError(
            f"{parameter.name} must be {parameter.constraint or parameter.type}."
        ) from error
    # `cameras: []` in a file has no type, so it arrives as not set.
    return default if given is None else given
