"""The text input of SigLIP checkpoints: one fast tokenizer that already normalises as they want.

SigLIP's checkpoints were trained on lower-case text without ASCII punctuation, SigLIP 2's on
lower-case text; their own Python tokenizers do that, or leave it to the caller. Here it is part
of the tokenizer, so callers pass plain phrases.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Sequence, Strip
from transformers import PreTrainedTokenizerFast, SiglipTextConfig

from siglip_perception.errors import CheckpointError

_OWN = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SIGLIP = ("SiglipTokenizer", "SiglipTokenizerFast")
_GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast")
_SPECIAL = ("unk_token", "bos_token", "eos_token", "pad_token")


def load_tokenizer(
    folder: Path, data: bytes, settings: Mapping[str, Any], text: SiglipTextConfig
) -> PreTrainedTokenizerFast:
    """A tokenizer that pads on the right to the text context with the checkpoint's pad id.

    data: content of tokenizer.json; settings: content of tokenizer_config.json.
    Raises CheckpointError for a class that is not supported or a file that is broken.
    """
    kind = settings.get("tokenizer_class")
    if kind not in _OWN + _SIGLIP + _GEMMA:
        raise CheckpointError(
            f"The tokenizer class {kind!r} in {folder / 'tokenizer_config.json'} is not"
            f" supported: use one of {', '.join(_OWN + _SIGLIP + _GEMMA)}."
        )
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the Rust library raises plain Exception
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} is not a whole tokenizer: get the model folder again."
        ) from error
    before = _normaliser(str(kind))
    if before is not None:
        own = tokenizer.normalizer
        tokenizer.normalizer = Sequence([*before, own] if own is not None else before)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    special = {name: _token(settings.get(name)) for name in _SPECIAL}
    if special["pad_token"] is None:
        special["pad_token"] = tokenizer.id_to_token(int(text.pad_token_id or 0))
    pad = special["pad_token"]
    if pad is None or tokenizer.token_to_id(pad) is None:
        raise CheckpointError(
            f"The pad token {pad!r} is not in {folder / 'tokenizer.json'}: set pad_token in"
            " tokenizer_config.json or text_config.pad_token_id in config.json."
        )
    if tokenizer.get_vocab_size() > text.vocab_size:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} has {tokenizer.get_vocab_size()} tokens and the text"
            f" tower {text.vocab_size}: they do not belong together."
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=text.max_position_embeddings,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids"],
        **{name: token for name, token in special.items() if token is not None},
    )


def _normaliser(kind: str) -> list[Normalizer] | None:
    if kind in _SIGLIP:
        punctuation = "[" + "".join(f"\\{mark}" for mark in string.punctuation) + "]"
        return [
            Lowercase(),
            Replace(Regex(punctuation), ""),
            Replace(Regex(r"\s+"), " "),
            Strip(),
        ]
    if kind in _GEMMA:
        return [Lowercase()]
    return None


def _token(entry: object) -> str | None:
    """A special token of tokenizer_config.json: a string, or an object with its content."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
