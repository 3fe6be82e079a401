"""Import of MuJoCo and its renderer, with one sentence on what is missing."""

from __future__ import annotations

import os
from typing import Any

from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements

_NO_GL = (
    "MuJoCo cannot draw here ({}): install EGL (libegl1 and libgl1-mesa-dri on Debian and Ubuntu),"
    " or set MUJOCO_GL=osmesa."
)


def import_mujoco() -> Any:
    """Import MuJoCo; without a screen, set it up to draw off screen."""
    if not os.environ.get("MUJOCO_GL") and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "egl"  # before the import, which chooses once and for all
    try:
        return requirements.load("Rendering scenes", "mujoco")
    except (AttributeError, RuntimeError) as error:
        # What PyOpenGL says if libEGL is missing.
        raise PerceptionError(_NO_GL.format(error)) from error


def new_renderer(mujoco: Any, model: Any, height: int, width: int) -> Any:
    """Create a renderer of that size in pixels; raises PerceptionError without EGL."""
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # PyOpenGL and MuJoCo raise many types of errors
        raise PerceptionError(_NO_GL.format(error)) from error
