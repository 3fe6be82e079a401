"""Triton's kernels stood in for by PyTorch's: the run of blocks around them is the tower's own.

Whether the kernels give these values is what triton_kernels.trouble() asks before they serve;
`make gpu` holds the result against the CPU's float32.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import write_random_model
from torch import Tensor

from siglip_perception.config import ModelSelection
from siglip_perception.encoders import triton_kernels
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.encoders.transformer import PADDING, Norm
from siglip_perception.encoders.transformer import activate as plain_activate


def add_norm(
    hidden: Tensor, delta: Tensor | None, norm: Norm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The kernel's contract, with NaN in the rows that hold anything at all."""
    total = hidden if delta is None else hidden + delta
    rows = -(-len(total) // PADDING) * PADDING
    padded = torch.full((rows, total.shape[1]), torch.nan, dtype=dtype)
    padded[: len(total)] = norm(total).to(dtype)
    return total, padded


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fused_run_of_blocks_is_the_towers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(triton_kernels, "add_norm", add_norm)
    monkeypatch.setattr(triton_kernels, "activate", plain_activate)
    write_random_model(tmp_path / "model")
    for tower in ModelPlan.load(ModelSelection(str(tmp_path / "model"))).towers.values():
        side = tower.input.square.size
        values = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        for start, stop in tower.block_ranges(to_end=True):
            embed = None if start else tower.embed
            run = triton_kernels.FusedBlocks(embed, tower.blocks[start:stop], tower.mask)
            with torch.inference_mode():
                expected = tower.run_blocks(values, start, stop)
                torch.testing.assert_close(run(values), expected, rtol=1e-4, atol=1e-4)
            values = expected


def test_without_triton_the_reason_is_said_and_nothing_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(triton_kernels, "_kernels", missing)
    triton_kernels.trouble.cache_clear()
    assert (
        triton_kernels.trouble(torch.device("cpu"), torch.bfloat16) == "No module named 'triton'"
    )
    assert "Triton's kernels are not used: No module named 'triton'" in caplog.text
    triton_kernels.trouble.cache_clear()


def test_kernels_that_give_other_values_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "add_norm", add_norm)
    monkeypatch.setattr(triton_kernels, "activate", lambda values, act: values)
    triton_kernels.trouble.cache_clear()
    assert "other values" in triton_kernels.trouble(torch.device("cpu"), torch.float32)
    triton_kernels.trouble.cache_clear()
