"""Select the weights of a SigLIP to train: all, each tower's last layers, or LoRA adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import SiglipModel

from siglip_perception.errors import PerceptionError
from siglip_perception.util import requirements

Tower = Literal["image", "text"]
_MODULES: dict[Tower, str] = {"image": "vision_model", "text": "text_model"}
# Every linear layer of the encoder blocks, but not of the pooling head: nn.MultiheadAttention uses
# its output weight directly and would bypass an adapter.
_LORA_TARGETS = r"{towers}\.encoder\.layers\.\d+\.(self_attn\.\w+_proj|mlp\.fc[12])"


@dataclass(frozen=True)
class Tuning:
    """Selects the weights to train.

    kind: all weights; `last`, the last `layers` blocks and everything after them; or `lora`.
    frozen: towers that are not trained (a frozen image tower is LiT, Zhai et al. 2022).
    rank, alpha, dropout: LoRA's (Hu et al. 2021): W + alpha / rank * B A.
    """

    kind: Literal["all", "last", "lora"] = "all"
    frozen: tuple[Tower, ...] = ()
    layers: int = 2
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0

    def towers(self) -> tuple[Tower, ...]:
        """The towers that are trained at least in part."""
        return tuple(tower for tower in _MODULES if tower not in self.frozen)


def prepare(model: SiglipModel, tuning: Tuning) -> SiglipModel:
    """Set requires_grad on the weights to train, temperature and bias always; insert adapters.

    Raises PerceptionError if peft is not installed or nothing is left to train.
    """
    if not tuning.towers():
        raise PerceptionError("Both towers are frozen: leave one of them out of --freeze.")
    model.requires_grad_(False)
    if tuning.kind == "lora":
        model = _with_lora(model, tuning)
    else:
        for tower in tuning.towers():
            tower_module = getattr(model, _MODULES[tower])
            modules = (
                [tower_module] if tuning.kind == "all" else _last(tower_module, tuning.layers)
            )
            for module in modules:
                module.requires_grad_(True)
    model.logit_scale.requires_grad_(True)
    model.logit_bias.requires_grad_(True)
    return model


def _last(tower: Any, layers: int) -> Iterable[nn.Module]:
    """Yield the last blocks, and the norm and head that follow them."""
    blocks = list(tower.encoder.layers)
    if not 0 <= layers <= len(blocks):
        raise PerceptionError(f"--last-layers has to be from 0 to {len(blocks)} for this model.")
    yield from blocks[len(blocks) - layers :]
    for name in ("post_layernorm", "head", "final_layer_norm"):
        if hasattr(tower, name):
            yield getattr(tower, name)


def _with_lora(model: SiglipModel, tuning: Tuning) -> SiglipModel:
    peft = requirements.load("--tune lora", "peft")
    towers = f"({'|'.join(_MODULES[tower] for tower in tuning.towers())})"
    config = peft.LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=_LORA_TARGETS.format(towers=towers),
    )
    # Injected rather than wrapped, so that the model is still a SiglipModel.
    model_with_adapters: SiglipModel = peft.inject_adapter_in_model(config, model)
    return model_with_adapters


def merge(model: SiglipModel, tuning: Tuning) -> SiglipModel:
    """Merge the adapters into the weights they adapt, in place."""
    if tuning.kind != "lora":
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model
