"""The programs that run over ROS 2, as they are installed: where it is missing, they say so."""

from __future__ import annotations

import importlib
import sys

from siglip_perception.util import requirements, ros


def perception_node() -> int:
    """Run the node."""
    return _run("perception_node")


def example_policy() -> int:
    """Run the example of a policy."""
    return _run("example_policy")


def _run(name: str) -> int:
    """Run the node's module of that name; its exit code, 2 where what it imports is missing."""
    try:
        return int(importlib.import_module(f"siglip_perception.node.{name}").main())
    except ImportError as error:
        sentence = requirements.explain_import_error(error)
        if sentence is None:
            try:
                ros.require(f"The {name.replace('_', ' ')}")
            except ros.RosError as reason:
                sentence = str(reason)
        if sentence is None:
            raise
    print(f"{name}: {sentence}", file=sys.stderr)
    return 2
