"""Child process of background_build.py: builds TensorRT engines while a node serves from PyTorch.

Its argument names the encoders, as JSON. It prints JSON lines, {"share": 0.4, "what": ...} on the
way and {"error": sentence} if it fails, and ends when its standard input closes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Any

from siglip_perception.errors import PerceptionError


def main(argument: str) -> int:
    logging.basicConfig(level=logging.WARNING)
    # Serving frames comes first.
    os.nice(10)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = json.loads(argument)
    try:
        _build(request)
    except PerceptionError as error:
        _report(error=str(error))
        return 1
    except Exception as error:
        logging.exception("The engines could not be built.")
        _report(error=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        return 1
    return 0


def _build(request: dict[str, Any]) -> None:
    # Imported here: PyTorch takes seconds, and the parent is watched meanwhile.
    import torch

    from siglip_perception.backends.base.cache import EngineCache
    from siglip_perception.backends.tensorrt import engines
    from siglip_perception.config import ModelSelection
    from siglip_perception.encoders.encoders import Encoders
    from siglip_perception.encoders.plan import ModelPlan

    _report(share=0.0, what="loading the model")
    plan = ModelPlan.load(ModelSelection(**request["selection"]))
    encoders = Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)
    # The parent has probed TensorRT already; a crash ends this process only.
    target = engines.EngineTarget.of(
        request["library"], torch.device(request["device"]), request["precision"]
    )
    engines.build(
        encoders, target, EngineCache(), lambda step, share: _report(share=share, what=step)
    )


def _end_with_parent() -> None:
    """Exit when stdin closes: the parent holds its other end, however the parent ends."""
    # Not sys.stdin: this thread would hold its lock when the interpreter shuts down.
    while os.read(0, 1 << 12):
        pass
    os._exit(2)


def _report(**message: Any) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
