"""Tokenizers of SigLIP checkpoints, which normalize text as in training.

SigLIP was trained on lower-case text without ASCII punctuation, SigLIP 2 on lower-case text
(big_vision: `canonicalize` and `lower`). Some of transformers' classes normalize, some leave it to
the caller, and tokenizer.json may or may not do it. Here the tokenizer always does, so callers
pass plain phrases. If a checkpoint's files disagree, the log says which one was followed.
"""

from __future__ import annotations

import json
import logging
import string
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE, Unigram
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Sequence, Strip
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import is_sentencepiece_available

from siglip_perception.checkpoints.configs import SiglipTextConfig
from siglip_perception.checkpoints.normalizer_growth import MAX_GROWTH, growth
from siglip_perception.errors import CheckpointError, first_line
from siglip_perception.util.panics import PanicError, panics_as_errors

CONFIG, FAST, SENTENCEPIECE = "tokenizer_config.json", "tokenizer.json", "spiece.model"

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SIGLIP = ("SiglipTokenizer", "SiglipTokenizerFast")
_SIGLIP2 = ("Siglip2Tokenizer", "GemmaTokenizer", "GemmaTokenizerFast")
_SPECIAL = ("unk_token", "bos_token", "eos_token", "pad_token")
Family = Literal["siglip", "siglip2", ""]
# Special tokens of transformers' classes, for a tokenizer_config.json that omits them.
_DEFAULTS: Mapping[Family, Mapping[str, str]] = {
    "siglip": {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"},
    "siglip2": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
    },
}
# Letters, marks and scripts that normalizers treat in ways of their own.
_PROBE = string.printable + "\u00e9\u0130\ufdfa \ube68\uac04 \ucef5 \u676f\U0001f600"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizerFiles:
    """Files of a checkpoint's tokenizer.

    settings: content of tokenizer_config.json. fast, sentencepiece: bytes of tokenizer.json and
    spiece.model; None if the file is absent.
    """

    folder: Path
    settings: Mapping[str, Any]
    fast: bytes | None
    sentencepiece: bytes | None


def load_tokenizer(files: TokenizerFiles, text: SiglipTextConfig) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the right, to the text context, with the checkpoint's pad id.

    Raises CheckpointError for an unsupported class, a broken file, or a vocabulary larger than
    the text tower's.
    """
    kind = files.settings.get("tokenizer_class")
    lower = files.settings.get("do_lower_case")
    config = files.folder / CONFIG
    if kind not in (*_GENERIC, *_SIGLIP, *_SIGLIP2):
        raise CheckpointError(
            f"The tokenizer class {kind!r} in {config} is not"
            f" supported: use one of {', '.join(_GENERIC + _SIGLIP + _SIGLIP2)}."
        )
    if lower is not None and not isinstance(lower, bool):
        raise CheckpointError(
            f"do_lower_case in {config} is {lower!r} and must be true or false: correct it."
        )
    sentencepiece = files.sentencepiece if kind in _SIGLIP else None
    if sentencepiece is not None and files.fast is not None and not is_sentencepiece_available():
        _LOGGER.warning(
            "The sentencepiece library, which reads %s, is not installed: %s is followed, which"
            " splits decomposed (NFD) text otherwise; pip install sentencepiece protobuf.",
            files.folder / SENTENCEPIECE,
            FAST,
        )
        sentencepiece = None
    if sentencepiece is not None:
        # As in transformers: the class reads this file, of which tokenizer.json is a conversion.
        return _load_sentencepiece(files, sentencepiece, lower, text)
    if files.fast is not None:
        return _load_fast(files, files.fast, str(kind), lower, text)
    if files.sentencepiece is None:
        raise CheckpointError(
            f"{files.folder / FAST} is missing: SigLIP's text tower needs it, or {SENTENCEPIECE}"
            " with a SiglipTokenizer, so get the folder again."
        )
    raise CheckpointError(
        f"{files.folder / FAST} is missing: the {kind} that {config} names reads that file and"
        f" not {SENTENCEPIECE}, so get it from the model's repository."
    )


def _load_fast(
    files: TokenizerFiles, data: bytes, kind: str, lower: bool | None, text: SiglipTextConfig
) -> PreTrainedTokenizerFast:
    path = files.folder / FAST
    try:
        with panics_as_errors():
            tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the Rust library raises plain Exception
        raise CheckpointError(
            f"{path} is not a whole tokenizer: get a fresh copy of the model folder."
        ) from error
    if tokenizer.normalizer is not None:
        factor = growth(json.loads(tokenizer.normalizer.__getstate__()))
        if factor > MAX_GROWTH:
            raise CheckpointError(
                f"The normalizer in {path} can make a text more than {MAX_GROWTH} times as long:"
                " get a fresh copy of the model folder."
            )
    try:
        with panics_as_errors():
            return _finish_fast(files, tokenizer, kind, lower, text)
    except PanicError as error:
        raise CheckpointError(
            f"{path} is damaged, for the tokenizers library fails on it ({first_line(error)}): get"
            " a fresh copy of the model folder."
        ) from error


def _finish_fast(
    files: TokenizerFiles,
    tokenizer: Tokenizer,
    kind: str,
    lower: bool | None,
    text: SiglipTextConfig,
) -> PreTrainedTokenizerFast:
    path = files.folder / FAST
    special = {name: _token(files.settings.get(name)) for name in _SPECIAL}
    family = _family(kind, tokenizer, special["pad_token"])
    for name, token in _DEFAULTS.get(family, {}).items():
        if special[name] is None and tokenizer.token_to_id(token) is not None:
            special[name] = token
    if special["pad_token"] is None:
        special["pad_token"] = tokenizer.id_to_token(int(text.pad_token_id or 0))
    pad_token = special["pad_token"]
    if pad_token is None or tokenizer.token_to_id(pad_token) is None:
        raise CheckpointError(
            f"The pad token {pad_token!r} is not in {path}: set pad_token in"
            f" {CONFIG} or text_config.pad_token_id in config.json."
        )
    _check_vocabulary(tokenizer.get_vocab_size(), path, text)
    _warn_about_case(files.folder, kind, family, lower, _lowercases(tokenizer))
    normalizers = _normalizers(family, lower)
    if normalizers:
        file_normalizer = tokenizer.normalizer
        tokenizer.normalizer = Sequence(
            [*normalizers, file_normalizer] if file_normalizer is not None else normalizers
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # As in transformers: if the file states one of them, it overrides tokenizer.json.
    end_tokens = {
        name: files.settings[name]
        for name in ("add_bos_token", "add_eos_token")
        if kind not in _SIGLIP and isinstance(files.settings.get(name), bool)
    }
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=text.max_position_embeddings,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids"],
        **end_tokens,
        **{name: token for name, token in special.items() if token is not None},
    )
    tokenizer.encode(_PROBE)  # panics where the character map is damaged
    _warn_about_special_tokens(files.folder, family, fast_tokenizer)
    return fast_tokenizer


def _load_sentencepiece(
    files: TokenizerFiles, data: bytes, lower: bool | None, text: SiglipTextConfig
) -> PreTrainedTokenizerBase:
    """Load transformers' SiglipTokenizer, which runs the sentencepiece library."""
    path = files.folder / SENTENCEPIECE
    try:
        from transformers import SiglipTokenizer

        # The class reads a path: give it a copy of the verified bytes.
        with tempfile.NamedTemporaryFile(suffix=SENTENCEPIECE) as copy:
            copy.write(data)
            copy.flush()
            special = {name: _token(files.settings.get(name)) for name in _SPECIAL}
            tokenizer = SiglipTokenizer(
                copy.name,
                model_max_length=text.max_position_embeddings,
                do_lower_case=lower is not False,
                padding_side="right",
                truncation_side="right",
                model_input_names=["input_ids"],
                **{name: token for name, token in special.items() if token is not None},
            )
    except ImportError as error:
        raise CheckpointError(
            f"{path} needs the sentencepiece library: pip install sentencepiece protobuf, or add"
            f" the model's {FAST} to the folder."
        ) from error
    except Exception as error:  # the C++ library raises errors of many kinds
        raise CheckpointError(
            f"{path} is not a whole sentencepiece model: get a fresh copy of the model folder."
        ) from error
    _check_vocabulary(len(tokenizer), path, text)
    _warn_about_case(files.folder, _SIGLIP[0], "siglip", lower, file_lowercases=False)
    return tokenizer


def _check_vocabulary(size: int, path: Path, text: SiglipTextConfig) -> None:
    if size > text.vocab_size:
        raise CheckpointError(
            f"{path} has {size} tokens and the text"
            f" tower {text.vocab_size}: they do not belong together."
        )


def _family(kind: str, tokenizer: Tokenizer, pad: str | None) -> Family:
    """Tell whose vocabulary it is, SigLIP's or SigLIP 2's; empty for another one.

    A generic class does not say. Then Gemma's vocabulary (BPE with byte fallback and <bos>, <eos>)
    means SigLIP 2, and a unigram one that pads with </s> means SigLIP.
    """
    if kind in _SIGLIP:
        return "siglip"
    if kind in _SIGLIP2:
        return "siglip2"
    model = tokenizer.model
    if isinstance(model, BPE) and model.byte_fallback:
        gemma = all(
            tokenizer.token_to_id(name) is not None for name in ("<bos>", "<eos>", "<pad>")
        )
        return "siglip2" if gemma else ""
    return "siglip" if isinstance(model, Unigram) and pad == "</s>" else ""


def _normalizers(family: Family, lower: bool | None) -> list[Normalizer]:
    """List the normalizers to run before tokenizer.json's own; doing both is harmless."""
    lowercase = lower is not False if family else lower is True
    normalizers: list[Normalizer] = [Lowercase()] if lowercase else []
    if family == "siglip":
        punctuation = "[" + "".join(f"\\{mark}" for mark in string.punctuation) + "]"
        normalizers += [Replace(Regex(punctuation), ""), Replace(Regex(r"\s+"), " "), Strip()]
    return normalizers


def _lowercases(tokenizer: Tokenizer) -> bool:
    """Return whether tokenizer.json's own normalizer lower-cases."""
    normalizer = tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == normalizer.normalize_str(
        "a"
    )


def _warn_about_case(
    folder: Path, kind: str, family: Family, lower: bool | None, file_lowercases: bool
) -> None:
    """Warn if the folder and the model's training disagree about capitals; say which wins.

    stored: whether tokenizer.json's own normalizer lower-cases.
    """
    name = {"siglip": "SigLIP", "siglip2": "SigLIP 2", "": ""}[family]
    if lower is False and file_lowercases:
        _LOGGER.warning(
            "%s says do_lower_case false, and the normalizer of %s lower-cases: the normalizer is"
            " followed, so text is lower-cased.",
            folder / CONFIG,
            FAST,
        )
    elif lower is False and family:
        _LOGGER.warning(
            "%s says do_lower_case false, and %s was trained on lower-case text: the file is"
            " followed, so capitals are kept.",
            folder / CONFIG,
            name,
        )
    elif (
        lower is None
        and not file_lowercases
        and kind not in (*_SIGLIP, "Siglip2Tokenizer")
        and family
    ):
        _LOGGER.warning(
            "%s names a %s, which keeps capitals, and %s was trained on lower-case text: the"
            " training is followed, so text is lower-cased%s.",
            folder / CONFIG,
            kind,
            name,
            " and its ASCII punctuation removed" * (family == "siglip"),
        )


def _warn_about_special_tokens(
    folder: Path, family: Family, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Warn if text begins or ends otherwise than in SigLIP's training: no BOS, one EOS."""
    if not family:
        return
    ids = tokenizer("a")["input_ids"]
    differences = []
    if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id:
        differences.append(f"begins with {tokenizer.bos_token}")
    if tokenizer.eos_token_id is not None and ids[-1] != tokenizer.eos_token_id:
        differences.append(f"does not end with {tokenizer.eos_token}")
    if differences:
        _LOGGER.warning(
            "By the tokenizer in %s text %s, other than in the model's training: the files are"
            " followed.",
            folder,
            " and ".join(differences),
        )


def _token(entry: object) -> str | None:
    """Read a special token of tokenizer_config.json: a string, or an object with its content."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
