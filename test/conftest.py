"""What every test runs under."""

from __future__ import annotations

from siglip_perception.threads import sleep_while_waiting

# Before any test module imports PyTorch.
sleep_while_waiting()
