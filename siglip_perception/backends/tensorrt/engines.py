"""TensorRT on a GPU: an engine for each run of blocks of each tower, out of the engine cache.

Three kinds of entries: what the ONNX export of a run of blocks hashes to, the engine of a graph
for one machine, and PyTorch's own float32 pass over a frame, which every engine has to give
whenever it is loaded (selftest.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from siglip_perception.backends import selftest
from siglip_perception.backends.cache import EngineCache
from siglip_perception.backends.cuda_graph import new_stream
from siglip_perception.backends.onnx_export import OPSET, RECIPE, Run, export_run, narrow
from siglip_perception.backends.select import BF16_CAPABILITY
from siglip_perception.backends.tensorrt import engine
from siglip_perception.backends.tensorrt.probe import load_library, machine, probe
from siglip_perception.encoders.encoders import Encoders, Features, Segment, Tower
from siglip_perception.errors import BackendError
from siglip_perception.types import Precision

Span = tuple[int, int]
# What is being done, and how much of the whole is, in [0, 1].
Progress = Callable[[str, float], None]
_ENGINE, _DIGEST, _REFERENCE = "engine.plan", "onnx.sha256", "reference.safetensors"
# Of the whole of a graph's work, the part that its export takes on a desktop.
_EXPORT_SHARE = 0.2


@dataclass(frozen=True)
class Target:
    """What engines are built for. library: TensorRT's module. facts: of the machine, for keys."""

    library: Any
    device: torch.device
    precision: Precision
    facts: Mapping[str, str]

    @classmethod
    def here(cls, device: torch.device, precision: Precision) -> Target:
        """This machine; BackendError, one sentence, where TensorRT does not run on it."""
        found = probe()
        # Without a GPU TensorRT-RTX builds, but nothing runs what it has built.
        if found.trouble and (device.type == "cuda" or not found.builds):
            raise BackendError(found.trouble)
        if device.type == "cuda" and precision == "bf16":
            capability = torch.cuda.get_device_capability(device)
            if capability < BF16_CAPABILITY:
                raise BackendError(
                    f"{torch.cuda.get_device_name(device)} has no bfloat16: use precision fp16 or"
                    " fp32, or backend: torch."
                )
        return cls.of(found.module, device, precision)

    @classmethod
    def of(cls, name: str, device: torch.device, precision: Precision) -> Target:
        """This machine with the module of that name, which is known to load."""
        return cls(load_library(name), device, precision, machine(device))

    @property
    def name(self) -> str:
        return f"{self.library.__name__} {self.library.__version__}"


def build(
    encoders: Encoders, target: Target, cache: EngineCache, progress: Progress
) -> list[Path]:
    """Build what the cache does not hold yet, for all towers of an Encoders that is not prepared.

    Their products are in the target's precision afterwards. The engines' files. Raises
    BackendError where that cannot be: one sentence.
    """
    progress("PyTorch's float32 pass", 0.0)
    _keep_reference(encoders, cache)
    wanted = [
        (key, tower, span)
        for key, tower in encoders.towers.items()
        for span in tower.parts(key in encoders.reads)
    ]
    made = []
    for index, (key, tower, span) in enumerate(wanted):
        narrow(tower, target.precision)

        def tell(
            share: float, index: int = index, what: str = f"{key}, blocks {span[0]} to {span[1]}"
        ) -> None:
            progress(what, (index + share) / len(wanted))

        tell(0.0)
        made.append(_build_one(tower, key, span, target, cache, tell) / _ENGINE)
        tell(1.0)
    return made


def load(encoders: Encoders, target: Target, cache: EngineCache) -> Encoders | None:
    """The same encoders as engines run them, all passed; None where one has to be built first.

    An engine that TensorRT refuses is put aside, to be built anew. Raises BackendError where they
    give other tokens than PyTorch, and puts them aside, or where the cache cannot be read.
    """
    expected = _reference(encoders, target.device, cache)
    if expected is None:
        return None
    served, used = {}, []
    for key, tower in encoders.towers.items():
        segments: dict[Span, Segment] = {}
        for span in tower.parts(key in encoders.reads):
            facts = _engine_facts(tower, span, target, cache)
            place = None if facts is None else cache.get(facts)
            if facts is None or place is None:
                return None
            shape = (tower.tokens, tower.dim)
            try:
                segments[span] = engine.Engine(
                    target.library, place / _ENGINE, shape, target.device
                )
            except BackendError as error:
                if _is_memory(error):
                    raise
                cache.quarantine(facts, str(error))
                return None
            used.append(facts)
        served[key] = tower.served_by(segments, target.device)
    ready = encoders.served_by(served)
    try:
        with _aside(target.device):
            selftest.check(ready, expected, target.precision, target.name)
    except BackendError as error:
        for facts in used:
            cache.quarantine(facts, str(error), refused=True)
        raise
    return ready


def refusal(encoders: Encoders, target: Target, cache: EngineCache) -> str:
    """Why engines of just these encoders were refused by load(), and are not to be built again by
    whoever only serves; empty where they were not."""
    for key, tower in encoders.towers.items():
        for span in tower.parts(key in encoders.reads):
            facts = _engine_facts(tower, span, target, cache)
            if facts is not None and (why := cache.refusal(facts)):
                return why
    return ""


def load_or_build(
    encoders: Encoders, target: Target, cache: EngineCache, progress: Progress
) -> Encoders:
    """See load and build; what had to be put aside is built anew, once."""
    for _ in range(2):
        ready = load(encoders, target, cache)
        if ready is not None:
            return ready
        build(encoders, target, cache, progress)
    ready = load(encoders, target, cache)
    if ready is None:
        raise BackendError(
            f"{target.name} does not load the engines that it has built itself: see the log, and"
            " use backend: torch."
        )
    return ready


def _build_one(
    tower: Tower,
    key: str,
    span: Span,
    target: Target,
    cache: EngineCache,
    tell: Callable[[float], None],
) -> Path:
    facts = _engine_facts(tower, span, target, cache)
    found = None if facts is None else cache.get(facts)
    if found is not None:
        return found
    exported = _export_facts(tower, span, target.precision)
    with cache.scratch({**exported, "kind": "onnx, at work"}) as work:
        graph = export_run(tower, key, *span, work, None)
        digest = _digest(graph.path)
        cache.build(exported, lambda folder: _write(folder / _DIGEST, digest))
        tell(_EXPORT_SHARE)
        shape = tuple(Run(tower, *span).example().shape[1:])

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
    """What the ONNX file of a run of blocks depends on."""
    return {
        "kind": "onnx",
        "weights": tower.digest,
        "side": str(tower.fed.square.size),
        "blocks": f"{span[0]}-{span[1]} of {tower.tokens} tokens",
        "recipe": f"{RECIPE}, opset {OPSET}",
        "precision": precision,
    }


def _engine_facts(
    tower: Tower, span: Span, target: Target, cache: EngineCache
) -> Mapping[str, str] | None:
    """What the engine of a run of blocks depends on; None where it was never exported."""
    exported = cache.get(_export_facts(tower, span, target.precision))
    return None if exported is None else _facts((exported / _DIGEST).read_text(), target)


def _facts(digest: str, target: Target) -> Mapping[str, str]:
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
        key: [tower.digest, tower.fed.square.size, tower.parts(key in encoders.reads)]
        for key, tower in encoders.towers.items()
    }
    return {
        "kind": "reference",
        "towers": json.dumps(towers, sort_keys=True),
        "outputs": encoders.outputs,
        "recipe": str(RECIPE),
    }


def _keep_reference(encoders: Encoders, cache: EngineCache) -> None:
    """Store what PyTorch makes of a frame in float32."""
    facts = _reference_facts(encoders)
    if cache.get(facts) is not None:
        return
    made = selftest.reference(encoders)
    tensors = {f"input.{index}": made.inputs[one] for index, one in enumerate(encoders.inputs)}
    for name in ("tokens", "siglip", "dino"):
        values = getattr(made.features, name)
        if values is not None:
            tensors[name] = values
    whole = {name: values.contiguous() for name, values in tensors.items()}
    cache.build(facts, lambda folder: save_file(whole, folder / _REFERENCE))


def _reference(
    encoders: Encoders, device: torch.device, cache: EngineCache
) -> selftest.Reference | None:
    """What is stored, on the device; None where nothing is."""
    facts = _reference_facts(encoders)
    found = cache.get(facts)
    if found is None:
        return None
    try:
        tensors: dict[str, Tensor] = load_file(found / _REFERENCE, device=str(device))
    except (SafetensorError, OSError) as error:
        cache.quarantine(facts, str(error))
        return None
    return selftest.Reference(
        {one: tensors[f"input.{index}"] for index, one in enumerate(encoders.inputs)},
        Features(tensors.get("tokens"), tensors.get("siglip"), tensors.get("dino")),
    )


@contextlib.contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a CUDA stream that is not the default one, finished in the end."""
    if device.type != "cuda":
        yield
        return
    stream = new_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def _is_memory(error: BackendError) -> bool:
    """Whether an engine was refused for want of GPU memory, which building anew does not mend."""
    text = str(error).lower()
    return "outofmemory" in text.replace(" ", "").replace("_", "") or "cudamalloc" in text


def _digest(path: Path) -> str:
    """SHA-256 of an ONNX file and of its weights."""
    total = hashlib.sha256()
    for part in (path, path.with_name(path.name + ".data")):
        if part.exists():
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
    return total.hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text)
