"""Import each part of ROS 2 that the node uses, and print what came of it as lines of JSON.

`python -m siglip_perception.util.ros_probe` is a process of its own: a ROS 2 for another Python,
or a module compiled for another numpy, may end the process that imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Sequence

NEEDED = (
    "rclpy",
    "builtin_interfaces",
    "diagnostic_msgs",
    "geometry_msgs",
    "lifecycle_msgs",
    "rcl_interfaces",
    "sensor_msgs",
    "std_msgs",
    "siglip_perception_msgs",
)
# What the node does without.
OPTIONAL = ("cv_bridge", "vision_msgs", "launch_ros")
# Imported beside the package itself: its compiled part, which fails where the package does not.
_COMPILED = {"rclpy": "rclpy._rclpy_pybind11", "cv_bridge": "cv_bridge.boost.cv_bridge_boost"}


def look(module: str) -> dict[str, str]:
    """{} where it is not there; else its `folder`, and as `error` why it cannot be used."""
    spec = importlib.util.find_spec(module)
    # Without an origin it is a mere folder of that name, such as the messages' sources in a clone.
    if spec is None or spec.origin is None:
        return {}
    folder = next(iter(spec.submodule_search_locations or ()), "")
    try:
        importlib.import_module(_COMPILED.get(module, module))
        if module == "rclpy":
            from rclpy.node import Node

            if not hasattr(Node, "add_post_set_parameters_callback"):
                return {"folder": folder, "error": "too old"}
        elif module == "siglip_perception_msgs":
            from rclpy.type_support import check_for_type_support
            from siglip_perception_msgs.msg import TokenSequence

            check_for_type_support(TokenSequence)
    except Exception as error:  # noqa: BLE001 - a broken library raises anything
        lines = str(error).strip().splitlines() or [""]
        return {"folder": folder, "error": f"{type(error).__name__}: {lines[0].rstrip('.:;')}"}
    return {"folder": folder, "error": ""}


def main(modules: Sequence[str] = (*NEEDED, *OPTIONAL)) -> None:
    for module in modules:
        # Said first: where the import ends the process, this is what is known.
        print(json.dumps({module: {"folder": "", "error": "it ends Python"}}), flush=True)
        print(json.dumps({module: look(module)}), flush=True)


if __name__ == "__main__":
    main()
