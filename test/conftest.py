"""What every test runs under."""

from __future__ import annotations

from siglip_perception.threads import spin_briefly

# Before any test module imports PyTorch.
spin_briefly()
