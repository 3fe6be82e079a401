"""The one thread that owns the model: a model always runs on the same thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

T = TypeVar("T")


class WorkerStoppedError(RuntimeError):
    """The worker has been stopped: the job was not done, or its result is not waited for."""


class Source(Protocol):
    """Where work comes from. Both methods are called on the worker's thread only."""

    def delay(self) -> float | None:
        """Seconds until there is work, 0 for now; None: none until the worker is notified."""

    def run(self) -> None:
        """Does one piece of work."""


class Worker:
    """Serves jobs and sources in turn, so that none of them starves another.

    crashed: called on the worker's thread with an exception that a source let through.
    """

    def __init__(self, crashed: Callable[[BaseException], None]) -> None:
        self._crashed = crashed
        self._condition = threading.Condition()
        self._stopped = threading.Event()
        self._jobs = _Jobs()
        self._waiting: set[threading.Event] = set()
        self._sources: list[Source] = [self._jobs]
        self._next = 0
        # Daemon: a model that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def add(self, source: Source) -> None:
        with self._condition:
            self._sources.append(source)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Tells the worker that a source may have work."""
        with self._condition:
            self._condition.notify()

    def call(self, job: Callable[[], T]) -> T:
        """Runs the job on the worker's thread and returns, or raises, what it does.

        Raises WorkerStoppedError as soon as the worker is stopped, be the job under way or not.
        """
        future: Future[T] = Future()
        done = threading.Event()

        def run() -> None:
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - it is raised again where call() waits
                future.set_exception(error)
            done.set()

        with self._condition:
            if self._stopped.is_set():
                raise WorkerStoppedError("the worker has been stopped")
            self._jobs.queue.append(run)
            self._waiting.add(done)
            self._condition.notify()
        done.wait()
        with self._condition:
            self._waiting.discard(done)
        if not future.done():
            raise WorkerStoppedError("the worker has been stopped")
        return future.result()

    def stop(self, grace: float) -> bool:
        """Finishes the piece of work under way, does no other; whether it ended in `grace` s."""
        with self._condition:
            self._stopped.set()
            for done in self._waiting:
                done.set()
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(grace)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            source = self._wait()
            if source is None:
                return
            try:
                source.run()
            except Exception as error:  # noqa: BLE001 - the node reports it and ends
                self._crashed(error)
                return

    def _wait(self) -> Source | None:
        """The next source in turn that has work; None once the worker is stopped."""
        with self._condition:
            while not self._stopped.is_set():
                soonest: float | None = None
                for turn in range(len(self._sources)):
                    number = (self._next + turn) % len(self._sources)
                    delay = self._sources[number].delay()
                    if delay is None:
                        continue
                    if delay <= 0:
                        self._next = number + 1
                        return self._sources[number]
                    soonest = delay if soonest is None else min(soonest, delay)
                self._condition.wait(soonest)
            return None


class _Jobs:
    """The source of what call() hands over."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()

    def delay(self) -> float | None:
        return 0.0 if self.queue else None

    def run(self) -> None:
        self.queue.popleft()()
