"""Required packages: which are missing or outdated, and the command that installs them.

Versions live in setup.py alone; this module reads the metadata that pip or colcon wrote when it
installed this package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from siglip_perception.errors import PerceptionError

_PACKAGE = "siglip_perception"
# Import name -> package, if they differ.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "faster_coco_eval": "faster-coco-eval",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open_clip_torch",
    "yaml": "pyyaml",
}
# Other names of the same package, any of which will do.
_ALTERNATIVES = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv")}
_MODULES = {name: module for module, name in _DISTRIBUTIONS.items()}
# These require torchvision, for which pip may replace PyTorch; what we use works without it.
_WITHOUT_DEPENDENCIES = {"open_clip_torch", "timm"}


def require(use: str, *modules: str, kind: type[PerceptionError] = PerceptionError) -> None:
    """Raise `kind`, in one sentence, unless all of the modules are installed; import none.

    use: subject of the sentence, such as "The ONNX export".
    """
    absent = [name for name in modules if not is_there(name)]
    for name in absent:
        if oldest := _newer_python(_DISTRIBUTIONS.get(name, name)):
            raise kind(
                f"{use} needs {name}, which needs Python {oldest} or newer, and this is"
                f" {_python()}: install this package with a newer one (in a clone,"
                f" `make env PYTHON=python{oldest}`)."
            )
    if absent:
        names = " and ".join(filter(None, [", ".join(absent[:-1]), absent[-1]]))
        raise kind(f"{use} needs {names}, not installed here: {install_command(*absent)}.")


def load(use: str, module: str, *, kind: type[PerceptionError] = PerceptionError) -> Any:
    """Import a module; raise `kind`, in one sentence, if it is missing or fails to import."""
    root = module.partition(".")[0]
    require(use, root, kind=kind)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise kind(
            f"{use} needs {root}, which does not import ({error}): {install_command(root)}."
        ) from error


def _newer_python(name: str) -> str:
    """Return the oldest Python for which an extra has the package; "" if that is this one."""
    for item in _requirements():
        bound = re.search(r"python_version >= ['\"]([\d.]+)['\"]", str(item.marker or ""))
        if item.name == name and bound is not None and Version(bound[1]) > Version(_python()):
            return bound[1]
    return ""


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def is_there(module: str) -> bool:
    """Return whether a module can be found, without importing it; a bare folder does not count."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def install_command(*modules: str) -> str:
    """Give the command that installs these modules, and the extra that has them, if any."""
    names = [_DISTRIBUTIONS.get(name, name) for name in modules]
    command = "pip install " + " ".join(
        [
            *(["--no-deps"] if _WITHOUT_DEPENDENCIES.intersection(names) else []),
            *map(_quote, names),
        ]
    )
    extras = [
        extra for extra, has in _extras().items() if set(names) <= has - _WITHOUT_DEPENDENCIES
    ]
    if not extras:
        return command
    smallest = min(extras, key=lambda extra: len(_extras()[extra]))
    return f"{command}, or in a clone pip install '.[{smallest}]'"


def explain_import_error(error: ImportError) -> str | None:
    """Explain an import that failed because a required package is missing; else None."""
    module = (error.name or "").partition(".")[0]
    name = _DISTRIBUTIONS.get(module, module)
    if not isinstance(error, ModuleNotFoundError) or name not in required_packages():
        return None
    return (
        f"This needs {name}, not installed here: {install_command(module)}; `siglip-perception"
        " doctor` lists all that is missing."
    )


def required_packages() -> dict[str, Requirement]:
    """List the packages that are always required, by name; {} if this one is not installed."""
    always = (item for item in _requirements() if not _extra_of(item))
    return {item.name: item for item in always if not item.marker or item.marker.evaluate()}


def installed(name: str) -> tuple[str, str | None]:
    """Return the name under which a package is installed, and its version; None if it is not."""
    for candidate in (name, *_ALTERNATIVES.get(name, ())):
        try:
            return candidate, importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return name, _version_of(_MODULES.get(name, name.replace("-", "_")))


def _version_of(module: str) -> str | None:
    """Ask the module itself: Ubuntu installs OpenCV without package metadata."""
    if not is_there(module):
        return None
    try:
        return str(importlib.import_module(module).__version__)
    except Exception:  # noqa: BLE001 - a broken library raises anything, and is as good as none
        return None


def shortcomings() -> Iterator[tuple[str, str]]:
    """Yield (name, sentence) for each required package that is missing or of a wrong version."""
    for name, item in required_packages().items():
        name_here, version = installed(name)
        if version is None:
            yield name, f"{name}, for the main job: pip install {_quote(name)}"
        elif not item.specifier.contains(Version(version), prereleases=True):
            yield (
                name,
                f"{name_here} {_bounds(item)}, for the main job (here: {version}):"
                f" pip install {_quote(name)}",
            )


def _bounds(item: Requirement) -> str:
    """Spell bounds such as `>=0.11,<0.12` in words: "0.11 or newer, below 0.12"."""
    words = {">=": "{} or newer", "<": "below {}", "==": "{}"}
    ordered = sorted(item.specifier, key=lambda part: part.operator, reverse=True)
    return ", ".join(words[part.operator].format(part.version) for part in ordered)


def _quote(name: str) -> str:
    """Quote the name with its bounds for a shell, `'torch>=2.6'`; the bare name without any."""
    item = next((item for item in _requirements() if item.name == name), None)
    bounds = "" if item is None else str(item.specifier)
    # The lower bound first, as a person would write it.
    bounds = ",".join(sorted(bounds.split(","), reverse=True))
    return f"'{name}{bounds}'" if bounds else name


def _requirements() -> tuple[Requirement, ...]:
    try:
        entries = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(map(Requirement, entries))


def _extras() -> dict[str, set[str]]:
    """Collect the packages of each extra, by its name."""
    extras: dict[str, set[str]] = {}
    for item in _requirements():
        if extra := _extra_of(item):
            extras.setdefault(extra, set()).add(item.name)
    return extras


def _extra_of(item: Requirement) -> str:
    """Return the extra that a requirement belongs to; "" if it is always required."""
    marker = str(item.marker or "")
    return marker.rpartition("extra == ")[2].strip("\"') ") if "extra ==" in marker else ""
