"""PyTorch serves while TensorRT engines are built; then the engines do, between two frames.

Another process builds them (build_process.py): if it crashes or runs out of memory, the node goes
on. It ends with the node, even if the node is killed.
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
from dataclasses import asdict

import torch
from torch import Tensor

from siglip_perception.backends.base.serving import Runner, Serving
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Features
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import EncoderInput
from siglip_perception.types import Precision

_LOGGER = logging.getLogger(__name__)


class BackgroundServing(Serving):
    """Serves as `first` does until engines are ready, then with the engines.

    The swap is made at the start of a pass, on the thread that runs it; no pass waits for the
    build.
    """

    def __init__(
        self,
        first: Serving,
        command: Sequence[str],
        load: Callable[[], tuple[Runner, str]],
    ) -> None:
        """Start the build.

        command: builds the engines, see build_process.py.
        load: returns what serves them, and its title; called on another thread; may raise
            BackendError.
        """
        super().__init__(first.run, first.title, first.notes)
        self._build = _BuildState()
        thread = threading.Thread(
            target=_build_and_load, args=(self._build, command, load), name="engines", daemon=True
        )
        # Runs at exit, too; the thread must not keep this object alive.
        weakref.finalize(self, self._build.stop)
        thread.start()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(filter(None, [*super().notes, self._build.note]))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the engines are ready or have failed; False if `seconds` pass first."""
        return self._build.done.wait(seconds)

    def __call__(
        self,
        inputs: Mapping[EncoderInput, Tensor],
        *,
        with_tokens: bool,
        grounding_rows: Sequence[int],
        with_dino: bool = True,
    ) -> Features:
        engines = self._build.take()
        if engines is not None:
            self.run, self.title = engines
            _LOGGER.info("From this frame on %s serves.", self.title)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # frees PyTorch's weights
        return super().__call__(
            inputs,
            with_tokens=with_tokens,
            grounding_rows=grounding_rows,
            with_dino=with_dino,
        )


class _BuildState:
    """State that the building thread shares with the serving one."""

    def __init__(self) -> None:
        self.note = "TensorRT engines are being built"
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._engines: tuple[Runner, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        """Start the process of the command; None after stop()."""
        with self._lock:
            if self._stopped:
                return None
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            return self._process

    def stop(self) -> None:
        """Kill the process if it runs; no engines become ready any more."""
        with self._lock:
            self._stopped = True
            self._engines = None
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def finish(self, engines: tuple[Runner, str] | None, note: str) -> None:
        with self._lock:
            if not self._stopped:
                self._engines = engines
            self.note = note
        self.done.set()

    def take(self) -> tuple[Runner, str] | None:
        """Return the engines once, when they have become ready."""
        if self._engines is None:
            return None
        with self._lock:
            engines, self._engines = self._engines, None
            if engines is not None:
                self.note = ""
            return engines


def builder_command(
    selection: ModelSelection, library: str, device: torch.device, precision: Precision
) -> list[str]:
    """Return the command that builds the engines of these encoders, see build_process.py."""
    request = {
        "selection": asdict(selection),
        "library": library,
        "device": str(device),
        "precision": precision,
    }
    return [
        sys.executable,
        "-m",
        "siglip_perception.backends.tensorrt.build_process",
        json.dumps(request),
    ]


def _build_and_load(
    state: _BuildState, command: Sequence[str], load: Callable[[], tuple[Runner, str]]
) -> None:
    try:
        failure = _build(state, command)
        engines = None
        if not failure:
            state.note = "TensorRT engines are being loaded"
            engines = load()
    except (BackendError, torch.OutOfMemoryError) as error:
        failure = f"{error}"
    except Exception as error:  # noqa: BLE001 - whatever a library raises, PyTorch serves on
        failure = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if failure:
        reason = next(iter(failure.splitlines()), "no reason given").rstrip(".")
        _LOGGER.warning("No TensorRT engine serves, PyTorch does: %s.", reason)
        state.finish(None, f"no TensorRT engine: {reason}")
    else:
        state.finish(engines, "TensorRT engines serve from the next frame on")


def _build(state: _BuildState, command: Sequence[str]) -> str:
    """Run the command to its end; returns why it failed, or empty."""
    process = state.start(command)
    if process is None:
        return "they are no longer needed"
    assert process.stdin is not None
    assert process.stdout is not None
    error = ""
    # The child sees its stdin close when this process ends, and ends too.
    with process:
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # a library's own output
                continue
            if isinstance(message, dict) and "share" in message:
                state.note = f"TensorRT engines are being built: {float(message['share']):.0%}"
            if isinstance(message, dict) and "error" in message:
                error = str(message["error"])
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
