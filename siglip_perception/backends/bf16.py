"""How fast bfloat16 products are on this CPU: measured once, and kept.

What the system says of the CPU does not settle it. oneDNN and PyTorch can be held below what the
CPU has (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY), a unit may be no faster than float32's (that of
AVX512-BF16 on an Intel CPU whose AMX is switched off), and without one bfloat16 is emulated.
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

from siglip_perception.backends.cache import EngineCache
from siglip_perception.encoders import onednn
from siglip_perception.encoders.transformer import Linear
from siglip_perception.errors import BackendError
from siglip_perception.util import cpu

_LOGGER = logging.getLogger(__name__)
_FILE = "bf16.json"
# Least speedup that bfloat16 is chosen for. Units give 1.6 and more (2.4 to 6 for AMX, 2 for
# AMD's AVX512-BF16), emulation 0.13 to 0.6: the margin keeps the choice from hanging on noise.
LEAST_SPEEDUP = 1.25
# A product of the embedded model's size: a third of a millisecond in float32, two where bfloat16
# is emulated.
_TOKENS, _CHANNELS, _ROUNDS = 128, 384, 15


@dataclass(frozen=True)
class Bf16Speed:
    """speedup: a float32 product's time, as a multiple of the same product's in bfloat16."""

    speedup: float

    @property
    def fast(self) -> bool:
        """Whether bfloat16 is worth its rounding."""
        return self.speedup >= LEAST_SPEEDUP

    def __str__(self) -> str:
        unit = cpu.bf16_unit()
        why = f" (the CPU has {unit})" if unit and self.fast else ""
        return f"bf16 products run at {self.speedup:.2g} times fp32's speed here, measured{why}"


def speed() -> Bf16Speed:
    """The speed on this machine, as it was measured the first time; see facts().

    Where the cache cannot be written it is measured anew in each process.
    """
    return _speed(EngineCache().folder, tuple(facts().items()))


def facts() -> dict[str, str]:
    """What the measurement depends on, which names it in the cache."""
    return {"kind": "speed of bf16 products", "torch": torch.__version__, **cpu.identity()}


@functools.cache
def _speed(folder: Path, key: tuple[tuple[str, str], ...]) -> Bf16Speed:
    def measured(work: Path) -> None:
        (work / _FILE).write_text(json.dumps({"speedup": measure()}))

    try:
        place = EngineCache(folder).build(dict(key), measured)
        return Bf16Speed(float(json.loads((place / _FILE).read_text())["speedup"]))
    except BackendError as error:
        _LOGGER.info("The speed of bf16 products is measured anew at each start: %s", error)
        return Bf16Speed(measure())


def measure() -> float:
    """The speedup by one thread's own processor time, which other processes hardly lengthen.

    A product on all threads ends with the last of them: on a busy machine that says more of the
    scheduler than of the product.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_CHANNELS, _CHANNELS, generator=generator)
    values = torch.randn(_TOKENS, _CHANNELS, generator=generator)
    jobs: dict[torch.dtype, tuple[nn.Module, Tensor]] = {
        dtype: (onednn.fastest(Linear(weight.to(dtype), None)), values.to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    least = dict.fromkeys(jobs, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for product, given in jobs.values():
                product(given)  # makes the kernel
            for _ in range(_ROUNDS):
                for dtype, (product, given) in jobs.items():
                    began = time.thread_time()
                    product(given)
                    least[dtype] = min(least[dtype], time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return least[torch.float32] / least[torch.bfloat16]
