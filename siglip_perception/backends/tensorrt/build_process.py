"""Builds TensorRT engines for a node that serves from PyTorch meanwhile: the child of swap.py.

Its argument names the encoders, as JSON; it prints JSON lines, {"share": 0.4, "what": ...} on the
way and {"error": sentence} where it fails, and ends when its standard input does.
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
    # What draws frames comes first.
    os.nice(10)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked = json.loads(argument)
    try:
        _build(asked)
    except PerceptionError as error:
        _say(error=str(error))
        return 1
    except Exception as error:
        logging.exception("The engines could not be built.")
        _say(error=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        return 1
    return 0


def _build(asked: dict[str, Any]) -> None:
    # PyTorch takes seconds to import: the parent is watched before.
    import torch

    from siglip_perception.backends.cache import EngineCache
    from siglip_perception.backends.tensorrt import engines
    from siglip_perception.encoders.encoders import Encoders
    from siglip_perception.encoders.plan import Plan

    _say(share=0.0, what="loading the model")
    plan = Plan.make(
        asked["model"], asked["contract"], asked["grounding_model"], asked["grounding_contract"]
    )
    encoders = Encoders(plan.contract, plan.towers, plan.tokens, plan.grounding)
    # The parent has probed TensorRT; a crash here ends no more than this process.
    target = engines.Target.of(asked["library"], torch.device(asked["device"]), asked["precision"])
    engines.build(
        encoders, target, EngineCache(), lambda what, share: _say(share=share, what=what)
    )


def _end_with_parent() -> None:
    """The parent holds the other end of stdin: it ends with the parent, however that ends."""
    # Not sys.stdin, whose lock this thread would hold when the interpreter ends.
    while os.read(0, 1 << 12):
        pass
    os._exit(2)


def _say(**said: Any) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
