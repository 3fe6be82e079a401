"""Create the embedded default's two encoders and tokenizer, as Hugging Face classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from siglip_perception.scenes.samples.items import TABLETOP

_SIGLIP, _DINOV2 = TABLETOP.encoder("siglip"), TABLETOP.encoder("dinov2")
CONTEXT = 32
_VOCABULARY = 1536
_PAD, _EOS = "<pad>", "</s>"


def new_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the corpus: NFKC, lower case, never out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_PAD, _EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}", special_tokens=[(_EOS, tokenizer.token_to_id(_EOS))]
    )
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Make a tokenizer one of transformers', with what the embedded model's config says."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_EOS,
        model_max_length=CONTEXT,
        padding_side="right",
        model_input_names=["input_ids"],
    )


def new_siglip(tokenizer: PreTrainedTokenizerFast, seed: int) -> SiglipModel:
    """Create a SigLIP of about 3.4 M parameters, with exact GELU and b = -10 as in the paper.

    t' starts at log 20: at the paper's log 10 no pair can reach a probability of one half until
    t' has grown, which would cost a short run its first hundreds of steps.
    """
    torch.manual_seed(seed)
    shape = {
        "hidden_size": _SIGLIP.dim,
        "intermediate_size": 4 * _SIGLIP.dim,
        "num_attention_heads": 3,
        "hidden_act": "gelu",
    }
    config = SiglipConfig(
        text_config={
            **shape,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "projection_size": _SIGLIP.dim,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            **shape,
            "num_hidden_layers": 4,
            "image_size": TABLETOP.image_size,
            "patch_size": _SIGLIP.patch,
        },
    )
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(20.0))
        model.logit_bias.fill_(-10.0)
    return model


def new_dinov2(seed: int) -> Dinov2WithRegistersModel:
    """Create a DINOv2 with four registers, about 1.5 M parameters."""
    torch.manual_seed(seed)
    config = Dinov2WithRegistersConfig(
        hidden_size=_DINOV2.dim,
        num_hidden_layers=3,
        num_attention_heads=3,
        mlp_ratio=4,
        image_size=TABLETOP.image_size,
        patch_size=_DINOV2.patch,
        num_register_tokens=_DINOV2.registers,
    )
    return Dinov2WithRegistersModel(config)


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json and float16 weights; loading converts them to float32."""
    half: Any = copy.deepcopy(model)
    half.half()
    half.config.dtype = torch.float16
    half.save_pretrained(folder)
    # transformers writes weights through a private temporary file: make them readable for all.
    for path in folder.iterdir():
        path.chmod(0o644)
