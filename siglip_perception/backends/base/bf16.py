"""Speed of bfloat16 products on this CPU, measured once and cached.

The CPU's flags do not settle it. oneDNN and PyTorch can be held below what the CPU has
(ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY); a unit may be no faster than float32's (AVX512-BF16 on
an Intel CPU with AMX switched off); and without a unit bfloat16 is emulated.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.encoders import onednn
from siglip_perception.encoders.transformer import Linear
from siglip_perception.errors import BackendError
from siglip_perception.util import cpu
from siglip_perception.util.device import one_thread

_LOGGER = logging.getLogger(__name__)
_FILE = "bf16.json"
# Speedup from which on bfloat16 is used. Units give 1.6 and more (AMX 2.4 to 6, AMD's AVX512-BF16
# 2), emulation 0.13 to 0.6: the gap keeps noise from deciding.
MIN_SPEEDUP = 1.25
# A product of the embedded model's size: a third of a millisecond in float32, two where bfloat16
# is emulated.
_TOKENS, _CHANNELS, _ROUNDS = 128, 384, 15


@dataclass(frozen=True)
class Bf16Speed:
    """speedup: time of a float32 product divided by the same product's in bfloat16."""

    speedup: float

    @property
    def fast(self) -> bool:
        """True if bfloat16 is worth its rounding."""
        return self.speedup >= MIN_SPEEDUP

    def __str__(self) -> str:
        unit = cpu.bf16_unit()
        reason = f" (the CPU has {unit})" if unit and self.fast else ""
        return f"bf16 products run at {self.speedup:.2g} times fp32's speed here, measured{reason}"


def speed() -> Bf16Speed:
    """Return the speed on this machine, measured the first time; see facts().

    If the cache cannot be written, each process measures again.
    """
    return _speed(EngineCache().folder, tuple(facts().items()))


def facts() -> dict[str, str]:
    """Facts that the measurement depends on; they name it in the cache."""
    return {"kind": "speed of bf16 products", "torch": torch.__version__, **cpu.identity()}


@functools.cache
def _speed(folder: Path, key: tuple[tuple[str, str], ...]) -> Bf16Speed:
    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps({"speedup": measure()}))

    try:
        entry = EngineCache(folder).build(dict(key), write)
        return Bf16Speed(float(json.loads((entry / _FILE).read_text())["speedup"]))
    except BackendError as error:
        _LOGGER.info("The speed of bf16 products is measured anew at each start: %s", error)
        return Bf16Speed(measure())


def measure() -> float:
    """Measure the speedup by one thread's own CPU time, which other processes hardly lengthen.

    A product on all threads ends with the slowest of them: on a busy machine that measures the
    scheduler more than the product.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_CHANNELS, _CHANNELS, generator=generator)
    values = torch.randn(_TOKENS, _CHANNELS, generator=generator)
    jobs: dict[torch.dtype, tuple[nn.Module, Tensor]] = {
        dtype: (onednn.fastest(Linear(weight.to(dtype), None)), values.to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(jobs, math.inf)
    with one_thread(), torch.inference_mode():
        for product, inputs in jobs.values():
            product(inputs)  # the first call creates the kernel
        for _ in range(_ROUNDS):
            for dtype, (product, inputs) in jobs.items():
                start = time.thread_time()
                product(inputs)
                best[dtype] = min(best[dtype], time.thread_time() - start)
    return best[torch.float32] / best[torch.bfloat16]
