"""`siglip-perception doctor`: report what is installed, what is missing, and how to get it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from siglip_perception.config import ModelSelection
from siglip_perception.errors import PerceptionError, first_line
from siglip_perception.util import requirements, ros
from siglip_perception.util.ros_probe import PARTS

# Optional distributions.
_EXTRA = ("openvino", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx")
# Optional packages of ROS 2 and their use.
_ROS_EXTRA = {
    "cv_bridge": "rare image encodings",
    "vision_msgs": "~/detections",
    "launch_ros": "ros2 launch",
}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "asimddp", "bf16", "i8mm", "sve")
_GOOD_BUFFER = 4 * 2**20


@dataclass
class Report:
    """Result of the examination. ready: the model gave tokens and objects for a test frame."""

    ready: bool = False
    python: str = ""
    system: str = ""
    cpu: dict[str, str] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=list)
    packages: dict[str, str | None] = field(default_factory=dict)
    ros: dict[str, str | None] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def run(model: str, *, as_json: bool) -> int:
    """Print the report; return 0 if the main job runs here, otherwise 1."""
    report = examine(model)
    print(json.dumps(asdict(report), indent=2) if as_json else "\n".join(_lines(report)))
    return 0 if report.ready else 1


def examine(model: str) -> Report:
    """Examine this machine, then load the model and run a test frame through it."""
    report = Report(python=platform.python_version(), system=platform.platform())
    report.cpu = _cpu()
    missing_names = _packages(report)
    _ros(report)
    if requirements.is_there("torch"):
        try:
            _torch(report)
        except Exception as error:  # noqa: BLE001 - a broken library may raise anything
            report.backends["torch cpu"] = "does not start"
            reason = f"{type(error).__name__}: {first_line(error)}"
            report.missing.append(f"a PyTorch that starts: {reason}; install it again")
            missing_names.append("torch")
    if not missing_names:
        report.pixels = _pixels()
        try:
            _tensorrt(report)
            _main_job(report, model)
        except (PerceptionError, FloatingPointError) as error:
            report.missing.append(f"a model that runs: {error}")
        except Exception as error:  # noqa: BLE001 - as above
            reason = f"{type(error).__name__}: {first_line(error)}"
            report.missing.append(
                f"libraries that work together, for the main job: {reason}; install the one"
                " that it names again"
            )
    return report


def _packages(report: Report) -> list[str]:
    """Record each package's version; return the missing packages that the main job needs."""
    for name in (*requirements.required_packages(), *_EXTRA):
        local_name, version = requirements.installed(name)
        report.packages[local_name] = version
    if not requirements.required_packages():
        report.missing.append(
            "siglip_perception itself, whose installation says which versions are needed: pip"
            " install . in a clone, or source install/setup.bash where colcon built it"
        )
    missing_names = []
    for name, sentence in requirements.shortcomings():
        missing_names.append(name)
        report.missing.append(sentence)
    return missing_names


def _cpu() -> dict[str, str]:
    facts = {"cores": str(os.cpu_count() or 0), "machine": platform.machine()}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        pairs = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in pairs}
        facts["name"] = fields.get("model name", fields.get("CPU part", "unknown"))
        flags = set(fields.get("flags", fields.get("Features", "")).split())
        flag_names = _CPU_FLAGS if "flags" in fields else _ARM_FLAGS
        facts["features"] = (
            " ".join(flag for flag in flag_names if flag in flags) or "none of note"
        )
    return facts


def _pixels() -> dict[str, str]:
    """Sort the packaged contracts by where their pixel steps run."""
    from siglip_perception import contracts
    from siglip_perception.commands.contracts import where

    names: dict[str, list[str]] = {}
    for name in contracts.names():
        names.setdefault(where(contracts.get(name)), []).append(name)
    return {place: ", ".join(of_place) for place, of_place in names.items()}


def _ros(report: Report) -> None:
    parts = ros.probe_parts()
    for part in (*PARTS, *_ROS_EXTRA):
        state = parts.get(part, {})
        report.ros[part] = "installed" if state else None
        if state.get("error"):
            report.ros[part] = f"does not work: {state['error']}"
    # Without rclpy nothing else of ROS works, so one sentence is enough.
    missing_parts = [part for part in PARTS if ros.trouble(part, parts.get(part, {}))]
    for part in missing_parts[:1] if "rclpy" in missing_parts else missing_parts:
        report.missing.append(f"for the node: {ros.trouble(part, parts.get(part, {}))}")
    if "rclpy" not in missing_parts:
        for part, use in _ROS_EXTRA.items():
            if sentence := ros.trouble(part, parts.get(part, {})):
                report.missing.append(f"for {use}: {sentence}")
    for variable in ("ROS_DISTRO", "RMW_IMPLEMENTATION", "ROS_DOMAIN_ID"):
        report.ros[variable] = os.environ.get(variable)
    profiles = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    report.ros["Fast DDS profile"] = next(filter(None, map(os.environ.get, profiles)), None)
    limit = Path("/proc/sys/net/core/rmem_max")
    if limit.is_file():
        size = int(limit.read_text())
        report.ros["net.core.rmem_max"] = str(size)
        if size < _GOOD_BUFFER:
            report.missing.append(
                f"receive buffers of {_GOOD_BUFFER} bytes, for large images over the network:"
                f" sudo sysctl -w net.core.rmem_max={_GOOD_BUFFER}"
            )


def _torch(report: Report) -> None:
    import torch

    report.cpu["threads"] = str(torch.get_num_threads())
    report.backends["torch cpu"] = f"ready, PyTorch {torch.__version__}"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            report.gpus.append(
                f"{card.name}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}"
            )
        report.backends["torch cuda"] = f"ready, CUDA {torch.version.cuda}"
        return
    report.backends["torch cuda"] = "no GPU that PyTorch sees"
    cards = _nvidia_smi()
    if cards:
        report.gpus += cards
        report.missing.append(
            "a PyTorch with CUDA, for the GPU that is there: see pytorch.org/get-started"
        )


def _tensorrt(report: Report) -> None:
    from siglip_perception.backends.tensorrt.probe import is_installed, probe

    if not is_installed():
        report.backends["tensorrt"] = "not installed"
        return
    status = probe()
    if status.trouble:
        report.backends["tensorrt"] = status.trouble
        return
    report.backends["tensorrt"] = (
        f"ready, {status.module} {status.version}, driver {status.driver or 'unknown'}"
    )


def _nvidia_smi() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        result = subprocess.run(
            [program, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"nvidia-smi fails ({type(error).__name__})"]
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def _main_job(report: Report, model: str) -> None:
    import numpy as np

    from siglip_perception import checkpoints
    from siglip_perception.language import instruction
    from siglip_perception.pipeline import Pipeline
    from siglip_perception.types import Frame

    folder = checkpoints.resolve(model)
    report.model["folder"] = str(folder)
    file_count = checkpoints.verify(folder)
    report.model["verified"] = (
        f"{file_count} files by SHA-256" if file_count else "no manifest.json to check it with"
    )
    pipeline = Pipeline.load(ModelSelection(model))
    frame = Frame(np.full((480, 640, 3), 128, dtype=np.uint8))
    query = pipeline.query(instruction.from_phrases(["red cup"]))
    start = time.perf_counter()
    pipeline.process(frame, query)
    report.model["contract"] = pipeline.contract.name
    report.model["fingerprint"] = pipeline.fingerprint
    report.model["serves"] = pipeline.backend
    report.model["frame"] = f"{(time.perf_counter() - start) * 1000:.0f} ms for 640x480"
    report.ready = True


def _lines(report: Report) -> list[str]:
    lines = [f"Python {report.python}, {report.system}", _table("CPU", report.cpu)]
    lines.append("GPU: " + ("; ".join(report.gpus) or "none"))
    for title, values in (
        ("Packages", report.packages),
        ("ROS 2", report.ros),
        ("Backends", report.backends),
        ("Model", report.model),
        ("Pixel steps run", report.pixels),
    ):
        lines.append(_table(title, values))
    if report.missing:
        lines.append("Missing:")
        lines += [f"  - {line}" for line in report.missing]
    lines.append(
        "The main job runs here." if report.ready else "The main job does not run here: see above."
    )
    return lines


def _table(title: str, values: Mapping[str, str | None]) -> str:
    rows = [f"  {name}: {value if value is not None else '-'}" for name, value in values.items()]
    return "\n".join([f"{title}:", *rows])
