"""Whether TensorRT can be used here, found out in a process of its own.

A TensorRT whose libraries do not fit the driver may end the process that loads it, and a broken
driver may hang it; `python -m siglip_perception.backends.tensorrt.probe` does both in the node's
place. It prints what it finds as lines of JSON, so that what was found before a crash is kept.
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

from siglip_perception.util import requirements

# The full library first: the other one is for desktop cards alone.
MODULES = ("tensorrt", "tensorrt_rtx")
# Loading CUDA and TensorRT for the first time after boot takes a Jetson half a minute.
_SECONDS = 120.0
_DOING = "doing"
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Probe:
    """What was found, as text; "" or False: not found, or not come to.

    module: tensorrt or tensorrt_rtx. builds: a Builder can be made. runs: a Runtime can be made.
    gpu, capability ("9.0"), multiprocessors, driver: of the first GPU that PyTorch sees.
    trouble: why TensorRT cannot be used, one sentence; empty where it can.
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
    """How to get TensorRT, without a stop."""
    return (
        "10.3 or newer is part of JetPack; elsewhere"
        f" {requirements.install_command('tensorrt', 'onnx', 'onnxscript')}; for a GeForce RTX"
        f" {requirements.install_command('tensorrt_rtx', 'onnx', 'onnxscript')}"
    )


def is_installed() -> bool:
    """Whether a TensorRT module is there; it is not loaded."""
    return any(map(_is_there, MODULES))


@functools.cache
def probe() -> Probe:
    """What the child process found; asked once in a process."""
    if not is_installed():
        return Probe(trouble=f"TensorRT is not installed: {install()}; or use backend: torch.")
    return ask([sys.executable, "-m", __name__], _SECONDS)


def ask(command: Sequence[str], seconds: float) -> Probe:
    """Run the command and read what it prints; raises nothing, whatever becomes of it."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        printed, ended = done.stdout, _ending(done.returncode)
    except subprocess.TimeoutExpired as error:
        printed, ended = error.stdout or b"", f"did not end in {seconds:g} s"
    except OSError as error:
        return Probe(trouble=f"TensorRT cannot be probed ({error.strerror}): use backend: torch.")
    found = _read(printed.decode(errors="replace"))
    doing = found.pop(_DOING, "it started")
    if ended and not found.get("trouble"):
        found["trouble"] = (
            f"TensorRT cannot be used: the process that probes it {ended} when {doing}; the"
            " driver and TensorRT have to fit each other, or use backend: torch."
        )
    known = {field.name for field in fields(Probe)}
    return Probe(**{name: value for name, value in found.items() if name in known})


def _ending(code: int) -> str:
    """How a process failed, in words; empty where it did not."""
    if code >= 0:
        return f"failed with status {code}" if code else ""
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _read(printed: str) -> dict[str, Any]:
    """All lines that are JSON objects, the later over the earlier."""
    found: dict[str, Any] = {}
    for line in printed.splitlines():
        try:
            said = json.loads(line)
        except ValueError:  # a library's own talk
            continue
        if isinstance(said, dict):
            found.update(said)
    return found


def driver() -> str:
    """The NVIDIA driver's own words for its version; empty where there is none."""
    try:
        return " ".join(_DRIVER.read_text().splitlines()[0].removeprefix("NVRM version:").split())
    except (OSError, IndexError):
        pass  # WSL has no such file
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(said.splitlines()), "").strip()


def machine(device: Any) -> Mapping[str, str]:
    """What an engine depends on beside TensorRT: the GPU, by PyTorch's properties, and driver."""
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
    """The module of that name; what it raises comes through."""
    return importlib.import_module(name)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _look() -> Iterator[Mapping[str, Any]]:
    """What is found, step by step; each step is announced before it is taken."""
    yield {_DOING: "it looked for a GPU"}
    import torch

    if torch.cuda.is_available():
        yield machine("cuda")
    else:
        yield {"driver": driver()}
    library, failed = None, []
    for name in filter(_is_there, MODULES):
        yield {_DOING: f"it loaded {name}"}
        try:
            library = load_library(name)
        except Exception as error:  # noqa: BLE001 - a broken library raises anything
            failed.append(f"{name}: {_first_line(error)}")
            continue
        yield {"module": name, "version": str(library.__version__)}
        break
    if library is None:
        why = "; ".join(failed) or "it is not installed"
        yield {
            "trouble": f"TensorRT cannot be loaded ({why}): {install()}; or use backend: torch."
        }
        return
    # It has to be kept: what is made with it does not keep it.
    logger = library.Logger(library.Logger.ERROR)
    yield {_DOING: "it made a Builder"}
    yield {"builds": _makes(lambda: library.Builder(logger))}
    if not torch.cuda.is_available():
        yield {
            "trouble": "TensorRT needs a CUDA GPU, and PyTorch sees none: check nvidia-smi and"
            " torch.version.cuda, or use backend: torch."
        }
        return
    yield {_DOING: "it made a Runtime"}
    runs = _makes(lambda: library.Runtime(logger))
    yield {"runs": runs}
    if not runs:
        yield {
            "trouble": f"TensorRT {library.__version__} makes no Runtime with the driver"
            f" {driver() or 'that is here'}: update the driver, or use backend: torch."
        }


def _makes(make: Any) -> bool:
    try:
        return make() is not None
    except Exception:  # noqa: BLE001 - what cannot be made is not there, whatever it raises
        return False


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def main() -> int:
    for said in _look():
        print(json.dumps(dict(said)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
