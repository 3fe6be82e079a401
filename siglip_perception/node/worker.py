"""The single thread that owns the model and runs it."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")


class WorkerStoppedError(RuntimeError):
    """The worker was stopped before the job ended; its result is lost."""


class WorkerTimeoutError(RuntimeError):
    """A job did not end in time. modules: those that the worker is in, the innermost first."""

    def __init__(self, modules: list[str]) -> None:
        super().__init__("the job did not end in time")
        self.modules = modules


class WorkSource(Protocol):
    """A queue of work. Both methods are called on the worker's thread only."""

    def delay(self) -> float | None:
        """Return the seconds until there is work, 0 for now; None: not before a notify()."""

    def run(self) -> None:
        """Do one piece of work."""


class Worker:
    """Serves jobs and sources in turn, so that none of them starves another.

    on_crash: called on the worker's thread with an exception that a source raised.
    """

    def __init__(self, on_crash: Callable[[BaseException], None]) -> None:
        self._on_crash = on_crash
        self._condition = threading.Condition()
        self._stop_request = threading.Event()
        self._jobs = _Jobs()
        self._waiting: set[threading.Event] = set()
        self._sources: list[WorkSource] = [self._jobs]
        self._next = 0
        # A daemon: a hanging model must not keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def add(self, source: WorkSource) -> None:
        with self._condition:
            self._sources.append(source)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Tell the worker that a source may have work."""
        with self._condition:
            self._condition.notify()

    def call(self, job: Callable[[], T], timeout: float | None = None) -> T:
        """Run the job on the worker's thread; return its result or raise its exception.

        timeout: seconds after which WorkerTimeoutError is raised, with the functions that the
            worker is in; the job goes on, for nothing can end it, or never begins.
        Raises WorkerStoppedError as soon as the worker is stopped, even during the job.
        """
        future: Future[T] = Future()
        end = threading.Event()

        def run() -> None:
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - raised again by call(), which waits
                future.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - such as PyO3's PanicException
                # As an Exception: whoever waits would not catch another one.
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
            end.set()

        with self._condition:
            if self._stop_request.is_set():
                raise WorkerStoppedError("the worker has been stopped")
            self._jobs.queue.append(run)
            self._waiting.add(end)
            self._condition.notify()
        in_time = end.wait(timeout)
        with self._condition:
            self._waiting.discard(end)
            if not in_time and not future.done():
                with suppress(ValueError):  # it has begun
                    self._jobs.queue.remove(run)
                raise WorkerTimeoutError(self._stack())
        if not future.done():
            raise WorkerStoppedError("the worker has been stopped")
        return future.result()

    def stop(self, grace: float) -> bool:
        """Stop after the piece of work under way; return True if it ended in `grace` seconds."""
        with self._condition:
            self._stop_request.set()
            for end in self._waiting:
                end.set()
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(grace)
        return not self._thread.is_alive()

    def _stack(self) -> list[str]:
        """List the modules that the worker's thread is in, the innermost first."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        modules = []
        while frame is not None:
            modules.append(str(frame.f_globals.get("__name__", "")))
            frame = frame.f_back
        return modules

    def _loop(self) -> None:
        while True:
            source = self._wait()
            if source is None:
                return
            try:
                source.run()
            except BaseException as error:  # noqa: BLE001 - the node reports it and ends
                self._on_crash(error)
                return

    def _wait(self) -> WorkSource | None:
        """Return the next source in turn that has work; None once the worker is stopped."""
        with self._condition:
            while not self._stop_request.is_set():
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
    """Source of the jobs from call()."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()

    def delay(self) -> float | None:
        return 0.0 if self.queue else None

    def run(self) -> None:
        self.queue.popleft()()
