"""Small models with random weights, of the real classes: for plumbing, never for accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from siglip_perception import checkpoints

WIDTH = 192
_SHAPE = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "hidden_act": "gelu",
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: NFKC, lower case, </s> at the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=32,
        model_input_names=["input_ids"],
    )


def random_siglip(vocabulary: int) -> SiglipModel:
    """A SigLIP that keeps the contract tabletop."""
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return SiglipModel(
        SiglipConfig(
            text_config={
                **_SHAPE,
                **ends,
                "vocab_size": vocabulary,
                "max_position_embeddings": 32,
                "projection_size": WIDTH,
            },
            vision_config={**_SHAPE, "image_size": 216, "patch_size": 12},
        )
    )


def random_dinov2() -> Dinov2WithRegistersModel:
    """A DINOv2 that keeps the contract tabletop."""
    return Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=3,
            mlp_ratio=2,
            image_size=216,
            patch_size=12,
            num_register_tokens=4,
        )
    )


def write_random_model(folder: Path, seed: int = 0) -> None:
    """Write a whole model folder of about 1 M parameters, float16, with its manifest."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    random_siglip(len(tokenizer)).half().save_pretrained(folder / "siglip")
    random_dinov2().half().save_pretrained(folder / "dinov2")
    tokenizer.save_pretrained(folder / "siglip")
    numbers = {"affinity_scale": 10.0, "affinity_bias": -5.0}
    (folder / "grounding.json").write_text(json.dumps(numbers))
    checkpoints.write_manifest(folder)
