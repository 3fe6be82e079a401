"""Facts about the CPU, from the operating system."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Linux's flags of units that multiply bfloat16, best first.
_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm's BF16"}
# Variables that restrict PyTorch, or oneDNN in PyTorch and OpenVINO, to less than the CPU has.
_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)


@functools.cache
def bf16_unit(cpuinfo: Path = _CPUINFO) -> str:
    """Name the unit for bfloat16; empty if there is none or the system does not tell.

    A unit does not imply speed: see backends/base/bf16.py. Never raises.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = values.split()
            return next((unit for flag, unit in _BF16.items() if flag in flags), "")
    return ""


@functools.cache
def name(cpuinfo: Path = _CPUINFO) -> str:
    """Name the processor, for tables of measurements; "unknown CPU" if it is not known."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown CPU"
    fields = (line.partition(":") for line in lines)
    return next((v.strip() for key, _, v in fields if key.strip() == "model name"), "unknown CPU")


def identity() -> dict[str, str]:
    """Identify this CPU, as far as libraries may use it, as a key for measurements."""
    limits = {limit: value for limit in _LIMITS if (value := os.environ.get(limit))}
    return {"cpu": name(), "bf16 unit": bf16_unit() or "none", **limits}
