"""Choice of bfloat16 or float32 products: the faster one, unless an option says otherwise."""

from __future__ import annotations

import argparse

import pytest
import torch

from siglip_perception.backends.base import bf16
from siglip_perception.backends.base.bf16 import Bf16Speed
from siglip_perception.contrastive.training import autocast
from siglip_perception.contrastive.training.optimizers import new_optimizers
from siglip_perception.experiments import signals

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("options", "speedup", "expected", "says"),
    [
        ([], 2.0, True, ""),
        ([], 0.2, False, "products are in float32 (bf16 products run at 0.2 times fp32's speed"),
        (["--bf16"], 0.2, True, ""),
        (["--fp32"], 2.0, False, ""),
    ],
)
def test_training_is_in_bf16_where_that_is_faster_or_asked_for(
    options: list[str],
    speedup: float,
    expected: bool,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bf16, "speed", lambda: Bf16Speed(speedup))
    parser = argparse.ArgumentParser()
    autocast.add_arguments(parser)
    assert autocast.use_bf16(parser.parse_args(options), torch.device("cpu")) is expected
    assert capsys.readouterr().out.startswith(says)


@pytest.mark.parametrize(("speedup", "dtype"), [(2.0, torch.bfloat16), (0.2, torch.float32)])
def test_an_experiment_trains_as_the_trainer_does(
    speedup: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "speed", lambda: Bf16Speed(speedup))
    with signals.bf16_autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_muon_in_float32_takes_the_step_of_bfloat16_up_to_rounding() -> None:
    steps = []
    for narrow in (True, False):
        head = torch.nn.Linear(8, 8, bias=False)
        torch.nn.init.zeros_(head.weight)
        module = torch.nn.ModuleDict({"head": head})
        (muon, _) = new_optimizers(module, 1.0, 0.0, "muon", bf16=narrow)
        head.weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        muon.step()
        steps.append(head.weight.detach())
    close = (steps[0] - steps[1]).abs().max() / steps[1].abs().max()
    assert 0 < float(close) < 0.1
