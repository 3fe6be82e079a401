"""Executor of the node: rclpy's, without three traps of it."""

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

from siglip_perception.node.paced_group import PacedGroup


class NodeExecutor(Executor):  # type: ignore[misc]
    """Runs callbacks of the default group and of PacedGroups on the spinning thread.

    All others run each on a new thread: they may take long. This avoids two traps of rclpy's
    MultiThreadedExecutor and one of its Executor:

    - It hands out a callback again and again until a thread of its pool has started it. That
      thread waits for the GIL, which the executor holds meanwhile, and so does the model's thread:
      at 20 frames a second everything stood still for 100 to 400 ms every few seconds.
    - It lists the entities that it waits for, then visits each. It survives an entity that another
      thread destroyed in between, but not the destroyed events of a subscription.
    - Its shutdown() destroys the wait set that a spin() on another thread is using.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._failures: list[BaseException] = []
        self._shutdown_request = threading.Event()
        self._spinning = threading.RLock()

    def spin(self) -> None:
        """Run callbacks until shutdown(); raise what a callback raised."""
        while self._context.ok() and not self._shutdown_request.is_set():
            self.spin_once()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End spin() after its current callback and free what the executor holds.

        timeout_sec: how long to wait for that callback; None or negative: without limit. Callbacks
            outside the default group are not waited for.

        Returns False, with nothing freed, if the callback did not end in time.
        """
        self._shutdown_request.set()
        self.wake()
        limit = -1.0 if timeout_sec is None or timeout_sec < 0 else timeout_sec
        if not self._spinning.acquire(timeout=limit):
            return False
        try:
            return bool(super().shutdown(0))
        finally:
            self._spinning.release()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run, or start, one callback that is ready; raise what a callback raised."""
        with self._spinning:
            self._spin_once(timeout_sec)

    def wake(self) -> None:
        # rclpy's wake() may use a guard condition that shutdown() has just destroyed.
        with suppress(AttributeError, rclpy_implementation.InvalidHandle):
            super().wake()

    def _spin_once(self, timeout_sec: float | None) -> None:
        try:
            handler, entity, node = self.wait_for_ready_callbacks(
                timeout_sec, None, self._should_return
            )
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
        group = entity.callback_group
        if group is node.default_callback_group or isinstance(group, PacedGroup):
            handler()
            handler.result()
            return
        # start() returns once the thread runs; until then rclpy would hand this out again.
        threading.Thread(target=self._run, args=(handler,), daemon=True).start()

    def _should_return(self) -> bool:
        return bool(self._failures) or self._shutdown_request.is_set()

    def _run(self, handler: Any) -> None:
        handler()
        if handler.done() and (error := handler.exception()) is not None:
            self._failures.append(error)
            self.wake()
