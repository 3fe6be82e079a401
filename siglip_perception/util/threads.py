"""How PyTorch's threads wait for each other; to be set before PyTorch is imported."""

from __future__ import annotations

import os


def spin_briefly() -> None:
    """Let OpenMP's threads spin only briefly at their barriers, unless the user said otherwise.

    GNU's libgomp spins for milliseconds by default. Where a camera driver or a policy wants the
    cores too, that takes them from the one thread which is waited for, and a frame takes many
    times as long; not to spin at all costs a quiet machine half its speed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
