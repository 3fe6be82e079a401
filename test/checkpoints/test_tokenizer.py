"""Text ids of SigLIP checkpoints' tokenizers equal those of transformers' own classes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import Lowercase
from transformers import (
    GemmaTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    SiglipTextConfig,
    SiglipTokenizer,
)
from vocabularies import (
    strings,
    write_config,
    write_gemma,
    write_siglip,
    write_siglip_fast,
)

from siglip_perception.checkpoints import tokenizer as tokenizers_
from siglip_perception.checkpoints.tokenizer import (
    CONFIG,
    FAST,
    SENTENCEPIECE,
    TokenizerFiles,
    load_tokenizer,
)
from siglip_perception.errors import CheckpointError

SIGLIP2_CLASSES = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer", "TokenizersBackend")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    write_siglip(folder)
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    write_gemma(folder)
    return folder


def load(folder: Path, context: int = 64, **changes: Any) -> Any:
    """Load a folder's tokenizer with changes to tokenizer_config.json; None removes a key."""

    def content(name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    settings = {**json.loads((folder / CONFIG).read_text()), **changes}
    settings = {key: value for key, value in settings.items() if value is not None}
    files = TokenizerFiles(folder, settings, content(FAST), content(SENTENCEPIECE))
    text = SiglipTextConfig(
        vocab_size=50_000, max_position_embeddings=context, bos_token_id=0, eos_token_id=1
    )
    return load_tokenizer(files, text)


def ids(tokenizer: Any, texts: Sequence[str], context: int = 64) -> list[list[int]]:
    rows = tokenizer(list(texts), padding="max_length", truncation=True, max_length=context)
    return [list(row) for row in rows["input_ids"]]


def lower(texts: Sequence[str]) -> list[str]:
    return [Lowercase().normalize_str(text) for text in texts]


@pytest.mark.parametrize("context", [64, 16])
def test_siglip_2_ids_are_those_of_its_own_class(gemma: Path, context: int) -> None:
    texts = strings()
    assert len(texts) == 200
    assert sum(text != text.lower() for text in texts) > 50
    truth = ids(Siglip2Tokenizer.from_pretrained(gemma), texts, context)
    for kind in SIGLIP2_CLASSES:
        assert ids(load(gemma, context, tokenizer_class=kind), texts, context) == truth
    # Gemma's own class keeps capitals, and agrees once they are taken away.
    assert ids(GemmaTokenizer.from_pretrained(gemma), lower(texts), context) == truth
    assert ids(GemmaTokenizer.from_pretrained(gemma), texts, context) != truth


def test_what_transformers_writes_is_read_back(gemma: Path, tmp_path: Path) -> None:
    """Siglip2Tokenizer as transformers 5 saves it, by its own and by a generic class."""
    original = Siglip2Tokenizer.from_pretrained(gemma)
    original.save_pretrained(tmp_path / "own")
    PreTrainedTokenizerFast.from_pretrained(gemma).save_pretrained(tmp_path / "generic")
    kinds = set()
    for name in ("own", "generic"):
        settings = json.loads((tmp_path / name / CONFIG).read_text())
        kinds.add(settings["tokenizer_class"])
        assert ids(load(tmp_path / name), strings()) == ids(original, strings())
    assert kinds == {"Siglip2Tokenizer", "TokenizersBackend"}


@pytest.mark.parametrize("context", [64, 16])
def test_siglip_ids_are_those_of_its_own_class(siglip: Path, context: int) -> None:
    truth = ids(SiglipTokenizer.from_pretrained(siglip), strings(), context)
    assert ids(load(siglip, context), strings(), context) == truth
    fast = load(siglip, context, tokenizer_class="SiglipTokenizerFast")
    assert ids(fast, strings(), context) == truth


def test_of_both_files_the_class_reads_spiece_model(
    siglip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (CONFIG, SENTENCEPIECE):
        (tmp_path / name).write_bytes((siglip / name).read_bytes())
    write_siglip_fast(tmp_path)
    truth = ids(load(siglip), strings())
    assert ids(load(tmp_path), strings()) == truth
    assert not caplog.records
    monkeypatch.setattr(tokenizers_, "is_sentencepiece_available", lambda: False)
    fast = ids(load(tmp_path), strings())
    assert "sentencepiece library" in caplog.text
    differ = [text for text, a, b in zip(strings(), fast, truth, strict=True) if a != b]
    assert differ == ["\u1107\u1161\u11af\u1100\u1161\u11ab"]  # decomposed Hangul


def test_a_tokenizer_json_under_a_generic_class_is_normalized_as_siglip_was(
    siglip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SENTENCEPIECE).write_bytes((siglip / SENTENCEPIECE).read_bytes())
    write_siglip_fast(tmp_path)
    write_config(tmp_path, tokenizer_class="TokenizersBackend", pad_token="</s>", eos_token="</s>")
    generic = load(tmp_path)
    assert ids(generic, ["A RED Cup!"]) == ids(load(siglip), ["a red cup"])
    assert "the training is followed" in caplog.text


def test_the_cut_keeps_eos_and_padding_is_the_models(siglip: Path, gemma: Path) -> None:
    for folder, eos, pad in ((gemma, 1, 0), (siglip, 1, 1)):
        tokenizer = load(folder, 16)
        long, short = ids(tokenizer, ["red cup " * 30, "red cup"], 16)
        assert len(long) == len(short) == 16
        assert long[-1] == eos
        assert tokenizer.pad_token_id == pad
        end = short.index(eos)
        assert set(short[end + 1 :]) == {pad}


def test_special_tokens_that_are_not_stated_are_the_classes_own(gemma: Path) -> None:
    """The text tower's pad_token_id does not count: SigLIP 2's config.json leaves SigLIP's 1."""
    bare = load(gemma, pad_token=None, eos_token=None, bos_token=None, unk_token=None)
    assert bare.pad_token_id == 0
    assert ids(bare, strings()) == ids(load(gemma), strings())


@pytest.mark.parametrize(
    ("kind", "setting", "is_lower", "says"),
    [
        ("Siglip2Tokenizer", None, True, ""),
        ("Siglip2Tokenizer", True, True, ""),
        ("GemmaTokenizer", True, True, ""),
        ("GemmaTokenizer", None, True, "keeps capitals.*the training is followed"),
        ("TokenizersBackend", True, True, ""),
        ("TokenizersBackend", None, True, "keeps capitals.*the training is followed"),
        ("GemmaTokenizer", False, False, "do_lower_case false.*file is followed"),
        ("Siglip2Tokenizer", False, False, "do_lower_case false.*file is followed"),
    ],
)
def test_the_log_says_whose_capitals_were_followed(
    gemma: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    setting: bool | None,
    is_lower: bool,
    says: str,
) -> None:
    tokenizer = load(gemma, tokenizer_class=kind, do_lower_case=setting)
    a, b = ids(tokenizer, ["RED Cup", "red cup"])
    assert (a == b) == is_lower
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == bool(says)
    assert all(re.search(says, line) for line in lines)


def test_do_lower_case_of_spiece_model_is_followed(
    siglip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load(siglip, do_lower_case=False)
    truth = SiglipTokenizer.from_pretrained(siglip, do_lower_case=False)
    assert ids(tokenizer, strings()) == ids(truth, strings())
    assert "do_lower_case false" in caplog.text


@pytest.mark.parametrize(("bos", "eos"), [(False, True), (True, False), (True, True)])
def test_the_ends_that_the_config_states_are_followed(
    gemma: Path, caplog: pytest.LogCaptureFixture, bos: bool, eos: bool
) -> None:
    tokenizer = load(gemma, add_bos_token=bos, add_eos_token=eos)
    truth = Siglip2Tokenizer.from_pretrained(gemma, add_bos_token=bos, add_eos_token=eos)
    assert ids(tokenizer, strings()) == ids(truth, strings())
    assert ("other than in the model's training" in caplog.text) == (bos or not eos)


def test_a_vocabulary_of_another_kind_is_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign vocabulary is normalized only as its files state."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "Cup": 1, "cup": 2, "!": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / FAST))
    write_config(tmp_path, tokenizer_class="TokenizersBackend", pad_token="<pad>")
    assert ids(load(tmp_path), ["Cup!"], 4) == [[1, 3, 0, 0]]
    assert ids(load(tmp_path, do_lower_case=True), ["Cup!"], 4) == [[2, 3, 0, 0]]
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ({"do_lower_case": "yes"}, (SENTENCEPIECE,), "do_lower_case .* is 'yes' .* true or false"),
        ({"tokenizer_class": ["x"]}, (SENTENCEPIECE,), r"tokenizer class \['x'\] .*not supported"),
        ({"tokenizer_class": "CLIPTokenizer"}, (SENTENCEPIECE,), "'CLIPTokenizer'.*not supported"),
        (
            {"tokenizer_class": "GemmaTokenizer"},
            (SENTENCEPIECE,),
            "tokenizer.json is missing: the",
        ),
        ({}, (), "tokenizer.json is missing.* spiece.model"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(
    siglip: Path, tmp_path: Path, changes: dict[str, Any], files: tuple[str, ...], message: str
) -> None:
    for name in (CONFIG, *files):
        (tmp_path / name).write_bytes((siglip / name).read_bytes())
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, **changes)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"{}"])
def test_a_broken_vocabulary_is_named(siglip: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CONFIG).write_bytes((siglip / CONFIG).read_bytes())
    (tmp_path / SENTENCEPIECE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"spiece\.model is not a whole sentencepiece model"):
        load(tmp_path)
    (tmp_path / SENTENCEPIECE).unlink()
    (tmp_path / FAST).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a whole tokenizer"):
        load(tmp_path)
