"""Probe of TensorRT in a process of its own: can it be used here?

A TensorRT whose libraries do not fit the driver may crash the process that loads it, and a broken
driver may hang it. `python -m siglip_perception.backends.tensorrt.probe` takes that risk in the
node's place. It prints its findings as lines of JSON, so that those before a crash are kept.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from siglip_perception.errors import first_line
from siglip_perception.util import requirements

# In order of preference: tensorrt_rtx is for desktop cards only.
MODULES = ("tensorrt", "tensorrt_rtx")
# Timeout of the probe: loading CUDA and TensorRT for the first time after boot takes a Jetson half
# a minute.
_TIMEOUT_S = 120.0
_STEP = "doing"
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class TensorRTStatus:
    """Findings as text; "" or False: not found, or not reached.

    module: tensorrt or tensorrt_rtx.
    builds: a Builder can be made. runs: a Runtime can be made.
    gpu, capability, multiprocessors, driver: of the first GPU that PyTorch sees; capability as in
        "9.0".
    trouble: why TensorRT cannot be used, one sentence; empty if it can.
    """

    module: str = ""
    version: str = ""
    builds: bool = False
    runs: bool = False
    gpu: str = ""
    capability: str = ""
    multiprocessors: str = ""
    driver: str = ""
    trouble: str = ""


def install() -> str:
    """Say how to get TensorRT, without a final full stop."""
    return (
        "10.3 or newer is part of JetPack; elsewhere"
        f" {requirements.install_command('tensorrt', 'onnx', 'onnxscript')}; for a GeForce RTX"
        f" {requirements.install_command('tensorrt_rtx', 'onnx', 'onnxscript')}"
    )


def is_installed() -> bool:
    """True if a TensorRT module can be found; it is not loaded."""
    return any(map(_is_importable, MODULES))


@functools.cache
def probe() -> TensorRTStatus:
    """Return the child process's findings; run once in a process."""
    if not is_installed():
        return TensorRTStatus(
            trouble=f"TensorRT is not installed: {install()}; or use backend: torch."
        )
    return run_probe([sys.executable, "-m", __name__], _TIMEOUT_S)


def run_probe(command: Sequence[str], seconds: float) -> TensorRTStatus:
    """Run the command and read what it prints; never raises, whatever happens to it."""
    try:
        process = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        output, ending = process.stdout, _describe_failure(process.returncode)
    except subprocess.TimeoutExpired as error:
        output, ending = error.stdout or b"", f"did not end in {seconds:g} s"
    except OSError as error:
        return TensorRTStatus(
            trouble=f"TensorRT cannot be probed ({error.strerror}): use backend: torch."
        )
    findings = _merge_lines(output.decode(errors="replace"))
    step = findings.pop(_STEP, "it started")
    if ending and not findings.get("trouble"):
        findings["trouble"] = (
            f"TensorRT cannot be used: the process that probes it {ending} when {step}; the"
            " driver and TensorRT have to fit each other, or use backend: torch."
        )
    field_names = {field.name for field in fields(TensorRTStatus)}
    return TensorRTStatus(
        **{name: value for name, value in findings.items() if name in field_names}
    )


def _describe_failure(code: int) -> str:
    """Say how a process failed; empty if it did not."""
    if code >= 0:
        return f"failed with status {code}" if code else ""
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _merge_lines(output: str) -> dict[str, Any]:
    """Merge all lines that are JSON objects; later ones win."""
    findings: dict[str, Any] = {}
    for line in output.splitlines():
        try:
            message = json.loads(line)
        except ValueError:  # a library's own output
            continue
        if isinstance(message, dict):
            findings.update(message)
    return findings


def driver() -> str:
    """Return the NVIDIA driver's own version text; empty if there is none."""
    try:
        return " ".join(_DRIVER.read_text().splitlines()[0].removeprefix("NVRM version:").split())
    except (OSError, IndexError):
        pass  # WSL has no such file
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(output.splitlines()), "").strip()


def machine(device: Any) -> Mapping[str, str]:
    """Facts besides TensorRT that an engine depends on: PyTorch's GPU properties, driver."""
    import torch

    if torch.device(device).type != "cuda":
        return {"gpu": "none", "capability": "", "multiprocessors": "", "driver": ""}
    card = torch.cuda.get_device_properties(device)
    return {
        "gpu": str(card.name),
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": str(card.multi_processor_count),
        "driver": driver(),
    }


def load_library(name: str) -> Any:
    """Import the module of that name; its errors pass through."""
    return importlib.import_module(name)


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _investigate() -> Iterator[Mapping[str, Any]]:
    """Yield findings step by step; each step is announced before it is taken."""
    yield {_STEP: "it looked for a GPU"}
    import torch

    if torch.cuda.is_available():
        yield machine("cuda")
    else:
        yield {"driver": driver()}
    library, failures = None, []
    for name in filter(_is_importable, MODULES):
        yield {_STEP: f"it loaded {name}"}
        try:
            library = load_library(name)
        except Exception as error:  # noqa: BLE001 - a broken library raises anything
            failures.append(f"{name}: {first_line(error)}")
            continue
        yield {"module": name, "version": str(library.__version__)}
        break
    if library is None:
        reason = "; ".join(failures) or "it is not installed"
        yield {
            "trouble": f"TensorRT cannot be loaded ({reason}): {install()}; or use backend: torch."
        }
        return
    # Keep a reference: the objects made with it do not.
    logger = library.Logger(library.Logger.ERROR)
    yield {_STEP: "it made a Builder"}
    yield {"builds": _can_make(lambda: library.Builder(logger))}
    if not torch.cuda.is_available():
        yield {
            "trouble": "TensorRT needs a CUDA GPU, and PyTorch sees none: check nvidia-smi and"
            " torch.version.cuda, or use backend: torch."
        }
        return
    yield {_STEP: "it made a Runtime"}
    runs = _can_make(lambda: library.Runtime(logger))
    yield {"runs": runs}
    if not runs:
        yield {
            "trouble": f"TensorRT {library.__version__} makes no Runtime with the driver"
            f" {driver() or 'that is here'}: update the driver, or use backend: torch."
        }


def _can_make(make: Any) -> bool:
    try:
        return make() is not None
    except Exception:  # noqa: BLE001 - what cannot be made is not there, whatever it raises
        return False


def main() -> int:
    for findings in _investigate():
        print(json.dumps(dict(findings)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
