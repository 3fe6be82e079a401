"""TensorRT on a GPU: an engine for each range of blocks of each tower, from the engine cache.

There are three kinds of entries: the hash of the ONNX export of a range of blocks, the engine of a
graph for one machine, and PyTorch's own float32 pass over a frame, which every engine has to
reproduce whenever it is loaded (selftest.py).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from siglip_perception.backends.base import selftest
from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.backends.base.cuda_graph import new_stream
from siglip_perception.backends.base.onnx_export import (
    OPSET,
    RECIPE,
    BlockRun,
    cast_products,
    export_blocks,
)
from siglip_perception.backends.base.precision import BF16_CAPABILITY
from siglip_perception.backends.tensorrt import engine
from siglip_perception.backends.tensorrt.probe import load_library, machine, probe
from siglip_perception.encoders.encoders import Encoders, Features, Segment, Tower
from siglip_perception.errors import BackendError
from siglip_perception.types import Precision
from siglip_perception.util.files import sha256

Span = tuple[int, int]
# Takes the current step, and the share of all work done, in [0, 1].
Progress = Callable[[str, float], None]
_ENGINE, _DIGEST, _REFERENCE = "engine.plan", "onnx.sha256", "reference.safetensors"
# Share of a graph's work that its export takes on a desktop.
_EXPORT_SHARE = 0.2


@dataclass(frozen=True)
class EngineTarget:
    """Machine that engines are built for. library: TensorRT's module. facts: cache keys."""

    library: Any
    device: torch.device
    precision: Precision
    facts: Mapping[str, str]

    @classmethod
    def detect(cls, device: torch.device, precision: Precision) -> EngineTarget:
        """Detect this machine; BackendError, one sentence, if TensorRT does not run on it."""
        status = probe()
        # Without a GPU TensorRT-RTX can build, but nothing can run the result.
        if status.trouble and (device.type == "cuda" or not status.builds):
            raise BackendError(status.trouble)
        if device.type == "cuda" and precision == "bf16":
            capability = torch.cuda.get_device_capability(device)
            if capability < BF16_CAPABILITY:
                raise BackendError(
                    f"{torch.cuda.get_device_name(device)} has no bfloat16: use precision fp16 or"
                    " fp32, or backend: torch."
                )
        return cls.of(status.module, device, precision)

    @classmethod
    def of(cls, name: str, device: torch.device, precision: Precision) -> EngineTarget:
        """Describe this machine with the module of that name, which is known to load."""
        return cls(load_library(name), device, precision, machine(device))

    @property
    def name(self) -> str:
        return f"{self.library.__name__} {self.library.__version__}"


def build(
    encoders: Encoders, target: EngineTarget, cache: EngineCache, progress: Progress
) -> list[Path]:
    """Build the engines that the cache lacks, for all towers of encoders that are not prepared.

    Returns the engines' files. Afterwards the towers' products are in the target's precision.
    Raises BackendError, one sentence, if an engine cannot be built.
    """
    progress("PyTorch's float32 pass", 0.0)
    _store_reference(encoders, cache)
    ranges = [
        (key, tower, span)
        for key, tower in encoders.towers.items()
        for span in tower.block_ranges(key in encoders.grounding_keys)
    ]
    paths = []
    for index, (key, tower, span) in enumerate(ranges):
        cast_products(tower, target.precision)

        def tell(
            share: float, index: int = index, step: str = f"{key}, blocks {span[0]} to {span[1]}"
        ) -> None:
            progress(step, (index + share) / len(ranges))

        tell(0.0)
        paths.append(_build_one(tower, key, span, target, cache, tell) / _ENGINE)
        tell(1.0)
    return paths


def load(encoders: Encoders, target: EngineTarget, cache: EngineCache) -> Encoders | None:
    """Load the same encoders with engines, all tested; None if one has to be built first.

    An engine that TensorRT refuses is quarantined, to be built again. Raises BackendError if the
    engines give other tokens than PyTorch, and quarantines them, or if the cache cannot be read.
    """
    expected = _load_reference(encoders, target.device, cache)
    if expected is None:
        return None
    towers, entries = {}, []
    for key, tower in encoders.towers.items():
        segments: dict[Span, Segment] = {}
        for span in tower.block_ranges(key in encoders.grounding_keys):
            facts = _engine_facts(tower, span, target, cache)
            entry = None if facts is None else cache.get(facts)
            if facts is None or entry is None:
                return None
            shape = (tower.tokens, tower.dim)
            try:
                segments[span] = engine.Engine(
                    target.library, entry / _ENGINE, shape, target.device
                )
            except BackendError as error:
                if _is_out_of_memory(error):
                    raise
                cache.quarantine(facts, str(error))
                return None
            entries.append(facts)
        towers[key] = tower.served_by(segments, target.device)
    engine_encoders = encoders.served_by(towers)
    try:
        with _on_side_stream(target.device):
            selftest.check(engine_encoders, expected, target.precision, target.name)
    except BackendError as error:
        for facts in entries:
            cache.quarantine(facts, str(error), is_refused=True)
        raise
    return engine_encoders


def refusal(encoders: Encoders, target: EngineTarget, cache: EngineCache) -> str:
    """Return why load() refused engines of these very encoders; empty if it did not.

    A process that only serves does not build them again.
    """
    for key, tower in encoders.towers.items():
        for span in tower.block_ranges(key in encoders.grounding_keys):
            facts = _engine_facts(tower, span, target, cache)
            if facts is not None and (reason := cache.refusal(facts)):
                return reason
    return ""


def load_or_build(
    encoders: Encoders, target: EngineTarget, cache: EngineCache, progress: Progress
) -> Encoders:
    """Load engines, building them if needed; rebuild what load() quarantines, once."""
    for _ in range(2):
        engine_encoders = load(encoders, target, cache)
        if engine_encoders is not None:
            return engine_encoders
        build(encoders, target, cache, progress)
    engine_encoders = load(encoders, target, cache)
    if engine_encoders is None:
        raise BackendError(
            f"{target.name} cannot load the engines that it built: see the log, and use backend:"
            " torch."
        )
    return engine_encoders


def _build_one(
    tower: Tower,
    key: str,
    span: Span,
    target: EngineTarget,
    cache: EngineCache,
    tell: Callable[[float], None],
) -> Path:
    facts = _engine_facts(tower, span, target, cache)
    existing = None if facts is None else cache.get(facts)
    if existing is not None:
        return existing
    export_facts = _export_facts(tower, span, target.precision)
    with cache.scratch({**export_facts, "kind": "onnx, at work"}) as work:
        graph = export_blocks(tower, key, *span, work, None)
        digest = _digest(graph.path)
        cache.build(export_facts, lambda folder: _write(folder / _DIGEST, digest))
        tell(_EXPORT_SHARE)
        shape = tuple(BlockRun(tower, *span).example().shape[1:])

        def make(folder: Path) -> None:
            data = engine.build(
                target.library,
                graph.path,
                shape,
                lambda share: tell(_EXPORT_SHARE + (1 - _EXPORT_SHARE) * share),
            )
            (folder / _ENGINE).write_bytes(data)

        return cache.build(_facts(digest, target), make)


def _export_facts(tower: Tower, span: Span, precision: Precision) -> Mapping[str, str]:
    """Facts that the ONNX file of a range of blocks depends on."""
    return {
        "kind": "onnx",
        "weights": tower.digest,
        "side": str(tower.input.square.size),
        "blocks": f"{span[0]}-{span[1]} of {tower.tokens} tokens",
        "recipe": f"{RECIPE}, opset {OPSET}",
        "precision": precision,
    }


def _engine_facts(
    tower: Tower, span: Span, target: EngineTarget, cache: EngineCache
) -> Mapping[str, str] | None:
    """Facts that the engine of a range of blocks depends on; None if it was never exported."""
    export_entry = cache.get(_export_facts(tower, span, target.precision))
    return None if export_entry is None else _facts((export_entry / _DIGEST).read_text(), target)


def _facts(digest: str, target: EngineTarget) -> Mapping[str, str]:
    return {
        "kind": str(target.library.__name__),
        "onnx": digest,
        "recipe": str(RECIPE),
        "version": str(target.library.__version__),
        "precision": target.precision,
        "profiles": " ".join(map(str, engine.BATCHES)),
        **target.facts,
    }


def _reference_facts(encoders: Encoders) -> Mapping[str, str]:
    towers = {
        key: [
            tower.digest,
            tower.input.square.size,
            tower.block_ranges(key in encoders.grounding_keys),
        ]
        for key, tower in encoders.towers.items()
    }
    return {
        "kind": "reference",
        "towers": json.dumps(towers, sort_keys=True),
        "outputs": encoders.outputs,
        "recipe": str(RECIPE),
    }


def _store_reference(encoders: Encoders, cache: EngineCache) -> None:
    """Store PyTorch's float32 outputs of a frame."""
    facts = _reference_facts(encoders)
    if cache.get(facts) is not None:
        return
    reference = selftest.reference(encoders)
    tensors = {
        f"input.{index}": reference.inputs[encoder_input]
        for index, encoder_input in enumerate(encoders.inputs)
    }
    for name in ("tokens", "siglip", "dino"):
        values = getattr(reference.features, name)
        if values is not None:
            tensors[name] = values
    contiguous = {name: values.contiguous() for name, values in tensors.items()}
    cache.build(facts, lambda folder: save_file(contiguous, folder / _REFERENCE))


def _load_reference(
    encoders: Encoders, device: torch.device, cache: EngineCache
) -> selftest.Reference | None:
    """Load the stored reference onto the device; None if there is none."""
    facts = _reference_facts(encoders)
    entry = cache.get(facts)
    if entry is None:
        return None
    try:
        tensors: dict[str, Tensor] = load_file(entry / _REFERENCE, device=str(device))
    except (SafetensorError, OSError) as error:
        cache.quarantine(facts, str(error))
        return None
    return selftest.Reference(
        {
            encoder_input: tensors[f"input.{index}"]
            for index, encoder_input in enumerate(encoders.inputs)
        },
        Features(tensors.get("tokens"), tensors.get("siglip"), tensors.get("dino")),
    )


@contextlib.contextmanager
def _on_side_stream(device: torch.device) -> Iterator[None]:
    """Run the body on a CUDA stream that is not the default one, and wait for it."""
    if device.type != "cuda":
        yield
        return
    stream = new_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def _is_out_of_memory(error: BackendError) -> bool:
    """True if GPU memory was too small for an engine, which building again does not help."""
    text = str(error).lower()
    return "outofmemory" in text.replace(" ", "").replace("_", "") or "cudamalloc" in text


def _digest(path: Path) -> str:
    """SHA-256 of an ONNX file and its weights."""
    data = path.with_name(path.name + ".data")
    return sha256(path, data) if data.exists() else sha256(path)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
