"""The worker: one thread, turns, jobs that are waited for, and an end that frees everyone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from siglip_perception.node.worker import Worker, WorkerStoppedError, WorkerTimeoutError

TIMEOUT = 10.0


class Queue:
    """A source of work that a test fills; the work is due `wait` seconds after it was asked."""

    def __init__(self, wait: float = 0.0) -> None:
        self.items: list[Callable[[], None]] = []
        self.due = time.monotonic() + wait

    def delay(self) -> float | None:
        return max(0.0, self.due - time.monotonic()) if self.items else None

    def run(self) -> None:
        self.items.pop(0)()


@pytest.fixture
def crashes() -> list[BaseException]:
    return []


@pytest.fixture
def worker(crashes: list[BaseException]) -> Iterator[Worker]:
    made = Worker(crashes.append)
    yield made
    made.stop(TIMEOUT)


def test_every_job_runs_on_the_same_other_thread(worker: Worker) -> None:
    worker.start()
    threads = {worker.call(threading.get_ident) for _ in range(20)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_a_job_raises_is_raised_where_it_is_waited_for(worker: Worker) -> None:
    worker.start()
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0)
    assert worker.call(lambda: 7) == 7


def test_sources_take_turns(worker: Worker) -> None:
    order: list[str] = []
    end = threading.Event()
    sources = {name: Queue() for name in "ab"}
    for name, source in sources.items():
        source.items = [lambda name=name: order.append(name)] * 3  # type: ignore[misc]
        worker.add(source)
    sources["b"].items.append(end.set)
    worker.start()
    worker.notify()
    assert end.wait(TIMEOUT)
    assert order == ["a", "b"] * 3


def test_work_that_is_due_later_is_done_then_without_being_notified(worker: Worker) -> None:
    source, end = Queue(wait=0.2), threading.Event()
    source.items.append(end.set)
    worker.add(source)
    start = time.monotonic()
    worker.start()
    assert end.wait(TIMEOUT)
    assert time.monotonic() - start >= 0.15


def test_a_source_that_raises_is_reported_and_ends_the_worker(
    worker: Worker, crashes: list[BaseException]
) -> None:
    source = Queue()
    source.items.append(lambda: [][0])
    worker.add(source)
    worker.start()
    worker.notify()
    assert worker.stop(TIMEOUT)
    assert [type(error) for error in crashes] == [IndexError]


def test_stop_frees_those_who_wait_for_a_job_that_never_ends(
    worker: Worker,
) -> None:
    started, release, freed = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        started.set()
        release.wait(TIMEOUT)

    def wait(what: Callable[[], None]) -> None:
        with pytest.raises(WorkerStoppedError):
            worker.call(what)
        freed.set()

    worker.start()
    running = threading.Thread(target=wait, args=(job,))
    running.start()
    assert started.wait(TIMEOUT)
    assert not worker.stop(0.01)
    assert freed.wait(TIMEOUT)
    running.join(TIMEOUT)
    with pytest.raises(WorkerStoppedError):
        worker.call(lambda: None)
    release.set()
    assert worker.stop(TIMEOUT)


def test_stop_finishes_what_is_under_way_and_nothing_else(worker: Worker) -> None:
    started, release = threading.Event(), threading.Event()
    done: list[str] = []
    source = Queue()

    def first() -> None:
        started.set()
        release.wait(TIMEOUT)
        done.append("first")

    source.items += [first, lambda: done.append("second")]
    worker.add(source)
    worker.start()
    worker.notify()
    assert started.wait(TIMEOUT)
    assert not worker.stop(0.01)
    release.set()
    assert worker.stop(TIMEOUT)
    assert done == ["first"]


class PanicError(BaseException):
    """Like PyO3's PanicException, which is no Exception."""


def raise_panic() -> None:
    raise PanicError("a tokenizer")


def test_a_panic_ends_neither_the_worker_nor_whoever_waits(worker: Worker) -> None:
    worker.start()
    with pytest.raises(RuntimeError, match="PanicError: a tokenizer"):
        worker.call(raise_panic)
    assert worker.call(lambda: 7) == 7


def test_a_panic_of_a_source_is_reported(worker: Worker, crashes: list[BaseException]) -> None:
    queue = Queue()
    queue.items.append(raise_panic)
    worker.add(queue)
    worker.start()
    worker._thread.join(TIMEOUT)
    assert [type(error) for error in crashes] == [PanicError]


def test_a_job_that_takes_too_long_is_given_up_with_where_it_is(worker: Worker) -> None:
    worker.start()
    go_on, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        go_on.wait(TIMEOUT)

    with pytest.raises(WorkerTimeoutError) as caught:
        worker.call(wait, 0.05)
    assert began.wait(TIMEOUT)
    if "threading" in caught.value.modules:
        assert __name__ in caught.value.modules
    never: list[int] = []
    with pytest.raises(WorkerTimeoutError):
        worker.call(lambda: never.append(1), 0.01)
    go_on.set()
    assert worker.call(lambda: 7) == 7
    assert never == []
