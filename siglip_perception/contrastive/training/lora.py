"""Which weights of a SigLIP are trained: all, each tower's last layers, or LoRA beside them."""

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
# Every linear layer of the encoder's blocks. Not the pooling head's: nn.MultiheadAttention reads
# its output layer's weight itself, past any adapter.
_LORA_TARGETS = r"{towers}\.encoder\.layers\.\d+\.(self_attn\.\w+_proj|mlp\.fc[12])"


@dataclass(frozen=True)
class Tuning:
    """kind: all weights; `last`, the last `layers` blocks and what follows them; or `lora`.

    frozen: towers that are not trained at all (a frozen image tower is LiT, Zhai et al. 2022).
    rank, alpha, dropout: LoRA's (Hu et al. 2021): W + alpha / rank * B A.
    """

    kind: Literal["all", "last", "lora"] = "all"
    frozen: tuple[Tower, ...] = ()
    layers: int = 2
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0

    def towers(self) -> tuple[Tower, ...]:
        """The towers of which something is trained."""
        return tuple(tower for tower in _MODULES if tower not in self.frozen)


def prepare(model: SiglipModel, tuning: Tuning) -> SiglipModel:
    """Mark what is trained, temperature and bias always; with LoRA, a model with adapters in it.

    Raises PerceptionError where peft is not installed or there is nothing left to train.
    """
    if not tuning.towers():
        raise PerceptionError("Both towers are frozen: leave one of them out of --freeze.")
    model.requires_grad_(False)
    if tuning.kind == "lora":
        model = _with_lora(model, tuning)
    else:
        for tower in tuning.towers():
            module = getattr(model, _MODULES[tower])
            chosen = [module] if tuning.kind == "all" else _last(module, tuning.layers)
            for part in chosen:
                part.requires_grad_(True)
    model.logit_scale.requires_grad_(True)
    model.logit_bias.requires_grad_(True)
    return model


def _last(tower: Any, layers: int) -> Iterable[nn.Module]:
    """The last blocks, and the norm and head that follow them."""
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
    # Into the model itself, not around it: it stays a SiglipModel for all who use it.
    adapted: SiglipModel = peft.inject_adapter_in_model(config, model)
    return adapted


def merge(model: SiglipModel, tuning: Tuning) -> SiglipModel:
    """The model as plain weights: adapters are added into what they stand beside, in place."""
    if tuning.kind != "lora":
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            adapted: Any = module
            adapted.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, adapted.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model
