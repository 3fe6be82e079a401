"""The state of a run on disk: whatever moment a process is killed in, a whole state is there.

What is random about a step comes from the seed and the step's number, and so does the place in the
data: the step is all there is to remember of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from siglip_perception.errors import PerceptionError

STATE = "state.safetensors"
_MODEL = "model."
_KEYS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")  # AdamW's and Muon's


class RunState:
    """The state file of a run's folder, for one module and its optimizers.

    Of the module only what training changes is kept: parameters that are trained, and those of
    `also`, by prefix. recipe: all that the result depends on. same: whether a run with another
    recipe, at its step, is this one so far; by default only an equal recipe is.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        recipe: Mapping[str, Any],
        also: tuple[str, ...] = (),
        same: Callable[[Mapping[str, Any], int], bool] | None = None,
    ) -> None:
        self._path = folder / STATE
        self._module = module
        self._optimizers = optimizers
        self._recipe: dict[str, Any] = json.loads(json.dumps(recipe))
        self._same = same
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        self._kept = [n for n in module.state_dict() if n in trained or n.startswith(also)]

    def save(self, step: int, extra: Mapping[str, Any]) -> None:
        """Write all that a resumed run needs, `extra` as JSON; only then the old state goes."""
        current = self._module.state_dict()
        tensors = {f"{_MODEL}{name}": current[name].contiguous() for name in self._kept}
        names = {id(p): name for name, p in self._module.named_parameters()}
        for optimizer in self._optimizers:
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"{key}.{names[id(parameter)]}"] = value.contiguous()
        fresh = self._path.with_suffix(".new")
        said = {"recipe": self._recipe, "extra": extra}
        metadata = {"step": str(step)} | {key: json.dumps(value) for key, value in said.items()}
        try:
            save_file(tensors, fresh, metadata)
        except SafetensorError as error:
            raise PerceptionError(f"{self._path} cannot be written ({error}).") from error
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
            step, recipe = int(metadata["step"]), json.loads(metadata["recipe"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise PerceptionError(
                f"{self._path} cannot be read ({error}): remove it to begin again."
            ) from error
        if recipe != self._recipe and not (self._same is not None and self._same(recipe, step)):
            raise PerceptionError(
                f"{self._path.parent} holds a run of another recipe: give the same options, or"
                " another --output or --runs."
            )
        own = {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}
        self._module.load_state_dict(own, strict=False)
        names_of = {id(p): name for name, p in self._module.named_parameters()}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = _state_of(tensors, names_of[id(parameter)], parameter.device)
                    if state:
                        optimizer.state[parameter] = state
        return step, dict(json.loads(metadata.get("extra", "{}")))


def _state_of(tensors: Mapping[str, Tensor], name: str, device: torch.device) -> dict[str, Tensor]:
    """An optimizer's state of one parameter; AdamW's step stays on the CPU."""
    found = {key: tensors[f"{key}.{name}"] for key in _KEYS if f"{key}.{name}" in tensors}
    return {key: t if key == "step" else t.to(device) for key, t in found.items()}


def steps_done(folder: Path) -> int:
    """How many steps the state in a run's folder has behind it; 0 where there is none."""
    if not (folder / STATE).exists():
        return 0
    with safe_open(folder / STATE, "pt") as opened:
        return int((opened.metadata() or {}).get("step", "0"))
