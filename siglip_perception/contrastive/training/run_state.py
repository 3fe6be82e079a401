"""State of a run on disk: a complete one is there whenever the process is killed.

A step's randomness and its position in the data follow from the seed and the step number, so the
step number is all that has to be saved of them.
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
    """State file in a run's folder, for one module and its optimizers.

    Only tensors that training changes are saved: trainable parameters, and tensors whose names
    start with one of buffer_prefixes. recipe: everything that the result depends on.
    is_continuation: tells whether a run with another recipe, at its step, can go on as this one;
    by default the recipes have to be equal.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        recipe: Mapping[str, Any],
        buffer_prefixes: tuple[str, ...] = (),
        is_continuation: Callable[[Mapping[str, Any], int], bool] | None = None,
    ) -> None:
        self._path = folder / STATE
        self._module = module
        self._optimizers = optimizers
        self._recipe: dict[str, Any] = json.loads(json.dumps(recipe))
        self._is_continuation = is_continuation
        trainable = {name for name, p in module.named_parameters() if p.requires_grad}
        self._saved_names = [
            n for n in module.state_dict() if n in trainable or n.startswith(buffer_prefixes)
        ]

    def save(self, step: int, extra: Mapping[str, Any]) -> None:
        """Write everything a resumed run needs, `extra` as JSON; then replace the old state."""
        current = self._module.state_dict()
        tensors = {f"{_MODEL}{name}": current[name].contiguous() for name in self._saved_names}
        names = {id(p): name for name, p in self._module.named_parameters()}
        for optimizer in self._optimizers:
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"{key}.{names[id(parameter)]}"] = value.contiguous()
        temporary = self._path.with_suffix(".new")
        extra_metadata = {"recipe": self._recipe, "extra": extra}
        metadata = {"step": str(step)} | {
            key: json.dumps(value) for key, value in extra_metadata.items()
        }
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise PerceptionError(f"{self._path} cannot be written ({error}).") from error
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def load(self) -> tuple[int, dict[str, Any]]:
        """Restore the state; return the step to resume at, 0 if there is no state, and the extra.

        Raises PerceptionError for another recipe's state or an unreadable file.
        """
        if not self._path.exists():
            return 0, {}
        try:
            with safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            step, recipe = int(metadata["step"]), json.loads(metadata["recipe"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise PerceptionError(
                f"{self._path} cannot be read ({error}): remove it to begin again."
            ) from error
        if recipe != self._recipe and not (
            self._is_continuation is not None and self._is_continuation(recipe, step)
        ):
            raise PerceptionError(
                f"{self._path.parent} holds a run of another recipe: give the same options, or"
                " another --output or --runs."
            )
        module_tensors = {
            n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)
        }
        self._module.load_state_dict(module_tensors, strict=False)
        names_of = {id(p): name for name, p in self._module.named_parameters()}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = _state_of(tensors, names_of[id(parameter)], parameter.device)
                    if state:
                        optimizer.state[parameter] = state
        return step, dict(json.loads(metadata.get("extra", "{}")))


def _state_of(tensors: Mapping[str, Tensor], name: str, device: torch.device) -> dict[str, Tensor]:
    """Collect one parameter's optimizer state; AdamW keeps its step on the CPU."""
    state = {key: tensors[f"{key}.{name}"] for key in _KEYS if f"{key}.{name}" in tensors}
    return {key: t if key == "step" else t.to(device) for key, t in state.items()}


def steps_done(folder: Path) -> int:
    """Number of steps done by the state in a run's folder; 0 if there is no state."""
    if not (folder / STATE).exists():
        return 0
    with safe_open(folder / STATE, "pt") as file:
        return int((file.metadata() or {}).get("step", "0"))
