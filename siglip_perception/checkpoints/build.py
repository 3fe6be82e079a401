"""Building the network of an encoder from its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from siglip_perception.checkpoints import networks, timm
from siglip_perception.checkpoints.architecture import wrapper_prefix
from siglip_perception.checkpoints.configs import EncoderConfig, SiglipVisionConfig
from siglip_perception.checkpoints.folder import Folder
from siglip_perception.checkpoints.layout import EncoderSource, check_shapes
from siglip_perception.checkpoints.networks import Network, Siglip, VisionNetwork
from siglip_perception.checkpoints.tensors import quantized
from siglip_perception.contracts import EncoderSpec
from siglip_perception.errors import CheckpointError, first_line
from siglip_perception.util.oom import available_bytes

# A SigLIP whose text tower is missing, the honest extreme, has a quarter of its bytes; float16
# halves that.
_SIZE_RATIO = 16
_SIZE_SLACK = 64 << 20
_POSITION_IDS = "embeddings.position_ids"
# Parts of tensor names that reveal a modified or foreign model -> what it is, and what to do.
_NAME_ADVICE = (
    (
        ("lora_A", "lora_B", "base_layer"),
        "its LoRA layers were not merged: merge them (PEFT's merge_and_unload) and save"
        " the model again",
    ),
    (
        ("qweight", "qzeros", "SCB", "absmax", "quant_map", "quant_state", "weight_scale"),
        "its weights are quantized: give the unquantized model",
    ),
    (
        ("class_embedding", "visual_projection", "pre_layrnorm"),
        "its weights are CLIP's: give a SigLIP, such as google/siglip2-base-patch16-224",
    ),
    (
        ("classifier",),
        "it is an image classifier: give the model that it was made from, or save its encoder"
        " alone",
    ),
)
_VISION_ALONE = (
    "it is SigLIP's vision tower alone, so make what vision_config holds in its config.json the"
    " whole of it, with model_type 'siglip_vision_model'"
)
# Keys of a config.json that do not change what the model computes.
_IGNORED_KEYS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


_PATCHES = "embeddings.patch_embedding.weight"


@dataclass(frozen=True)
class LoadedEncoder:
    """A loaded encoder.

    whole: the network that the weights were loaded into. vision: its vision tower, or the network
        itself. digest: hex SHA-256 over the vision tower's tensors, without SigLIP's pooling head.
    text_digest: the same over SigLIP's text tower; empty without one. head_digest: over its head.
    """

    whole: Network
    vision: VisionNetwork
    digest: str
    text_digest: str = ""
    head_digest: str = ""


def build(folder: Folder, source: EncoderSource, spec: EncoderSpec | None) -> LoadedEncoder:
    """Read an encoder's tensors and load them: float32, eval mode, without gradients.

    spec: the contract's; required for weights without a configuration. Raises CheckpointError.
    """
    path = folder.path / next(iter(source.files))
    config = _config(source, spec, path)
    network = _unset_network(config, path)
    budget = _Budget(path, network)
    tensors, digests = _tensors(folder, source, budget)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(folder.path / source.part / "config.json", source, shapes)
    budget.check()
    if spec is not None and source.is_timm:
        with _missing_tensors_named(path):
            state = timm.convert(tensors, spec)
    else:
        # Old SigLIP checkpoints store this buffer, which no weight depends on.
        state = {
            name: tensor for name, tensor in tensors.items() if not name.endswith(_POSITION_IDS)
        }
    tensors.clear()
    weight = state.get(_PATCHES)
    if source.facts.has_free_grid and weight is not None:
        patch = source.facts.patch_size
        state[_PATCHES] = weight.reshape(-1, patch, patch, 3).permute(0, 3, 1, 2)
    _fill(network, state, path)
    vision = network.vision_model if isinstance(network, Siglip) else network
    return LoadedEncoder(
        network,
        vision,
        _digest(source, digests),
        _part_digest(digests, ("text_model.",)),
        _part_digest(digests, ("head.", "attn_pool.")),
    )


def _config(source: EncoderSource, spec: EncoderSpec | None, path: Path) -> EncoderConfig:
    """The configuration of its folder, or what the contract and the tensors' shapes say."""
    if source.config is not None:
        return source.config
    if spec is None:
        raise CheckpointError(
            f"{path} comes without an encoder's configuration: name the contract that its tokens"
            " follow."
        )
    with _missing_tensors_named(path):
        if source.is_timm:
            return timm.config(spec, source.shapes)
        return _siglip_config(source, spec)


@contextmanager
def _missing_tensors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise CheckpointError(
            f"{path} does not hold a whole encoder ({reason}): get a fresh copy of the model"
            " folder."
        ) from error


class _Budget:
    """Refusal of weights that do not fit in memory, or whose size is far from the configuration's.

    The network takes what the configuration describes, whatever the file holds; and a file with
    holes costs its maker nothing.
    """

    def __init__(self, path: Path, network: Network) -> None:
        """Take the network's size; it need not have memory for its weights yet."""
        self._path = path
        self._in_memory = 4 * sum(weight.numel() for weight in network.parameters())
        self._in_files = 0

    def admit(self, size: int) -> None:
        """Count bytes that will be read; CheckpointError if they are too many."""
        self._in_files += size
        if self._in_files > _SIZE_RATIO * self._in_memory + _SIZE_SLACK:
            raise self._mismatch()
        available = available_bytes()
        if available is not None and size + self._in_memory > available:
            raise CheckpointError(
                f"{self._path} takes {(size + self._in_memory) / 1e6:,.0f} MB of memory to load,"
                f" and {available / 1e6:,.0f} MB are available: give a smaller model, or free"
                " memory."
            )

    def check(self) -> None:
        """Raise CheckpointError if the files held too little for the configuration's encoder."""
        if self._in_memory > _SIZE_RATIO * self._in_files + _SIZE_SLACK:
            raise self._mismatch()

    def _mismatch(self) -> CheckpointError:
        return CheckpointError(
            f"{self._path} holds {self._in_files / 1e6:,.0f} MB of tensors, and its config.json"
            f" describes an encoder of {self._in_memory / 1e6:,.0f} MB: they do not belong"
            " together, so get a fresh copy of the model folder."
        )


def _tensors(
    folder: Folder, source: EncoderSource, budget: _Budget
) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    digests: dict[str, str] = {}
    for file in source.files:
        file_tensors = folder.read_tensors(
            file, lambda name: name.startswith(source.prefix), budget.admit
        )
        for name, tensor in file_tensors.tensors.items():
            name_in_encoder = name.removeprefix(source.prefix)
            if not tensor.is_floating_point() and not name_in_encoder.endswith(_POSITION_IDS):
                raise quantized(folder.path / file, name, str(tensor.dtype).removeprefix("torch."))
            tensors[name_in_encoder] = tensor
            digests[name_in_encoder] = (
                f"{tensor.dtype} {list(tensor.shape)} {file_tensors.digests[name]}"
            )
    prefix = "" if source.config is None else wrapper_prefix(source.name, tensors)
    return (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
        {name.removeprefix(prefix): digest for name, digest in digests.items()},
    )


def _digest(source: EncoderSource, digests: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    raw = source.raw.get("vision_config", source.raw)
    config = {key: value for key, value in raw.items() if key not in _IGNORED_KEYS}
    total.update(json.dumps(config, sort_keys=True).encode())
    for name, digest in sorted(digests.items()):
        plain = name.removeprefix("vision_model.")
        if name.startswith("text_model.") or plain.startswith(("head.", "attn_pool.", "logit_")):
            continue
        total.update(f"\n{plain} {digest}".encode())
    return total.hexdigest()


def _part_digest(digests: Mapping[str, str], prefixes: tuple[str, ...]) -> str:
    """Hex SHA-256 over the tensors whose names begin so; empty if there are none."""
    lines = [
        f"{plain} {digest}"
        for name, digest in sorted(digests.items())
        if (plain := name.removeprefix("vision_model.")).startswith(prefixes)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _siglip_config(source: EncoderSource, spec: EncoderSpec) -> SiglipVisionConfig:
    heads = spec.heads or source.facts.num_attention_heads
    hidden_act = spec.hidden_act or source.facts.hidden_act
    if not (heads and hidden_act):
        raise CheckpointError(
            "The contract does not say how many heads and which activation siglip has, and the"
            " policy's files do not either (num_attention_heads and hidden_act in the"
            " vision_config of its config.json): name them (heads, hidden_act) in a contract file."
        )
    return SiglipVisionConfig(
        hidden_size=source.facts.hidden_size,
        intermediate_size=source.shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=source.facts.num_hidden_layers,
        num_attention_heads=heads,
        image_size=spec.image_size,
        patch_size=source.facts.patch_size,
        hidden_act=hidden_act,
        layer_norm_eps=spec.layer_norm_eps,
        vision_use_head="head.probe" in source.shapes,
    )


def _unset_network(config: EncoderConfig, path: Path) -> Network:
    """Create the network without memory for its weights; `path` is named in errors."""
    try:
        with torch.device("meta"):
            return networks.create(config)
    except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} and its config.json cannot be loaded ({first_line(error)}):"
            " get a fresh copy of the model folder."
        ) from error


def _fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give the network its tensors, as float32, by transformers' names of any age."""
    state = networks.current_names(network.config, tensors)
    expected = network.state_dict()
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = [
        n for n in sorted(state.keys() & expected.keys()) if state[n].shape != expected[n].shape
    ]
    for names, verb in (
        (sorted(expected.keys() - state.keys()), "lacks"),
        (unexpected, "has unexpected"),
        (misshapen, "has the wrong shape for"),
    ):
        if names:
            no_text = isinstance(network, Siglip) and not any(
                n.startswith("text_model.") for n in state
            )
            advice = _VISION_ALONE if no_text else _advice([*unexpected, *names])
            raise CheckpointError(
                f"{path} {verb} {len(names)} tensor(s), the first {names[0]!r}: {advice}."
            )
    network.load_state_dict({n: t.float() for n, t in state.items()}, assign=True)
    network.eval()
    network.requires_grad_(False)


def _advice(names: Iterable[str]) -> str:
    """Say what to do about tensors that do not fit, by marks in their names."""
    names = list(names)
    for marks, advice in _NAME_ADVICE:
        if any(mark in name for mark in marks for name in names):
            return advice
    return "weights and config.json do not belong together"
