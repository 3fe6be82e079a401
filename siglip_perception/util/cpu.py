"""What the CPU is, as the system says it."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Flags of Linux for units that multiply bfloat16, best first.
_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm's BF16"}
# Variables that hold PyTorch, or oneDNN in PyTorch and in OpenVINO, below what the CPU has.
_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)


@functools.cache
def bf16_unit(cpuinfo: Path = _CPUINFO) -> str:
    """The unit for bfloat16, in words; empty where there is none, or it is not known.

    Having one is not to be fast: see backends/bf16.py. Raises nothing.
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
    """The processor's name, as in a table of measurements; "unknown CPU" where it is not said."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown CPU"
    found = (line.partition(":") for line in lines)
    return next((v.strip() for key, _, v in found if key.strip() == "model name"), "unknown CPU")


def identity() -> dict[str, str]:
    """What tells this CPU, as libraries may use it, from others: for what is measured on it."""
    limits = {limit: value for limit in _LIMITS if (value := os.environ.get(limit))}
    return {"cpu": name(), "bf16 unit": bf16_unit() or "none", **limits}
