"""Fused SigLIP and DINOv2 tokens and grounded objects for vision-language-action policies.

    from siglip_perception import Perception
    seen = Perception("tabletop").look("frame.jpg", "pick up the red cup")
    seen.objects, seen.tokens, seen.overlay()

Importing this package imports nothing else; PyTorch is imported when a Perception is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siglip_perception.errors import PerceptionError
    from siglip_perception.perception import Percept, Perception
    from siglip_perception.types import Box, GroundedObject, Role, TokenGrid

__version__ = "0.1.0"

__all__ = [
    "Box",
    "GroundedObject",
    "Percept",
    "Perception",
    "PerceptionError",
    "Role",
    "TokenGrid",
]

_MODULES = {"Percept": "perception", "Perception": "perception", "PerceptionError": "errors"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'types')}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
