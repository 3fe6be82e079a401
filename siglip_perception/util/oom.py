"""Memory: how its end is told apart from other errors, what is freed then, and what is kept."""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path

_OPENCV_NO_MEMORY = -4  # cv::Error::StsNoMem


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether this is PyTorch's, Python's or OpenCV's way to say that memory is used up."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if type(error).__module__ == "cv2":
        return getattr(error, "code", None) == _OPENCV_NO_MEMORY
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take, by the system's and its container's word.

    None where neither is known. root: of /proc and /sys.
    """
    limits = []
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) * 1024)
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            folder = root / "sys/fs/cgroup"
            limits.append(int((folder / limit).read_text()) - int((folder / usage).read_text()))
    return max(0, min(limits)) if limits else None


def free_memory() -> None:
    """Gives back what Python and PyTorch keep for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_what_is_loaded() -> None:
    """Lets Python's garbage collector no longer walk what is there now.

    PyTorch and a model are some 400,000 objects; to walk them stops all threads for 150 ms, and
    the objects that frames leave behind bring that about every few seconds.
    """
    gc.collect()
    gc.freeze()


def let_go_of_what_was_loaded() -> None:
    """Undoes keep_what_is_loaded, and frees what nothing refers to any more."""
    gc.unfreeze()
    free_memory()
