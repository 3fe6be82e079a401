"""The state of a run on disk: whatever moment a process is killed in, a whole state is there.

What is random about a step comes from the seed and the step's number, and so does the place in the
data: the step is all there is to remember of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from siglip_perception.errors import PerceptionError

STATE = "state.safetensors"
_MODEL, _OPTIMIZER = "model.", "optimizer."


class RunState:
    """The state file of a run's folder, for one module and its optimiser.

    Of the module only what training changes is kept: parameters that are trained, and those of
    `also`, by prefix. recipe: all that the result depends on; another one is refused.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Mapping[str, Any],
        also: tuple[str, ...] = (),
    ) -> None:
        self._path = folder / STATE
        self._module = module
        self._optimizer = optimizer
        self._recipe = json.dumps(recipe, sort_keys=True)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        self._kept = [n for n in module.state_dict() if n in trained or n.startswith(also)]

    def save(self, step: int, extra: Mapping[str, Any]) -> None:
        """Write all that a resumed run needs, `extra` as JSON; only then the old state goes."""
        current = self._module.state_dict()
        tensors = {f"{_MODEL}{name}": current[name].contiguous() for name in self._kept}
        for name, parameter in self._module.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{_OPTIMIZER}{key}.{name}"] = value.contiguous()
        fresh = self._path.with_suffix(".new")
        metadata = {"step": str(step), "recipe": self._recipe, "extra": json.dumps(extra)}
        save_file(tensors, fresh, metadata)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def load(self) -> tuple[int, dict[str, Any]]:
        """Put the state back; the step to go on from and the extra. Step 0 where there is none.

        Raises PerceptionError for the state of another recipe, or a file that cannot be read.
        """
        if not self._path.exists():
            return 0, {}
        try:
            with safe_open(self._path, "pt") as opened:
                metadata = opened.metadata() or {}
                names = opened.keys()
                tensors = {name: opened.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise PerceptionError(
                f"{self._path} cannot be read ({error}): remove it to begin again."
            ) from error
        if metadata.get("recipe") != self._recipe:
            raise PerceptionError(
                f"{self._path.parent} holds a run with other options: give the same ones, or name"
                " another --output or --runs."
            )
        own = {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}
        self._module.load_state_dict(own, strict=False)
        for name, parameter in self._module.named_parameters():
            state: dict[str, Tensor] = {}
            for key in ("exp_avg", "exp_avg_sq", "step"):
                value = tensors.get(f"{_OPTIMIZER}{key}.{name}")
                if value is not None:
                    state[key] = value if key == "step" else value.to(parameter.device)
            if state:
                self._optimizer.state[parameter] = state
        return int(metadata["step"]), dict(json.loads(metadata["extra"]))
