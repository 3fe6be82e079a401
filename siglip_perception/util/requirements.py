"""Packages that are needed: which are missing or too old here, and the command that brings them.

Versions stand in setup.py alone; they are read from what it wrote down when this package was
installed, by pip or by colcon.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from siglip_perception.errors import PerceptionError

_PACKAGE = "siglip_perception"
# Where a package is not imported by its own name.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faster_coco_eval": "faster-coco-eval",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open_clip_torch",
    "yaml": "pyyaml",
}
# Builds of one package under other names: any of them will do.
_SAME = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv")}
_MODULES = {name: module for module, name in _DISTRIBUTIONS.items()}
# They ask for torchvision, for which pip may fetch another PyTorch; they do without it here.
_ALONE = {"open_clip_torch", "timm"}


def require(use: str, *modules: str, kind: type[PerceptionError] = PerceptionError) -> None:
    """Raise `kind`, in one sentence, where one of the modules is not installed.

    use: what needs them, as the sentence's subject: "The ONNX export". Nothing is imported.
    """
    lacking = [name for name in modules if not is_there(name)]
    if lacking:
        names = " and ".join(filter(None, [", ".join(lacking[:-1]), lacking[-1]]))
        raise kind(f"{use} needs {names}, not installed here: {how(*lacking)}.")


def load(use: str, module: str, *, kind: type[PerceptionError] = PerceptionError) -> Any:
    """Import the module; raise `kind`, in one sentence, where it is missing or does not import."""
    root = module.partition(".")[0]
    require(use, root, kind=kind)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise kind(f"{use} needs {root}, which does not import ({error}): {how(root)}.") from error


def is_there(module: str) -> bool:
    """Tell whether a module can be found; none is imported, and a mere folder does not count."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def how(*modules: str) -> str:
    """The command that installs these modules, and where there is one the extra that has them."""
    names = [_DISTRIBUTIONS.get(name, name) for name in modules]
    command = "pip install " + " ".join(
        [*(["--no-deps"] if _ALONE.intersection(names) else []), *map(_quoted, names)]
    )
    extras = [extra for extra, has in _extras().items() if set(names) <= has - _ALONE]
    if not extras:
        return command
    smallest = min(extras, key=lambda extra: len(_extras()[extra]))
    return f"{command}, or in a clone pip install '.[{smallest}]'"


def explain(error: ImportError) -> str | None:
    """A sentence about an import that failed for want of a needed package; else nothing."""
    module = (error.name or "").partition(".")[0]
    name = _DISTRIBUTIONS.get(module, module)
    if not isinstance(error, ModuleNotFoundError) or name not in needed():
        return None
    return (
        f"This needs {name}, not installed here: {how(module)}; `siglip-perception doctor` lists"
        " all that is missing."
    )


def needed() -> dict[str, Requirement]:
    """What the package cannot do without, by name; {} where it is not installed itself."""
    always = (item for item in _requirements() if not _extra_of(item))
    return {item.name: item for item in always if not item.marker or item.marker.evaluate()}


def installed(name: str) -> tuple[str, str | None]:
    """The name under which a distribution is here, and its version; None: it is not."""
    for candidate in (name, *_SAME.get(name, ())):
        try:
            return candidate, importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return name, _version_of(_MODULES.get(name, name.replace("-", "_")))


def _version_of(module: str) -> str | None:
    """What a module says of itself: Ubuntu installs OpenCV without a distribution's metadata."""
    if not is_there(module):
        return None
    try:
        return str(importlib.import_module(module).__version__)
    except Exception:  # noqa: BLE001 - a broken library raises anything, and is as good as none
        return None


def shortcomings() -> Iterator[tuple[str, str]]:
    """(name, sentence) of each needed distribution that is missing or of another version."""
    for name, item in needed().items():
        name_here, version = installed(name)
        if version is None:
            yield name, f"{name}, for the main job: pip install {_quoted(name)}"
        elif not item.specifier.contains(Version(version), prereleases=True):
            yield (
                name,
                f"{name_here} {_bounds(item)}, for the main job (here: {version}):"
                f" pip install {_quoted(name)}",
            )


def _bounds(item: Requirement) -> str:
    """`>=0.11,<0.12` in words: "0.11 or newer, below 0.12"."""
    words = {">=": "{} or newer", "<": "below {}", "==": "{}"}
    ordered = sorted(item.specifier, key=lambda part: part.operator, reverse=True)
    return ", ".join(words[part.operator].format(part.version) for part in ordered)


def _quoted(name: str) -> str:
    """The name with its bounds, for a shell: `'torch>=2.6'`; the bare name without any."""
    item = next((item for item in _requirements() if item.name == name), None)
    bounds = "" if item is None else str(item.specifier)
    # The lower bound first, as a person would write it.
    bounds = ",".join(sorted(bounds.split(","), reverse=True))
    return f"'{name}{bounds}'" if bounds else name


def _requirements() -> tuple[Requirement, ...]:
    try:
        listed = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(map(Requirement, listed))


def _extras() -> dict[str, set[str]]:
    """The distributions of each extra, by its name."""
    extras: dict[str, set[str]] = {}
    for item in _requirements():
        if extra := _extra_of(item):
            extras.setdefault(extra, set()).add(item.name)
    return extras


def _extra_of(item: Requirement) -> str:
    """The extra that a requirement belongs to; "": it is needed always."""
    marker = str(item.marker or "")
    return marker.rpartition("extra == ")[2].strip("\"') ") if "extra ==" in marker else ""
