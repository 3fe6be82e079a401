"""Draw LIBERO's scenes by LIBERO's own simulator: one file for each task.

    PYTHON libero_worker.py OUT SIZE SEED BDDL ...

Runs in the environment that has LIBERO, which has none of this package: it imports nothing of it.
OUT/SUITE--TASK.npz gets `image` uint8 [SIZE, SIZE, 3], upright, `instances` int16 of the same size
(an index of `names`, -1 elsewhere) and `names`, LIBERO's own ("akita_black_bowl_1"). Prints a line
of JSON for each task: `task`, and the `error` of one that cannot be drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

SETTLE_STEPS = 300
"""Steps of physics, of 2 ms, in which things come to rest; their servos hold the arm."""


def draw(bddl: str, size: int, seed: int) -> dict[str, Any]:
    """Set a task's scene up and draw it from agentview."""
    import numpy as np
    from libero.libero.envs import OffScreenRenderEnv
    from robosuite import macros

    environment = OffScreenRenderEnv(
        bddl_file_name=bddl,
        camera_names=["agentview"],
        camera_heights=size,
        camera_widths=size,
        camera_segmentations="instance",
    )
    try:
        environment.seed(seed)
        np.random.seed(seed)
        environment.reset()
        for _ in range(SETTLE_STEPS):
            environment.sim.step()
        environment.sim.forward()
        inner = environment.env
        views = inner._get_observations(force_update=True)
        image = np.asarray(views["agentview_image"], np.uint8)
        instances = np.asarray(views["agentview_segmentation_instance"], np.int16)
        instances = instances.reshape(size, size)
        names = list(inner.model.instances_to_ids)
        # Ids begin at 1, 0 is what has no name; in older versions at 0, and -1 is.
        offset = 1 if int(instances.min()) >= 0 else 0
    finally:
        with contextlib.suppress(Exception):
            environment.close()
    if macros.IMAGE_CONVENTION == "opengl":
        # The first row is the lowest one: the trap that turns a policy's pictures over.
        image, instances = image[::-1], instances[::-1]
    return {"image": image, "instances": instances - offset, "names": np.array(names)}


def main() -> int:
    """Draw each task; those that fail are told, and the next is drawn."""
    # Python puts this folder first, and there is a libero.py in it.
    sys.path.pop(0)
    os.environ.setdefault("MUJOCO_GL", "egl")
    out, size, seed, *files = sys.argv[1:]
    import libero.libero.envs  # noqa: F401 - without it nothing can be drawn
    import numpy as np

    report = sys.stdout
    for bddl in files:
        path = Path(bddl)
        name = f"{path.parent.name}--{path.stem}.npz"
        fault = ""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                arrays = draw(bddl, int(size), int(seed))
            partial = Path(out, f".{name}")
            np.savez_compressed(partial, **arrays)
            partial.rename(Path(out, name))
        except Exception as error:  # noqa: BLE001 - a simulator raises anything
            fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(json.dumps({"task": bddl, "error": fault}), file=report, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
