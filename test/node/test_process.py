"""The request to stop: by a signal, whichever thread it comes to, or by one's own word."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from siglip_perception.node.stop_request import StopRequest

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    yield StopRequest()
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_wait(stop: StopRequest, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    stop.wait()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_during_wait(stop: StopRequest, number: signal.Signals) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
    timer.start()
    stop.wait()
    timer.join()


def test_a_signal_that_comes_to_another_thread(stop: StopRequest) -> None:
    ready, end = threading.Event(), threading.Event()

    def other() -> None:
        ready.set()
        end.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(10)
    signal.pthread_kill(thread.ident or 0, signal.SIGTERM)
    stop.wait()
    end.set()
    thread.join()


def test_a_request_from_another_thread(stop: StopRequest) -> None:
    thread = threading.Thread(target=stop.request)
    thread.start()
    stop.wait()
    thread.join()
