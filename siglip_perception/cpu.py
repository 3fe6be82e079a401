"""What the CPU can do, as the system says it."""

from __future__ import annotations

import functools
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Flags of Linux for units that multiply bfloat16, best first: without one it is emulated, and
# several times slower than float32.
_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm's BF16"}


@functools.cache
def bf16_unit(cpuinfo: Path = _CPUINFO) -> str:
    """The unit that makes bfloat16 fast, in words; empty where there is none, or it is not known.

    Raises nothing: a system that does not say has none.
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
