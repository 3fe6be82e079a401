"""How PyTorch's threads wait; to be set before PyTorch is imported."""

from __future__ import annotations

import os


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep at their barriers, unless the user said otherwise.

    They spin by default. Where a camera driver or a policy wants the cores too, spinning threads
    take them from the one thread that they wait for, and a frame takes twenty times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
