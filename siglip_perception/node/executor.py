"""The executor that the node is spun with."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from rclpy.executors import (
    ConditionReachedException,
    Executor,
    ExternalShutdownException,
    ShutdownException,
    TimeoutException,
)
from rclpy.impl.implementation_singleton import rclpy_implementation


class NodeExecutor(Executor):  # type: ignore[misc]
    """Runs the callbacks of a node's default group itself; any other, which may take long, on a
    thread of its own.

    Overcomes two traps of rclpy's MultiThreadedExecutor, and one of its Executor.

    - It hands out a callback again and again until a thread of its pool has begun with it. That
      thread waits for Python's lock, which the executor keeps meanwhile, and so does the model's:
      at 20 frames a second all stood still for 100 to 400 ms every few seconds.
    - It lists what it waits for first and looks at each of it then; it minds an entity that
      another thread has destroyed in between, but not the events of one.
    - Its shutdown() takes away what a spin() in another thread waits with, without waiting for it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._failures: list[BaseException] = []
        self._ended = threading.Event()
        self._spinning = threading.RLock()

    def spin(self) -> None:
        """Runs callbacks until shutdown(); raises what a callback has raised."""
        while self._context.ok() and not self._ended.is_set():
            self.spin_once()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Ends spin(), after the callback that it runs, and lets go of what the executor holds.

        False, and nothing is let go of, where that callback has not ended within so many seconds;
        None or less than 0: no limit. Callbacks of other groups than the default one are not
        waited for.
        """
        self._ended.set()
        self.wake()
        limit = -1.0 if timeout_sec is None or timeout_sec < 0 else timeout_sec
        if not self._spinning.acquire(timeout=limit):
            return False
        try:
            return bool(super().shutdown(0))
        finally:
            self._spinning.release()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Runs, or starts, one callback that is ready; raises what a callback has raised."""
        with self._spinning:
            self._spin_once(timeout_sec)

    def wake(self) -> None:
        # rclpy's own looks at what shutdown() takes away, and then uses it.
        with suppress(AttributeError, rclpy_implementation.InvalidHandle):
            super().wake()

    def _spin_once(self, timeout_sec: float | None) -> None:
        try:
            handler, entity, node = self.wait_for_ready_callbacks(timeout_sec, None, self._halted)
        except ConditionReachedException:
            if self._failures:
                raise self._failures.pop() from None
            return
        except (
            ExternalShutdownException,
            ShutdownException,
            TimeoutException,
            rclpy_implementation.InvalidHandle,
        ):
            return
        if entity.callback_group is node.default_callback_group:
            handler()
            handler.result()
            return
        # start() waits until the thread runs: before, rclpy would hand this out again.
        threading.Thread(target=self._run, args=(handler,), daemon=True).start()

    def _halted(self) -> bool:
        return bool(self._failures) or self._ended.is_set()

    def _run(self, handler: Any) -> None:
        handler()
        if handler.done() and (error := handler.exception()) is not None:
            self._failures.append(error)
            self.wake()
