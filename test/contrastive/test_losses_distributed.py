"""Several real processes give the same value and gradients as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loss_processes import LOSSES, one_process, run


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_equal_one(world: int, tmp_path: Path) -> None:
    actual = run(world, tmp_path)
    for name in LOSSES:
        expected = one_process(name)
        for rank, result in enumerate(actual):
            assert result[name].keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(
                    result[name][key],
                    value,
                    rtol=1e-9,
                    atol=1e-12,
                    msg=lambda text: f"{(name, key, rank)}: {text}",  # noqa: B023, called at once
                )
    if world == 4:
        for result in actual:
            torch.testing.assert_close(result["half"], one_process("sigmoid"))
    for result in actual[: world if world > 1 else 0]:
        message = result["refused"]
        sizes = ", ".join(str(4 - rank) for rank in range(world))
        assert f"hold {sizes} pairs" in message["unequal"]
        assert "drop the last, smaller batch" in message["unequal clip"]
        assert "hold 0, 3" in message["none"]
        assert "dtype" in message["types"]
        assert "target" in message["answers"]
        assert "same multiple" in message["weights"]
