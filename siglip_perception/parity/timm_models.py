"""Import timm's models, with or without torchvision.

timm's data module imports torchvision for transforms that its models never use. If torchvision is
missing, or built for another PyTorch, that import would fail.
"""

from __future__ import annotations

import importlib
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

from torch import nn

from siglip_perception.contracts import EncoderSpec
from siglip_perception.util import requirements

_NAME = "torchvision"


class _Names(type):
    """Metaclass of classes with any attribute."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    """A module with a class of any name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (nn.Module,), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        is_torchvision = fullname == _NAME or fullname.startswith(f"{_NAME}.")
        return ModuleSpec(fullname, self, is_package=True) if is_torchvision else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def import_timm() -> Any:
    """Import timm; raise PerceptionError, with how to install it, if it is missing."""
    if sys.modules.get("timm"):
        return sys.modules["timm"]
    stand_in = not _has_torchvision()
    finder = _Finder()
    if stand_in:
        sys.meta_path.insert(0, finder)
    try:
        return requirements.load("The reference of this contract", "timm")
    finally:
        if stand_in:
            # transformers checks for torchvision too, and must not find the stand-in.
            sys.meta_path.remove(finder)
            for name in [n for n in sys.modules if n == _NAME or n.startswith(f"{_NAME}.")]:
                del sys.modules[name]


def create_model(spec: EncoderSpec, image_size: int) -> Any:
    """Create timm's model of the contract's encoder for that image size, with timm's init.

    Width, depth and heads are the contract's; if they differ from timm's, loading timm's weights
    fails with an error.
    """
    shape = {"embed_dim": spec.dim, "depth": spec.layers, "num_heads": spec.heads}
    return import_timm().create_model(
        spec.timm,
        pretrained=False,
        num_classes=0,
        img_size=image_size,
        **{name: value for name, value in shape.items() if value},
    )


def _has_torchvision() -> bool:
    try:
        importlib.import_module("torchvision.transforms")
    except Exception:  # noqa: BLE001 - a build for another PyTorch raises RuntimeError
        for name in [n for n in sys.modules if n == _NAME or n.startswith(f"{_NAME}.")]:
            del sys.modules[name]
        return False
    return True
