"""PyTorch serves while engines are built; then they do, from one frame to the next.

They are built in a process of its own (builder.py): a crash of it, or the want of memory, does not
end the node. It ends with the node, even if that is killed.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from siglip_perception.backends.serving import Runner, Serving
from siglip_perception.encoders.encoders import Features
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.types import Precision

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where another process finds the same encoders: the parameters that name them."""

    model: str
    contract: str = ""
    grounding_model: str = ""
    grounding_contract: str = ""


class Swapping(Serving):
    """Serves as `first` does until engines are ready, then as these do.

    The change is made at the start of a pass, on the thread that makes it; no pass waits for it.
    """

    def __init__(
        self,
        first: Serving,
        command: Sequence[str],
        load: Callable[[], tuple[Runner, str]],
    ) -> None:
        """command: builds the engines, see builder.py. load: what serves then, and its head;
        called on another thread; may raise BackendError."""
        super().__init__(first.run, first.head, first.notes)
        self._work = _Work()
        thread = threading.Thread(
            target=_build_and_load, args=(self._work, command, load), name="engines", daemon=True
        )
        # Also at the end of this process; the thread must not keep this object alive.
        weakref.finalize(self, self._work.stop)
        thread.start()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(filter(None, [*super().notes, self._work.note]))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the engines are ready or have failed; whether that came about."""
        return self._work.done.wait(seconds)

    def __call__(
        self, inputs: Mapping[EncoderInput, Tensor], *, with_tokens: bool, grounded: Sequence[int]
    ) -> Features:
        ready = self._work.take()
        if ready is not None:
            self.run, self.head = ready
            _LOGGER.info("From this frame on %s serves.", self.head)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # of PyTorch's weights
        return super().__call__(inputs, with_tokens=with_tokens, grounded=grounded)


class _Work:
    """What the thread that waits for engines shares with what serves."""

    def __init__(self) -> None:
        self.note = "TensorRT engines are being built"
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._ready: tuple[Runner, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        """The process of the command; None where it is no more wanted."""
        with self._lock:
            if self._stopped:
                return None
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            return self._process

    def stop(self) -> None:
        """End the process, if there is one; nothing becomes ready any more."""
        with self._lock:
            self._stopped = True
            self._ready = None
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def finish(self, ready: tuple[Runner, str] | None, note: str) -> None:
        with self._lock:
            if not self._stopped:
                self._ready = ready
            self.note = note
        self.done.set()

    def take(self) -> tuple[Runner, str] | None:
        """What has become ready, once."""
        if self._ready is None:
            return None
        with self._lock:
            ready, self._ready = self._ready, None
            if ready is not None:
                self.note = ""
            return ready


def builder_command(
    source: Source, library: str, device: torch.device, precision: Precision
) -> list[str]:
    """What builds the engines of these encoders with that module, see builder.py."""
    asked = {
        **asdict(source),
        "library": library,
        "device": str(device),
        "precision": precision,
    }
    return [
        sys.executable,
        "-m",
        "siglip_perception.backends.tensorrt.build_process",
        json.dumps(asked),
    ]


def _build_and_load(
    work: _Work, command: Sequence[str], load: Callable[[], tuple[Runner, str]]
) -> None:
    try:
        failed = _build(work, command)
        ready = None
        if not failed:
            work.note = "TensorRT engines are being loaded"
            ready = load()
    except (BackendError, torch.OutOfMemoryError) as error:
        failed = f"{error}"
    except Exception as error:  # noqa: BLE001 - whatever a library raises, PyTorch serves on
        failed = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if failed:
        reason = next(iter(failed.splitlines()), "no reason given").rstrip(".")
        _LOGGER.warning("No TensorRT engine serves, PyTorch does: %s.", reason)
        work.finish(None, f"no TensorRT engine: {reason}")
    else:
        work.finish(ready, "TensorRT engines serve from the next frame on")


def _build(work: _Work, command: Sequence[str]) -> str:
    """Run the command to its end; why it failed, empty where it did not."""
    process = work.start(command)
    if process is None:
        return "they are no more wanted"
    assert process.stdin is not None
    assert process.stdout is not None
    error = ""
    # Its stdin stays open as long as this process lives, which is how it knows.
    with process:
        for line in process.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # a library's own talk
                continue
            if isinstance(said, dict) and "share" in said:
                work.note = f"TensorRT engines are being built: {float(said['share']):.0%}"
            if isinstance(said, dict) and "error" in said:
                error = str(said["error"])
    code = process.returncode
    if error or code == 0:
        return error
    if code > 0:
        return f"the process that builds them failed with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process that builds them was ended by {name}"
