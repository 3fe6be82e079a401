"""Waiting of PyTorch's threads for each other; set it before PyTorch is imported."""

from __future__ import annotations

import os


def spin_briefly() -> None:
    """Make OpenMP's threads spin only briefly at barriers, unless the user chose otherwise.

    GNU's libgomp spins for milliseconds by default. When a camera driver or a policy needs the
    cores, too, spinning takes them from the one thread that the others wait for, and a frame takes
    many times as long. Not spinning at all halves the speed of an idle machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
