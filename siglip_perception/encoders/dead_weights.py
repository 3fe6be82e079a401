"""Weights that load and run but tell nothing apart: zeroed ones, or half of a download."""

from __future__ import annotations

from torch import Tensor

# Share of their length by which vectors differ through float16's rounding alone.
_ROUNDING = 1e-3


def are_alike(vectors: Tensor) -> bool:
    """True if vectors [N, D] are one vector but for rounding, all zero, or not finite."""
    values = vectors.float()
    spread = float((values - values.mean(dim=0)).norm(dim=1).mean())
    # Written so that NaN, which compares as false, counts as alike.
    return not spread > _ROUNDING * float(values.norm(dim=1).mean())
