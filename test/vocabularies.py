"""Small real tokenizers in stock checkpoints' files, trained here: none can be downloaded."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer

WORDS = [
    *("red", "blue", "green", "cup", "bowl", "plate", "spoon", "the", "a", "photo", "of", "pick"),
    *("up", "and", "put", "it", "on", "left", "right", "small", "large", "box", "apple", "café"),
    *(
        "naïve",
        "it's",
        "don't",
        "10",
        "25",
        "3.5",
        "빨간",
        "파란",
        "컵을",
        "그릇",
        "접시",
        "집어라",
    ),
    *("놓아라", "世界", "こんにちは", "Ελλάδα", "straße"),
]


def corpus() -> list[str]:
    """Lower-case lines, as SigLIP was trained on them."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))).lower() for _ in range(1500)]


def strings() -> list[str]:
    """200 that tokenizers differ on: capitals, Korean, emoji, punctuation, white space, length."""
    edges = [
        *(
            "",
            " ",
            "A",
            "!!!",
            "Red CUP!",
            "  two   spaces  ",
            "tab\tnew\nline",
            "빨간 컵을 집어라",
        ),
        *(
            "빨간  컵, 파란 그릇.",
            "\u1107\u1161\u11af\u1100\u1161\u11ab",
            "☕️ 🍎",
            "👨‍👩‍👧 FAMILY",
            "🇰🇷",
        ),
        *("Ｆｕｌｌ Ｗｉｄｔｈ", "ﬁne ﬂow", "½ ㎏ ①", "NAÏVE Café", "e\u0301 N\u0303", "İstanbul"),
        *("Straße STRASSE", "こんにちは 世界", "ｶﾞ ガ", "don't DON'T", "it's; a (photo) of: 'x'"),
        *("a\u00a0b", "a\u200bb", "\ufeffbom", "x_y-z/w", "3.5 10,000", "▁ a▁b", "Ǆ ǅ", "ﷺ"),
        *("cup " * 80, "컵" * 90, "A!" * 70, "🍎" * 66, "Red Cup " * 31 + "x", "word" * 40),
    ]
    rng = random.Random(1)
    marks = ["", ".", "!", " ", ", ", " 🍎", "\n", "—", "…", "'s", "?!"]
    while len(edges) < 200:
        words = rng.choices(WORDS, k=rng.randint(1, 12))
        cased = [rng.choice((word, word.upper(), word.title())) for word in words]
        edges.append("".join(word + rng.choice(marks) + " " for word in cased))
    return edges


def write_config(folder: Path, **settings: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_siglip(folder: Path) -> None:
    """spiece.model and tokenizer_config.json as google/siglip-* have them: unigram, nmt_nfkc."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    write_config(
        folder,
        tokenizer_class="SiglipTokenizer",
        do_lower_case=True,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        processor_class="SiglipProcessor",
        sp_model_kwargs={},
        model_input_names=["input_ids"],
    )


def write_siglip_fast(folder: Path) -> None:
    """tokenizer.json of the spiece.model that is there, in transformers' conversion of one."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "spiece.model").read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_gemma(folder: Path, name: str = "GemmaTokenizer") -> None:
    """tokenizer.json and tokenizer_config.json as google/siglip2-* have them: BPE with bytes."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=500))
    model = json.loads(trained.to_str())["model"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    tokenizer = GemmaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in model["merges"]],
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_max_length=64,
        do_lower_case=True,
        processor_class="SiglipProcessor",
    )
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_config(folder, **{**settings, "tokenizer_class": name})
