"""Import each part of ROS 2 that the node uses, and print the outcomes as lines of JSON.

`python -m siglip_perception.util.ros_probe` runs in a process of its own, because a ROS 2 for
another Python, or a module compiled for another numpy, can crash the process that imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Sequence

PARTS = (
    "rclpy",
    "builtin_interfaces",
    "diagnostic_msgs",
    "geometry_msgs",
    "lifecycle_msgs",
    "rcl_interfaces",
    "sensor_msgs",
    "std_msgs",
    "visualization_msgs",
    "siglip_perception_msgs",
)
# Parts that the node can do without.
OPTIONAL_PARTS = ("cv_bridge", "vision_msgs", "launch_ros")
# Compiled parts, whose import can fail although that of the package does not.
_EXTENSIONS = {"rclpy": "rclpy._rclpy_pybind11", "cv_bridge": "cv_bridge.boost.cv_bridge_boost"}


def probe(module: str) -> dict[str, str]:
    """Import one module: {} if absent, else its `folder` and the `error` ("" if it works)."""
    spec = importlib.util.find_spec(module)
    # Without an origin it is a bare folder of that name, such as the messages' sources in a clone.
    if spec is None or spec.origin is None:
        return {}
    folder = next(iter(spec.submodule_search_locations or ()), "")
    try:
        importlib.import_module(_EXTENSIONS.get(module, module))
        if module == "rclpy":
            node_class = importlib.import_module("rclpy.node").Node
            if not hasattr(node_class, "add_post_set_parameters_callback"):
                return {"folder": folder, "error": "too old"}
        elif module == "siglip_perception_msgs":
            messages = importlib.import_module("siglip_perception_msgs.msg")
            type_support = importlib.import_module("rclpy.type_support")
            type_support.check_for_type_support(messages.TokenSequence)
    except Exception as error:  # noqa: BLE001 - a broken library raises anything
        lines = str(error).strip().splitlines() or [""]
        return {"folder": folder, "error": f"{type(error).__name__}: {lines[0].rstrip('.:;')}"}
    return {"folder": folder, "error": ""}


def main(modules: Sequence[str] = (*PARTS, *OPTIONAL_PARTS)) -> None:
    for module in modules:
        # Printed first, for an import that crashes the process.
        print(json.dumps({module: {"folder": "", "error": "it ends Python"}}), flush=True)
        print(json.dumps({module: probe(module)}), flush=True)


if __name__ == "__main__":
    main()
