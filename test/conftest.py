"""What every test runs under."""

from __future__ import annotations

import os

from siglip_perception.threads import spin_briefly

# Fast DDS can wait for ever when it closes a shared-memory port that a killed process has left,
# and tests kill processes. Before rclpy is imported; a profile, as the demo's, overrides it.
os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
# Before any test module imports PyTorch.
spin_briefly()
