"""How much memory a step takes at its peak, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

from siglip_perception.errors import PerceptionError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(step: Callable[[], object]) -> float:
    """MiB that a call adds at its peak to what this process holds before; memory is given back
    to the system first, so that none is there to be used again unseen.

    Raises PerceptionError where the system has no such count.
    """
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")  # the peak counts from now
        before = _resident("VmRSS")
        step()
        return _resident("VmHWM") - before
    except (OSError, AttributeError) as error:
        raise PerceptionError(
            f"Peak memory is read from Linux's /proc, which says {error}: run this on Linux."
        ) from error


def _resident(field: str) -> float:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
