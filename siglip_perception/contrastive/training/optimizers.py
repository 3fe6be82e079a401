"""Optimizers of a run: AdamW for everything, or Muon for matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from siglip_perception.errors import PerceptionError

OptimizerName = Literal["adamw", "muon"]
_MUON_PARTS = ("layer", "head")


class _Bfloat16AsFloat32(TorchFunctionMode):
    """Turns Tensor.bfloat16() into Tensor.float() within its scope."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].float()
        return func(*args, **(kwargs or {}))


def _muon(bf16: bool) -> Callable[..., torch.optim.Optimizer]:
    """PyTorch's Muon class, which orthogonalizes in bfloat16, or a float32 variant of it."""
    if not hasattr(torch.optim, "Muon"):
        raise PerceptionError("The optimizer muon needs PyTorch 2.9 or later: update it.")
    if bf16:
        return torch.optim.Muon

    class Float32Muon(torch.optim.Muon):
        def step(self, closure: Any = None) -> Any:
            with _Bfloat16AsFloat32():
                return super().step(closure)  # type: ignore[no-untyped-call]

    return Float32Muon


def new_optimizers(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    name: OptimizerName = "adamw",
    *,
    bf16: bool = True,
) -> list[torch.optim.Optimizer]:
    """Create the optimizers; every trainable parameter belongs to exactly one of them.

    Vectors and scalars, such as norms and biases, get no weight decay. name: `muon` uses Muon for
    the matrices of blocks and heads, and AdamW at half the rate for the rest (Jordan et al. 2024;
    scaled to AdamW's rates as in Liu et al. 2025, "Muon is scalable for LLM training").
    bf16: run Muon's products in bfloat16. A parameter group's `share` multiplies its rate.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = [
        p
        for n, p in parameters.items()
        if name == "muon" and p.ndim == 2 and any(part in n for part in _MUON_PARTS)
    ]
    by_muon = {id(p) for p in matrices}
    adamw_parameters = [p for p in parameters.values() if id(p) not in by_muon]
    share = 0.5 if matrices else 1.0
    with_decay = {
        "params": [p for p in adamw_parameters if p.ndim > 1],
        "weight_decay": weight_decay,
    }
    without_decay = {"params": [p for p in adamw_parameters if p.ndim <= 1], "weight_decay": 0.0}
    groups = [group | {"share": share} for group in (with_decay, without_decay)]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    return [_muon(bf16)(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"), adamw]
