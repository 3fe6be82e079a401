"""The executable `perception_node`: runs the node until SIGINT, SIGTERM or a fatal error."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from siglip_perception.node.stop_request import StopRequest
from siglip_perception.util.threads import spin_briefly

# Seconds that work under way gets to finish in once the end is asked for.
GRACE = 1.0
# Seconds for which the executor's thread may keep Python's lock while the model wants it back.
# PyTorch lets go of it at each operation; with the default of 5 ms each can wait that long.
SWITCH_INTERVAL = 0.0005


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Ends the process: with 0 after a signal, 1 after a fatal error; 2 where it cannot start."""
    # First of all: a signal that comes during the imports below ends the node cleanly, too.
    stop = StopRequest()
    spin_briefly()
    sys.setswitchinterval(SWITCH_INTERVAL)
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.signals import SignalHandlerOptions

    from siglip_perception.node.executor import NodeExecutor
    from siglip_perception.node.node import PerceptionNode
    from siglip_perception.node.parameter_files import parameter_files, read_sections
    from siglip_perception.parameter import ConfigError

    failures: list[str] = []

    def end(sentence: str) -> None:
        failures.append(sentence)
        stop.request()

    arguments = list(sys.argv if args is None else args)
    try:
        try:
            rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        except rclpy_implementation.RCLError:
            # ROS names a line of its own source; what is wrong with a file can be said better.
            for path in parameter_files(arguments):
                read_sections(path)
            raise
        node = PerceptionNode(end, arguments=arguments)
    except (ConfigError, ParameterException, rclpy_implementation.RCLError) as error:
        print(f"perception_node: {_first_line(error)}", file=sys.stderr)
        rclpy.try_shutdown()
        _leave(2)
    executor = NodeExecutor()
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except Exception:  # noqa: BLE001 - reported, and the process ends
            traceback.print_exc()
            end("a callback failed")

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    stop.wait()
    node.stop(GRACE)
    if executor.shutdown(timeout_sec=GRACE / 2):  # else a callback still uses them
        node.destroy_node()
        rclpy.try_shutdown()
    _leave(1 if failures else 0)


def _first_line(error: Exception) -> str:
    """Without the places in rcl's own source, which follow what it has to say."""
    return re.sub(r"(, at /\S+:\d+)+$", "", str(error).splitlines()[0])


def _leave(code: int) -> NoReturn:
    """Ends the process at once.

    A model that is being loaded or run cannot be interrupted, only left behind; and to take
    Python and PyTorch down takes a busy machine seconds.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
