"""The optimisers of a run: AdamW for all, or Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from siglip_perception.errors import PerceptionError

OptimizerName = Literal["adamw", "muon"]
_MUON_PARTS = ("layer", "head")


def new_optimizers(
    module: nn.Module, lr: float, weight_decay: float, name: OptimizerName = "adamw"
) -> list[torch.optim.Optimizer]:
    """Optimisers over all parameters that are trained; each parameter is in one of them.

    Vectors and scalars, such as norms and biases, do not decay. muon: for the matrices of blocks
    and heads, with AdamW at half the rate for the rest (Jordan et al. 2024; scaled to AdamW's
    rates as in Liu et al. 2025, "Muon is scalable for LLM training"). `share` of a parameter
    group: of the rate that the group gets.
    """
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = [
        p
        for n, p in trained.items()
        if name == "muon" and p.ndim == 2 and any(part in n for part in _MUON_PARTS)
    ]
    by_muon = {id(p) for p in matrices}
    others = [p for p in trained.values() if id(p) not in by_muon]
    share = 0.5 if matrices else 1.0
    decayed = {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay}
    free = {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}
    groups = [group | {"share": share} for group in (decayed, free)]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    if not hasattr(torch.optim, "Muon"):
        raise PerceptionError("The optimizer muon needs PyTorch 2.9 or later: update it.")
    return [
        torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"),
        adamw,
    ]
