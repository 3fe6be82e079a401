"""The executable `perception_node`: run the node until SIGINT, SIGTERM or a fatal error."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from siglip_perception.node.stop_request import StopRequest
from siglip_perception.util.threads import spin_briefly

# How long the job under way may take to finish at shutdown, in seconds.
GRACE = 1.0
# Python's switch interval, in seconds: how long the executor's thread may hold the GIL while the
# model's thread waits for it. PyTorch releases the GIL at each operation, and with the default of
# 5 ms each operation could wait that long to get it back.
SWITCH_INTERVAL = 0.0005


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the node; exit with 0 after a signal, 1 after a fatal error, 2 if it cannot start."""
    # Before anything else, so that a signal during the imports below ends the node cleanly, too.
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
    from siglip_perception.node.shm_ports import DeadPorts
    from siglip_perception.node.shm_segments import SegmentRecord, remove_leftovers
    from siglip_perception.parameter import ConfigError

    failures: list[str] = []

    def end(sentence: str) -> None:
        failures.append(sentence)
        stop.request()

    arguments = list(sys.argv if args is None else args)
    leftovers = remove_leftovers()
    dead_ports = DeadPorts()
    record: SegmentRecord | None = None
    try:
        try:
            rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        except rclpy_implementation.RCLError:
            # ROS names a line of its own source: read the files to raise a better message.
            for path in parameter_files(arguments):
                read_sections(path)
            raise
        node = PerceptionNode(end, arguments=arguments)
    except (ConfigError, ParameterException, rclpy_implementation.RCLError) as error:
        # A whole sentence, without rcl's trailing list of source locations.
        (sentence, *_) = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"(, at /\S+:\d+)+$", "", sentence)
        print(f"perception_node: {reason}", file=sys.stderr)
        rclpy.try_shutdown()
        _leave(2)
    with suppress(OSError):  # without a record a kill leaves the shared memory behind
        record = SegmentRecord()
    if leftovers:
        node.get_logger().info(f"removed a killed node's shared memory: {', '.join(leftovers)}")
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
    if executor.shutdown(timeout_sec=GRACE / 2):  # otherwise a callback still uses the node
        node.destroy_node()
        rclpy.try_shutdown()
        if record is not None:
            record.close()
        dead_ports.close()
    _leave(1 if failures else 0)


def _leave(code: int) -> NoReturn:
    """End the process at once.

    Loading or running a model cannot be interrupted, only abandoned, and an orderly shutdown of
    Python and PyTorch takes seconds on a busy machine.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
