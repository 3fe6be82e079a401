"""Measure the peak memory of a call by Linux's counters."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

from siglip_perception.errors import PerceptionError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(step: Callable[[], object]) -> float:
    """Measure the MiB that a call adds at its peak to the memory of this process.

    Returns freed memory to the system first, so that the call cannot reuse it uncounted.
    Raises PerceptionError on systems without such a counter.
    """
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")  # reset the peak
        baseline = _resident("VmRSS")
        step()
        return _resident("VmHWM") - baseline
    except (OSError, AttributeError) as error:
        raise PerceptionError(
            f"Peak memory is read from Linux's /proc, which says {error}: run this on Linux."
        ) from error


def _resident(field: str) -> float:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
