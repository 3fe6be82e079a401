"""TensorRT-RTX itself parses every exported graph and builds an engine of it; no GPU is needed.

It is the extra tensorrt-rtx, which not every machine can have. Nothing here runs an engine.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import write_random_model

from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.tensorrt import engines
from siglip_perception.backends.tensorrt.engines import EngineTarget
from siglip_perception.backends.tensorrt.probe import probe
from siglip_perception.config import ModelSelection
from siglip_perception.encoders.encoders import Encoders
from siglip_perception.encoders.plan import ModelPlan
from siglip_perception.errors import BackendError
from siglip_perception.types import Precision

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
CPU = torch.device("cpu")


def encoders_of(folder: Path) -> Encoders:
    plan = ModelPlan.load(ModelSelection(str(folder)))
    return Encoders(plan.contract, plan.towers, plan.token_towers, plan.grounding_towers)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_every_graph_gives_an_engine(tmp_path: Path, precision: Precision) -> None:
    write_random_model(tmp_path / "model")
    encoders = encoders_of(tmp_path / "model")
    expected = sum(
        len(t.block_ranges(key in encoders.grounding_keys)) for key, t in encoders.towers.items()
    )
    weights = sum(v.numel() for t in encoders.towers.values() for v in t.blocks.parameters())
    target = EngineTarget.of("tensorrt_rtx", CPU, precision)
    messages: list[float] = []
    engine_list = engines.build(
        encoders,
        target,
        EngineCache(tmp_path / "cache"),
        lambda step, share: messages.append(share),
    )
    assert len(set(engine_list)) == expected == 4
    # The weights are in the engines, in the graph's precision.
    assert sum(path.stat().st_size for path in engine_list) > weights * (
        4 if precision == "fp32" else 2
    )
    assert messages == sorted(messages)
    assert len(set(messages)) > 100


def test_its_probe_says_what_is_missing() -> None:
    probe.cache_clear()
    actual = probe()
    assert (actual.module, actual.builds) == ("tensorrt_rtx", True)
    if not torch.cuda.is_available():
        assert "PyTorch sees none" in actual.trouble
        with pytest.raises(BackendError, match="PyTorch sees none"):
            EngineTarget.detect(torch.device("cuda"), "bf16")
